"""Training on soft labels: which tokens they belong to, micro-batches, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.data.targets import SoftTargets
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.training.batches import flatten_rows
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings, cross_entropy
from ensemw2s.training.settings import TrainSettings

ROWS = [EncodedRow("a", [5, 6, 7, 8], 2), EncodedRow("b", [9, 3], 1), EncodedRow("c", [4, 4, 4, 11, 12, 13], 3)]
SOFT = SoftTargets(
    torch.arange(12).reshape(6, 2) % 20,
    torch.tensor([[0.7, 0.2], [0.5, 0.5], [0.9, 0.0], [0.4, 0.1], [0.6, 0.3], [1.0, 0.0]]),
)


def model() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                      max_position_embeddings=16, hidden_dropout=0.0, attention_dropout=0.0)
    )  # fmt: skip


def test_soft_labels_stay_with_their_tokens() -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0, 1.0])
    flat = flatten_rows(ROWS, weights, 0, SOFT)
    micro = flat.micro_batch(torch.tensor([2, 0]).numpy())
    assert micro.labels.tolist() == [12, 13, 7]
    assert micro.soft_ids is not None
    assert micro.soft_probs is not None
    assert micro.soft_ids.tolist() == [SOFT.ids[4].tolist(), SOFT.ids[5].tolist(), SOFT.ids[0].tolist()]
    assert torch.equal(micro.soft_probs, SOFT.probs[[4, 5, 0]])
    assert flatten_rows(ROWS, weights, 0).micro_batch(torch.tensor([0]).numpy()).soft_ids is None


@pytest.mark.parametrize(
    "name", ["cross_entropy", "product", "uncertainty_smoothing", "adaptive_confidence", "confidence"]
)
def test_micro_batches_change_nothing(name: str) -> None:
    loss = LossSettings(name, targets="soft")
    trained = []
    for micro in (None, 1):
        settings = TrainSettings(epochs=3, batch_size=3, micro_batch_size=micro, learning_rate=1e-2)
        net = model()
        fine_tune(net, ROWS, settings, seed=1, pad_token_id=0, loss=loss, soft=SOFT)
        trained.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*trained, atol=2e-5, rtol=1e-4)


def test_soft_labels_teach_their_distribution() -> None:
    net = model()
    settings = TrainSettings(epochs=250, batch_size=3, learning_rate=1e-2, gradient_clip=None)
    fine_tune(net, ROWS, settings, seed=1, pad_token_id=0, loss=LossSettings(targets="soft"), soft=SOFT)
    with torch.no_grad():
        p = net(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    assert p[SOFT.ids[0]].tolist() == pytest.approx(SOFT.probs[0].tolist(), abs=0.06)


def test_what_cannot_be_trained_is_refused() -> None:
    settings = TrainSettings(epochs=1)
    with pytest.raises(ConfigError, match="learns from a teacher's probabilities, and there are none"):
        fine_tune(model(), ROWS, settings, seed=0, pad_token_id=0, loss="product")
    with pytest.raises(DataError, match="given for 5 tokens, but the rows have 6"):
        fine_tune(model(), ROWS, settings, seed=0, pad_token_id=0, loss="product",
                  soft=SoftTargets(SOFT.ids[:5], SOFT.probs[:5]))  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "probs", "words"),
    [
        (SOFT.ids[:, 0], SOFT.probs[:, 0], "ids of shape [6] and probabilities of shape [6]"),
        (SOFT.ids, SOFT.probs[:, :1], "ids of shape [6, 2] and probabilities of shape [6, 1]"),
        (SOFT.ids[:, :0], SOFT.probs[:, :0], "with k at least 1"),
        (SOFT.ids, SOFT.probs * 2, "sum to at most 1"),
        (SOFT.ids, SOFT.probs - 0.5, "not negative"),
        (SOFT.ids, SOFT.probs / 0.0, "finite"),
        (SOFT.ids, SOFT.probs * float("nan"), "finite"),
        (SOFT.ids * 0, SOFT.probs, "all different within a token"),
        (-SOFT.ids - 1, SOFT.probs, "at least 0"),
    ],
)
def test_soft_labels_that_are_no_distributions_are_refused(ids: torch.Tensor, probs: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError) as caught:
        flatten_rows(ROWS, None, 0, SoftTargets(ids, probs))
    assert words in str(caught.value)


def test_soft_labels_in_other_types_become_int64_and_float32() -> None:
    flat = flatten_rows(ROWS, None, 0, SoftTargets(SOFT.ids.int(), SOFT.probs.double()))
    assert flat.soft is not None
    assert (flat.soft.ids.dtype, flat.soft.probs.dtype) == (torch.int64, torch.float32)
    assert torch.equal(flat.soft.ids, SOFT.ids)
    flatten_rows(ROWS, None, 0, SoftTargets(SOFT.ids, SOFT.probs.bfloat16()))  # sums of 1.002


def test_more_tokens_than_the_vocabulary_are_refused() -> None:
    every = SoftTargets(torch.arange(21).expand(6, 21), torch.full((6, 21), 1 / 21))
    loss, settings = LossSettings(targets="soft"), TrainSettings(epochs=1)
    with pytest.raises(ConfigError, match="name 21 tokens a position, but the model has 20"):
        fine_tune(model(), ROWS, settings, seed=0, pad_token_id=0, loss=loss, soft=every)
    other = SoftTargets(every.ids[:, -2:], every.probs[:, -2:])
    with pytest.raises(ConfigError, match="name token 20, but the model's ids end at 19"):
        fine_tune(model(), ROWS, settings, seed=0, pad_token_id=0, loss=loss, soft=other)
    whole = SoftTargets(every.ids[:, :20], every.probs[:, :20])
    fine_tune(model(), ROWS, settings, seed=0, pad_token_id=0, loss=loss, soft=whole)


def test_looking_at_the_vocabulary_leaves_dropout_as_it_was() -> None:
    """Certain soft labels and hard ones are one loss; with dropout they stay so only if both draw alike."""
    labels = torch.tensor(
        [[row.input_ids[place]] for row in ROWS for place in range(row.prompt_length, len(row.input_ids))]
    )
    nets = [model(), model()]
    for net, (loss, soft) in zip(
        nets,
        ((LossSettings(), None), (LossSettings(targets="soft"), SoftTargets(labels, torch.ones(6, 1)))),
        strict=True,
    ):
        for part in net.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.4
        fine_tune(net, ROWS, TrainSettings(epochs=2), seed=0, pad_token_id=0, loss=loss, soft=soft)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_progress_is_the_share_of_steps_done(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def watch(batch: LossBatch, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(batch.progress)
        return cross_entropy(batch, settings)

    monkeypatch.setitem(LOSSES._items, "watch", watch)
    settings = TrainSettings(epochs=4, batch_size=3, micro_batch_size=2)
    fine_tune(model(), ROWS, settings, seed=0, pad_token_id=0, loss="watch")
    assert seen == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_hard_losses_leave_soft_labels_alone() -> None:
    nets = [model(), model()]
    for net, soft in zip(nets, (None, SOFT), strict=True):
        fine_tune(net, ROWS, TrainSettings(epochs=2), seed=0, pad_token_id=0, soft=soft)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)

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
from ensemw2s.training.losses import LossSettings
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


def test_hard_losses_leave_soft_labels_alone() -> None:
    nets = [model(), model()]
    for net, soft in zip(nets, (None, SOFT), strict=True):
        fine_tune(net, ROWS, TrainSettings(epochs=2), seed=0, pad_token_id=0, soft=soft)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)

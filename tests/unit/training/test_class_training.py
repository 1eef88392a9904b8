"""Training over classes: what a class model is fed, and the balance of classes over a whole optimiser step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.data.targets import SoftTargets
from ensemw2s.errors import ConfigError
from ensemw2s.training import losses
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings, over_step
from ensemw2s.training.settings import TrainSettings

PAD = 19
ROWS = [  # ids of prompts begin at 5: neither a class index nor the padding can be mistaken for one of them
    EncodedRow(str(place), [*prompt, label], len(prompt))
    for place, (prompt, label) in enumerate(
        [([5, 6], 1), ([7, 8, 9], 0), ([10], 1), ([11, 12], 0), ([13, 5, 14], 0), ([6, 7, 8, 9], 0), ([15, 5], 1), ([8], 0)]
    )
]  # fmt: skip
SOFT = SoftTargets(torch.tensor([[row.input_ids[-1]] for row in ROWS]), torch.tensor([[0.9], [0.6], [0.7], [0.8]] * 2))
STEP = TrainSettings(max_steps=1, batch_size=8, shuffle=False, gradient_clip=None, warmup_fraction=0.0)


class Classes(nn.Module):
    """The mean of what was read so far, and a linear layer to the classes, at every position."""

    def __init__(self, classes: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embed, self.score = nn.Embedding(20, 6), nn.Linear(6, classes)
        self.dropout = nn.Dropout(dropout)
        self.fed: list[Tensor] = []
        self.masks: list[Tensor | None] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = True) -> Any:
        assert not use_cache
        self.fed.append(input_ids)
        self.masks.append(attention_mask)
        read = self.embed(input_ids).cumsum(dim=1) / torch.arange(1, input_ids.shape[1] + 1)[None, :, None]
        return SimpleNamespace(logits=self.score(self.dropout(read)))


def train(model: Any, settings: TrainSettings, **options: Any) -> Any:
    return fine_tune(model, ROWS, settings, **{"seed": 1, "pad_token_id": PAD, **options})


def gradient(settings: TrainSettings, model: Any = None, **options: Any) -> Tensor:
    """The gradient of the first optimiser step."""
    found: list[Tensor] = []
    model = model or Classes()

    def spy(*_: Any, **__: Any) -> None:
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        train(model, settings, **options)
    return found[0]


def test_the_class_is_never_fed() -> None:
    model = Classes()
    result = train(model, TrainSettings(epochs=2, batch_size=3))
    assert result.tokens == 2 * sum(row.prompt_length for row in ROWS)
    assert result.answer_tokens == 2 * len(ROWS)
    fed = torch.cat([ids.flatten() for ids in model.fed])
    assert int(fed.min()) >= 5
    prompts = {tuple(row.input_ids[: row.prompt_length]) for row in ROWS}
    assert {tuple(t for t in row.tolist() if t != PAD) for ids in model.fed for row in ids} == prompts


def test_one_step_is_the_cross_entropy_of_the_classes() -> None:
    model = Classes()
    logits = torch.cat([model(torch.tensor([row.input_ids[:-1]]), use_cache=False).logits[:, -1] for row in ROWS])
    labels = torch.tensor([row.input_ids[-1] for row in ROWS])
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for micro in (None, 3):
        settings = TrainSettings(max_steps=1, batch_size=8, micro_batch_size=micro, gradient_clip=None)
        torch.testing.assert_close(gradient(settings), expected, atol=1e-6, rtol=1e-5)


def test_it_learns_classes() -> None:
    model = Classes()
    train(model, TrainSettings(epochs=200, batch_size=8, learning_rate=0.05))
    for row in ROWS:
        assert (
            int(model(torch.tensor([row.input_ids[:-1]]), use_cache=False).logits[0, -1].argmax()) == row.input_ids[-1]
        )


# -- the threshold of "confidence" --------------------------------------------------------------------------


def hardened(margins: list[float], yes: list[float], *, soft: SoftTargets | None = None) -> list[int]:
    """The classes the loss hardens to, read off its gradient: p - target with all weight on the student's own."""
    logits = torch.tensor([[0.0, margin] for margin in margins], dtype=torch.float64, requires_grad=True)
    settings = LossSettings("confidence", "soft" if soft else "hard", weight=1.0)
    batch = LossBatch(logits, torch.tensor(yes).long(), torch.ones(len(yes)), *(soft or (None, None)), progress=1.0)
    LOSSES.get("confidence")(batch, settings)[0].backward()
    assert logits.grad is not None
    target = logits.detach().softmax(1) - logits.grad
    torch.testing.assert_close(target, target.round(), atol=1e-12, rtol=0)
    return target[:, 1].round().int().tolist()


def test_as_many_are_class_one_as_the_teacher_says() -> None:
    """All five look like class 1 to the student, the teacher says two are: the two likeliest are hardened so."""
    assert hardened([2.0, 3.0, 1.0, 5.0, 0.5], [0, 1, 0, 0, 1]) == [0, 1, 0, 1, 0]
    assert hardened([-2.0, -3.0, -1.0], [1, 1, 0]) == [1, 0, 1]
    assert hardened([2.0, -3.0], [0, 0]) == [0, 0]
    assert hardened([2.0, -3.0], [1, 1]) == [1, 1]


def test_the_threshold_is_the_published_quantile() -> None:
    """An independent form: class 0 where p(0) reaches the quantile of p(0) at the teacher's share of class 1."""
    draw = torch.Generator().manual_seed(0)
    for size in (2, 5, 12, 31):
        margins = torch.randn(size, generator=draw, dtype=torch.float64)
        yes = torch.rand(size, generator=draw) < 0.4
        yes[0], yes[1] = True, False
        p_zero = torch.sigmoid(-margins)
        expected = p_zero < torch.quantile(p_zero, yes.double().mean())
        assert hardened(margins.tolist(), yes.tolist()) == expected.int().tolist()


def test_extreme_logits_are_still_told_apart() -> None:
    """Probabilities of 1 are all equal; the logits behind them are not."""
    assert hardened([500.0, 400.0, 300.0], [1, 0, 0]) == [1, 0, 0]


def test_tokens_tied_at_the_threshold_stay_together() -> None:
    assert hardened([1.0, 1.0, 1.0], [1, 0, 0]) == [0, 0, 0]
    assert hardened([2.0, 1.0, 1.0], [1, 0, 0]) == [1, 0, 0]


@pytest.mark.parametrize(
    ("ids", "probs"),
    [
        ([[1, 0], [0, 1], [0, 1]], [[0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]),
        ([[1], [0], [0]], [[0.9], [0.6], [0.6]]),  # of two classes, the one not named has the rest
    ],
)
def test_soft_labels_are_counted_by_their_probabilities(ids: list[list[int]], probs: list[list[float]]) -> None:
    soft = SoftTargets(torch.tensor(ids), torch.tensor(probs))
    assert hardened([1.0, 3.0, 2.0], [0, 0, 0], soft=soft) == [0, 1, 1]  # .9 + .4 + .4 is nearest to 2


def test_more_classes_are_hardened_each_for_itself() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 1.0]], dtype=torch.float64)
    batch = LossBatch(logits, torch.tensor([0, 0]), torch.ones(2), progress=1.0)
    total, _ = LOSSES.get("confidence")(batch, LossSettings("confidence", weight=1.0))
    torch.testing.assert_close(total, -logits.log_softmax(1)[:, 1].sum())


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_the_balance_belongs_to_the_step_and_not_to_the_micro_batch(targets: Any) -> None:
    loss = LossSettings("confidence", targets, weight=0.8, warmup=0.0)
    whole = gradient(STEP, loss=loss, soft=SOFT)
    for micro in (1, 3, 7):
        cut = TrainSettings(**{**vars(STEP), "micro_batch_size": micro})
        torch.testing.assert_close(gradient(cut, loss=loss, soft=SOFT), whole, atol=1e-6, rtol=1e-5)
    # Balanced within each single row the labels themselves would be the target: the test above could not fail.
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(losses.confidence, "overview")
        alone = gradient(TrainSettings(**{**vars(STEP), "micro_batch_size": 1}), loss=loss, soft=SOFT)
    assert float((alone - whole).abs().max()) > 1e-3


def test_the_first_look_leaves_dropout_as_it_was() -> None:
    cut = TrainSettings(epochs=3, batch_size=4, micro_batch_size=2, learning_rate=0.01)
    seen = []
    for loss in (LossSettings("confidence", weight=0.0, warmup=0.0), LossSettings()):
        model = Classes(dropout=0.5)
        train(model, cut, loss=loss)
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(seen[0], seen[1], atol=1e-6, rtol=0)


def test_the_first_look_sees_what_the_second_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, the step's margins must be those of the pass with gradient."""
    pairs: list[tuple[Tensor, Tensor]] = []
    inner = losses._balance

    def spy(batch: LossBatch, settings: LossSettings) -> Tensor:
        own = inner(batch, settings)
        assert own is not None
        if batch.step is not None:
            pairs.append((own, batch.step))
        return own

    monkeypatch.setattr(losses, "_balance", spy)
    train(Classes(dropout=0.5), TrainSettings(max_steps=1, batch_size=8, micro_batch_size=3, shuffle=False),
          loss=LossSettings("confidence", warmup=0.0))  # fmt: skip
    assert [len(own) for own, _ in pairs] == [3, 3, 2]
    torch.testing.assert_close(torch.cat([own for own, _ in pairs]), pairs[0][1])


def test_only_those_pay_for_the_first_look_who_need_it() -> None:
    def passes(loss: LossSettings, classes: int = 2, micro: int | None = 2) -> int:
        model = Classes(classes)
        train(model, TrainSettings(epochs=2, batch_size=4, micro_batch_size=micro), loss=loss)
        return len(model.fed)

    plain = passes(LossSettings())
    assert passes(LossSettings("confidence"), micro=None) == passes(LossSettings(), micro=None)
    assert passes(LossSettings("confidence")) == plain + 8  # two epochs of four micro-batches
    assert passes(LossSettings("confidence"), classes=3) == plain + 1  # asked once, and never again


def test_a_plug_in_may_look_over_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor | None] = []

    @over_step(lambda batch, settings: batch.labels[:, None].float())
    def peer(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
        seen.append(batch.step)
        return losses.cross_entropy(batch, settings)

    monkeypatch.setitem(LOSSES._items, "peer", peer)
    train(Classes(), TrainSettings(**{**vars(STEP), "micro_batch_size": 5}), loss="peer")
    labels = [[float(row.input_ids[-1])] for row in ROWS]
    assert [None if step is None else step.tolist() for step in seen] == [labels, labels]
    seen.clear()
    train(Classes(), STEP, loss="peer")
    assert seen == [None]


def test_soft_labels_of_other_classes_are_refused() -> None:
    soft = LossSettings(targets="soft")
    three = SoftTargets(torch.tensor([[0, 1, 2]] * 8), torch.full((8, 3), 0.3))
    with pytest.raises(ConfigError, match=r"name 3 tokens a position, but the model has 2: lower loss\.top_k"):
        train(Classes(), STEP, loss=soft, soft=three)
    other = SoftTargets(torch.tensor([[0, 7]] * 8), torch.full((8, 2), 0.3))
    with pytest.raises(ConfigError, match="name token 7, but the model's ids end at 1"):
        train(Classes(), STEP, loss=soft, soft=other)
    train(Classes(3), STEP, loss=soft, soft=three)
    train(Classes(), STEP, soft=other)  # unused, so not looked at

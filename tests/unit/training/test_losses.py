"""Every loss: values worked by hand, gradients in float64, limits in which one becomes another, extreme logits."""

from __future__ import annotations

import math

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losskit import NAMES, VOCAB, K, M, at, batch, value
from torch import Tensor

from ensemw2s.errors import ConfigError
from ensemw2s.registry import Registry
from ensemw2s.training import losses
from ensemw2s.training.events import events
from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings


@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("name", ["cross_entropy", "uncertainty_smoothing"])
def test_gradients_of_losses_without_a_stopped_target(name: str, targets: str) -> None:
    b = batch()
    settings = LossSettings(name, targets=targets)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(
        lambda logits: LOSSES.get(name)(at(logits, b), settings)[0], b.logits.clone().requires_grad_()
    )


@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("name", ["confidence", "product", "adaptive_confidence"])
def test_gradients_with_the_stopped_target_held_still(name: str, targets: str) -> None:
    """The gradient must be the one of a cross-entropy against the target (and mix) found at this point, held fixed."""
    b = batch(3)
    settings = LossSettings(name, targets=targets)  # type: ignore[arg-type]
    logits = b.logits.clone().requires_grad_()
    LOSSES.get(name)(at(logits, b), settings)[0].backward()

    log_p = b.logits.log_softmax(dim=1)
    full = torch.zeros_like(log_p).scatter(1, b.soft_ids, b.soft_probs)

    def taught(own: Tensor) -> Tensor:
        if targets == "hard":
            return -own.gather(1, b.labels[:, None])[:, 0]
        tail = torch.where(full > 0, -torch.inf, own).logsumexp(dim=1)
        return -(full * own).sum(dim=1) - (1 - full.sum(dim=1)) * tail

    if name == "confidence":
        share = torch.full((M,), settings.weight, dtype=torch.float64)
    elif name == "adaptive_confidence":
        label = -log_p.gather(1, b.labels[:, None])[:, 0]
        mine = -log_p.max(dim=1).values
        share = mine.exp() / (mine.exp() + label.exp())
    held = log_p.argmax(dim=1)
    if name == "product":
        p, q = events(b.logits, b.soft_ids, b.soft_probs)
        target = (p.exp() * q) / (p.exp() * q).sum(dim=1, keepdim=True)

    other = b.logits.clone().requires_grad_()
    own = other.log_softmax(dim=1)
    if name == "product":
        tail = torch.where(full > 0, -torch.inf, own).logsumexp(dim=1, keepdim=True)
        loss = -(target * torch.cat([own.gather(1, b.soft_ids), tail], dim=1)).sum(dim=1)
    else:
        loss = (1 - share) * taught(own) + share * -own.gather(1, held[:, None])[:, 0]
    (loss * b.weights).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)


def test_cross_entropy_by_hand() -> None:
    p = torch.tensor([[0.5, 0.3, 0.1, 0.1]], dtype=torch.float64)
    one = LossBatch(p.log(), torch.tensor([1]), torch.tensor([2.0]), torch.tensor([[1, 0]]), torch.tensor([[0.6, 0.3]]))
    assert float(value("cross_entropy", one)) == pytest.approx(-math.log(0.3))
    expected = -(0.6 * math.log(0.3) + 0.3 * math.log(0.5) + 0.1 * math.log(0.2))
    assert float(value("cross_entropy", one, targets="soft")) == pytest.approx(expected, rel=1e-6)
    total, weight = LOSSES.get("cross_entropy")(one, LossSettings())
    assert float(total) == pytest.approx(-2 * math.log(0.3))
    assert float(weight) == 2.0


def test_product_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    one = LossBatch(
        p.log(), torch.tensor([0]), torch.ones(1), torch.tensor([[1]]), torch.tensor([[0.8]], dtype=torch.float64)
    )
    # events: token 1 and the tail {0, 2}: p = .25, .75; q = .8, .2; target ∝ .2, .15 = 4/7, 3/7
    expected = -(4 / 7 * math.log(0.25) + 3 / 7 * math.log(0.75))
    assert float(value("product", one)) == pytest.approx(expected)
    # exponents 2 and 1/2: target ∝ .64 · .5, .04 · √.75
    first, second = 0.64 * 0.5, 0.04 * math.sqrt(0.75)
    expected = -(first * math.log(0.25) + second * math.log(0.75)) / (first + second)
    assert float(value("product", one, alpha=2.0, beta=0.5)) == pytest.approx(expected)
    # alpha = 1, beta = 0 forgets the student: soft cross-entropy
    assert float(value("product", one, beta=0.0)) == pytest.approx(float(value("cross_entropy", one, targets="soft")))


def test_product_with_an_exponent_of_zero_forgets_that_side() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    sure = LossBatch(
        p.log(),
        torch.tensor([0]),
        torch.ones(1),
        torch.tensor([[1, 0]]),
        torch.tensor([[1.0, 0.0]], dtype=torch.float64),
    )
    # teacher forgotten, also where it holds an event impossible: the student's own entropy over 1, 0 and the tail 2
    entropy = -(0.25 * math.log(0.25) + 0.5 * math.log(0.5) + 0.25 * math.log(0.25))
    assert float(value("product", sure, alpha=0.0)) == pytest.approx(entropy)
    assert float(value("product", sure, beta=0.0)) == pytest.approx(-math.log(0.25))
    # both forgotten: three equal events
    even = -(math.log(0.25) + math.log(0.5) + math.log(0.25)) / 3
    assert float(value("product", sure, alpha=0.0, beta=0.0)) == pytest.approx(even)


def test_product_where_student_and_teacher_share_nothing_is_the_teacher() -> None:
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]], dtype=torch.float64)
    one = LossBatch(logits, torch.tensor([1]), torch.ones(1), torch.tensor([[1]]), torch.tensor([[1.0]]))
    assert float(value("product", one)) == math.inf  # the teacher's cross-entropy, and no silent 0


def test_adaptive_confidence_by_hand() -> None:
    p = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    one = LossBatch(p.log(), torch.tensor([1]), torch.ones(1))
    own, label = -math.log(0.6), -math.log(0.3)
    share = (1 / 0.6) / (1 / 0.6 + 1 / 0.3)
    assert float(value("adaptive_confidence", one)) == pytest.approx((1 - share) * label + share * own)


def test_uncertainty_smoothing_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    one = LossBatch(
        p.log(),
        torch.tensor([0]),
        torch.ones(1),
        torch.tensor([[0, 2]]),
        torch.tensor([[0.6, 0.4]], dtype=torch.float64),
    )
    smooth = 0.5 * 0.4
    mean = -(math.log(0.5) + 2 * math.log(0.25)) / 3
    assert float(value("uncertainty_smoothing", one)) == pytest.approx((1 - smooth) * -math.log(0.5) + smooth * mean)


def test_confidence_warms_up_linearly() -> None:
    b = batch(1)
    plain = value("cross_entropy", b)
    assert float(value("confidence", b._replace(progress=0.0))) == pytest.approx(float(plain))
    own = -b.logits.log_softmax(1).max(dim=1).values
    hardened = (own * b.weights).sum() / b.weights.sum()
    half = value("confidence", b._replace(progress=0.1), weight=0.6, warmup=0.2)
    assert float(half) == pytest.approx(float(0.7 * plain + 0.3 * hardened))
    assert float(value("confidence", b, weight=1.0)) == pytest.approx(float(hardened))
    assert float(value("confidence", b._replace(progress=0.0), weight=1.0, warmup=0.0)) == pytest.approx(
        float(hardened)
    )


def test_adaptive_confidence_trusts_the_teacher_more_the_more_they_disagree() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0], [99.0, 0.0, 0.0]], dtype=torch.float64)
    at_label = []
    for row in logits:
        x = row[None].clone().requires_grad_()
        LOSSES.get("adaptive_confidence")(LossBatch(x, torch.tensor([1]), torch.ones(1)), LossSettings())[0].backward()
        # d/dx_1 = p_1 - (1 - b), as the target holds 1 - b on token 1
        assert x.grad is not None
        at_label.append(float(x.detach().softmax(1)[0, 1] - x.grad[0, 1]))
    # b = p(label) / (p(label) + p(own)): 1/2, 1/(1 + e), ...
    assert at_label == pytest.approx([1 - 1 / (1 + math.exp(margin)) for margin in (0, 1, 9, 99)])


def test_smoothing_is_torchs_own_with_one_value_a_token() -> None:
    b = batch(4)
    settings = LossSettings("uncertainty_smoothing", weight=0.7)
    for place in range(M):
        one = LossBatch(*(part[place : place + 1] for part in b[:5]), b.progress)  # type: ignore[index]
        value_smooth = 0.7 * (1 - float(b.soft_probs[place, 0]))
        expected = torch.nn.functional.cross_entropy(one.logits, one.labels, label_smoothing=value_smooth)
        total, weight = LOSSES.get("uncertainty_smoothing")(one, settings)
        torch.testing.assert_close(total / weight, expected)


def test_a_label_the_teacher_does_not_name_is_smoothed_in_full() -> None:
    b = batch(4)
    unnamed = b._replace(labels=b.soft_ids[:, 0], soft_ids=b.soft_ids[:, 1:], soft_probs=b.soft_probs[:, 1:])
    each = torch.nn.functional.cross_entropy(b.logits, unnamed.labels, label_smoothing=0.4, reduction="none")
    torch.testing.assert_close(
        value("uncertainty_smoothing", unnamed, weight=0.4), (each * b.weights).sum() / b.weights.sum()
    )


def test_hard_cross_entropy_is_the_plain_one_to_the_last_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        b = batch(9, dtype=torch.float32)
        logits = b.logits.to(dtype)
        plain = (torch.nn.functional.cross_entropy(logits.float(), b.labels, reduction="none") * b.weights).sum()
        total, weight = LOSSES.get("cross_entropy")(LossBatch(logits, b.labels, b.weights), LossSettings())
        assert torch.equal(total, plain)
        assert torch.equal(weight, b.weights.sum())


def test_soft_cross_entropy_is_least_where_the_student_is_the_teacher() -> None:
    """Gibbs: -Σ q log p >= -Σ q log q, equal and without gradient at p = q, however the tail is shared out."""
    b = batch(10)
    tail = (1 - b.soft_probs.sum(dim=1, keepdim=True)) / (VOCAB - K)
    own = tail.expand(M, VOCAB).scatter(1, b.soft_ids, b.soft_probs).log().requires_grad_()
    least = LOSSES.get("cross_entropy")(at(own, b), LossSettings(targets="soft"))[0]
    least.backward()
    assert own.grad is not None
    assert float(own.grad.abs().max()) < 1e-12
    for seed in range(20):
        other = LOSSES.get("cross_entropy")(at(batch(seed).logits, b), LossSettings(targets="soft"))[0]
        assert float(other) > float(least.detach())


@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50), scale=st.floats(0.1, 10))
@hypothesis.settings(max_examples=20)
def test_what_every_loss_keeps(name: str, targets: str, seed: int, shift: float, scale: float) -> None:
    """Logits have no zero point, weights no unit, no loss is negative, and none prefers a shift of all logits."""
    b = batch(seed)
    logits = b.logits.clone().requires_grad_()
    loss = value(name, at(logits, b), targets=targets)
    loss.backward()
    assert float(loss.detach()) >= 0
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.sum(dim=1), torch.zeros(M, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(value(name, at(b.logits + shift, b), targets=targets), loss)
    torch.testing.assert_close(value(name, b._replace(weights=b.weights * scale), targets=targets), loss)


@pytest.mark.parametrize("name", ["cross_entropy", "confidence", "adaptive_confidence"])
def test_certain_soft_labels_are_hard_labels(name: str) -> None:
    b = batch(2)
    certain = b._replace(soft_probs=torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(M, K))
    torch.testing.assert_close(value(name, certain, targets="soft"), value(name, b))


def test_the_whole_vocabulary_has_no_tail() -> None:
    b = batch(5, k=VOCAB)
    full = torch.zeros(M, VOCAB, dtype=torch.float64).scatter(1, b.soft_ids, b.soft_probs)
    expected = torch.nn.functional.cross_entropy(b.logits, full, reduction="none")
    torch.testing.assert_close(
        value("cross_entropy", b, targets="soft"), (expected * b.weights).sum() / b.weights.sum()
    )


def test_additive_is_the_log_loss_of_the_sum() -> None:
    """Against cross-entropy of the sum written out, with the whole vocabulary named; the teacher stays fixed."""
    b, beta = batch(7, k=VOCAB), 0.3
    logits = b.logits.clone().requires_grad_()
    fixed = torch.zeros(M, VOCAB, dtype=torch.float64).scatter(1, b.soft_ids, b.soft_probs).log()
    nll = torch.nn.functional.cross_entropy(fixed + beta * logits, b.labels, reduction="none")
    expected = (nll * b.weights).sum() / b.weights.sum()
    (slope,) = torch.autograd.grad(expected, logits)
    found = value("additive", at(logits, b), beta=beta)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], slope)
    torch.testing.assert_close(value("additive", b, beta=0.0), value("additive", at(b.logits * 3, b), beta=0.0))


def test_additive_alone_is_cross_entropy() -> None:
    b = batch(8, k=VOCAB)
    flat = b._replace(soft_probs=torch.full_like(b.soft_probs, 1 / VOCAB))
    torch.testing.assert_close(value("additive", flat), value("cross_entropy", b))


def test_additive_by_hand_with_a_tail() -> None:
    """The sum says 0.5, 0.2 and 0.3 for all others; the new expert 0.1, 0.6 and 0.3; it counts half."""
    logits = torch.tensor([[0.1, 0.6, 0.2, 0.1]], dtype=torch.float64).log()
    ids, probs = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    one = LossBatch(logits, torch.tensor([1]), torch.ones(1, dtype=torch.float64), ids, probs)
    parts = [0.5 * 0.1**0.5, 0.2 * 0.6**0.5, 0.3 * 0.3**0.5]
    assert float(value("additive", one, beta=0.5)) == pytest.approx(-math.log(parts[1] / sum(parts)))


def test_additive_wants_the_label_named() -> None:
    b = batch(9)
    unnamed = b.soft_ids.new_tensor([next(v for v in range(VOCAB) if v not in row) for row in b.soft_ids.tolist()])
    with pytest.raises(ConfigError, match="needs the label among the teacher's tokens"):
        value("additive", b._replace(labels=unnamed))


@pytest.mark.parametrize("name", ["confidence", "uncertainty_smoothing"])
def test_a_weight_of_zero_is_cross_entropy(name: str) -> None:
    b = batch(6)
    torch.testing.assert_close(value(name, b, weight=0.0), value("cross_entropy", b))


@pytest.mark.parametrize("k", [1, 2, VOCAB - 1])
def test_the_tail_is_one_event(k: int) -> None:
    """Against the sum of the unnamed tokens' probabilities, worked out plainly."""
    b = batch(11, k=k)
    p = b.logits.softmax(dim=1)
    expected = []
    for row in range(M):
        named = b.soft_ids[row].tolist()
        q = b.soft_probs[row].tolist()
        rest = sum(float(p[row, v]) for v in range(VOCAB) if v not in named)
        each = [-one * math.log(float(p[row, v])) for v, one in zip(named, q, strict=True)]
        expected.append(float(b.weights[row]) * (sum(each) - (1 - sum(q)) * math.log(rest)))
    total, _ = LOSSES.get("cross_entropy")(b, LossSettings(targets="soft"))
    assert float(total) == pytest.approx(math.fsum(expected))


def test_a_tail_below_float32s_resolution_keeps_its_logarithm() -> None:
    """p of the tail is about e^-40: 1 - Σ would be 0, and its logarithm -inf."""
    logits = torch.tensor([[40.0, 0.0, 0.0]])
    log_p, q = events(logits, torch.tensor([[0]]), torch.tensor([[0.75]]))
    assert log_p.tolist() == [pytest.approx([0.0, math.log(2) - 40])]
    assert q.tolist() == [[0.75, 0.25]]


@pytest.mark.parametrize("name", ["cross_entropy", "product"])
def test_what_both_rule_out_costs_nothing(name: str) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0]], requires_grad=True)
    one = LossBatch(logits, torch.tensor([1]), torch.ones(1), torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.0]]))
    loss = value(name, one, targets="soft")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert logits.grad is not None
    assert logits.grad.tolist() == [pytest.approx([0.0, -0.5, 0.5])]


def test_a_sum_of_probabilities_above_one_leaves_no_negative_tail() -> None:
    _, q = events(torch.zeros(1, 3), torch.tensor([[0, 1]]), torch.tensor([[0.8, 0.2000001]]))
    assert float(q[0, 2]) == 0.0


@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("name", NAMES)
def test_order_and_grouping_of_tokens_do_not_matter(name: str, targets: str) -> None:
    b = batch(7)
    settings = LossSettings(name, targets=targets)  # type: ignore[arg-type]
    whole = LOSSES.get(name)(b, settings)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = LOSSES.get(name)(LossBatch(*(part[order] for part in b[:5]), b.progress), settings)
    parts = [LOSSES.get(name)(LossBatch(*(part[at] for part in b[:5]), b.progress), settings)
             for at in (slice(0, 2), slice(2, 5))]  # fmt: skip
    for place in range(2):
        torch.testing.assert_close(moved[place], whole[place])
        torch.testing.assert_close(parts[0][place] + parts[1][place], whole[place])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_stay_finite(name: str, targets: str, dtype: torch.dtype) -> None:
    b = batch(8, dtype=torch.float32)
    logits = torch.full((M, VOCAB), -300.0)
    logits[torch.arange(M), torch.tensor([0, 1, 2, 3, 4])] = 300.0
    certain = torch.tensor([[1.0, 0.0, 0.0]]).expand(M, K)
    for probs in (b.soft_probs, certain):
        wild = LossBatch(logits.to(dtype).requires_grad_(), b.labels, b.weights, b.soft_ids, probs, 0.9)
        total, _ = LOSSES.get(name)(wild, LossSettings(name, targets=targets))  # type: ignore[arg-type]
        total.backward()
        assert total.isfinite()
        assert wild.logits.grad is not None
        assert wild.logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "confidnce"}, "loss.name: .* did you mean 'confidence'"),
        ({"name": 3}, "loss.name"),
        ({"targets": "soggy"}, "unknown loss.targets"),
        ({"top_k": 0}, "loss.top_k must be"),
        ({"weight": 1.5}, r"loss.weight must lie in \[0, 1\]"),
        ({"warmup": -0.1}, "loss.warmup"),
        ({"weight": math.nan}, "loss.weight"),
        ({"weight": "0.5"}, "loss.weight must lie in .* got '0.5'"),
        ({"warmup": True}, "loss.warmup must lie in .* got True"),
        ({"warmup": 1.01}, "loss.warmup"),
        ({"top_k": 2.0}, "loss.top_k must be a whole number"),
        ({"top_k": True}, "loss.top_k"),
        ({"alpha": math.inf}, "loss.alpha"),
        ({"alpha": "1"}, "loss.alpha must be a finite number of at least 0, got '1'"),
        ({"beta": -1.0}, "loss.beta"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossSettings(**settings)


def test_which_losses_want_a_teacher() -> None:
    assert {name for name in NAMES if LossSettings(name).needs_soft} == {"additive", "product", "uncertainty_smoothing"}
    assert LossSettings(targets="soft").needs_soft
    for name, targets in (("product", "hard"), ("uncertainty_smoothing", "hard"), ("cross_entropy", "soft")):
        with pytest.raises(ConfigError, match="teacher's probabilities"):
            value(name, batch()._replace(soft_ids=None), targets=targets)


def test_a_plug_in_is_one_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh: Registry = Registry("losses")
    monkeypatch.setattr(losses, "LOSSES", fresh)
    fresh.register("cross_entropy")(losses.cross_entropy)

    @fresh.register("margin")
    def margin(b: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
        return b.logits.sum() * 0 + settings.weight, b.weights.sum()

    assert not LossSettings("margin").needs_soft
    fresh.register("soft margin")(losses.wants_soft(lambda b, settings: margin(b, settings)))
    assert LossSettings("soft margin").needs_soft

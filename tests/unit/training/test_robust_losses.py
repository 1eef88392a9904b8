"""Losses for labels that are partly wrong: values worked by hand, slopes, and which losses have such a form."""

from __future__ import annotations

import math

import pytest
import torch
from losskit import NAMES, M, at, batch, value

from ensemw2s.errors import ConfigError
from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings, check_robustness, robust_cost


def test_robust_cost_by_hand() -> None:
    log_p = torch.tensor([0.0, -1.0, -300.0, -math.inf], dtype=torch.float64)
    half = [0.0, 2 * (1 - math.exp(-0.5)), 2.0, 2.0]
    assert robust_cost(log_p, 0.5).tolist() == pytest.approx(half)
    assert robust_cost(log_p, 1.0).tolist() == pytest.approx([0.0, 1 - math.exp(-1), 1.0, 1.0])
    assert robust_cost(log_p[:3], 0.0).tolist() == [0.0, 1.0, 300.0]
    assert robust_cost(log_p[:2], 1e-9).tolist() == pytest.approx([0.0, 1.0])  # its limit, without loss of digits


@pytest.mark.parametrize(
    ("name", "targets"), [("cross_entropy", "hard"), ("cross_entropy", "soft"), ("additive", "hard")]
)
@pytest.mark.parametrize("robustness", [0.3, 1.0])
def test_robust_losses_have_the_slope_of_the_log_loss_times_its_share(
    name: str, targets: str, robustness: float
) -> None:
    """Checked by differences, and for one token against p^q times the plain slope (Zhang & Sabuncu 2018)."""
    b = batch(11)._replace(robustness=robustness)
    settings = LossSettings(name, targets=targets, beta=0.5)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(
        lambda logits: LOSSES.get(name)(at(logits, b), settings)[0], b.logits.clone().requires_grad_()
    )
    if targets == "hard":
        logits = b.logits.clone().requires_grad_()
        plain = LOSSES.get(name)(at(logits, b._replace(robustness=0.0)), settings)[0]
        (slope,) = torch.autograd.grad(plain, logits)
        each = [float(value(name, b._replace(robustness=0.0, weights=torch.eye(M)[i]), beta=0.5)) for i in range(M)]
        (found,) = torch.autograd.grad(LOSSES.get(name)(at(logits, b), settings)[0], logits)
        share = torch.tensor([math.exp(-robustness * nats) for nats in each], dtype=torch.float64)
        torch.testing.assert_close(found, slope * share[:, None])


def test_robust_soft_cross_entropy_by_hand() -> None:
    """The teacher says 0.5, 0.2 and 0.3 for all others; the student 0.1, 0.6 and 0.3."""
    logits = torch.tensor([[0.1, 0.6, 0.2, 0.1]], dtype=torch.float64).log()
    ids, probs = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    one = LossBatch(logits, torch.tensor([1]), torch.ones(1, dtype=torch.float64), ids, probs, robustness=0.5)
    expected = sum(q * (1 - p**0.5) / 0.5 for q, p in ((0.5, 0.1), (0.2, 0.6), (0.3, 0.3)))
    assert float(value("cross_entropy", one, targets="soft")) == pytest.approx(expected)


def test_a_label_that_is_ruled_out_is_given_up() -> None:
    logits = torch.tensor([[40.0, 0.0], [0.5, 0.0]], dtype=torch.float64).requires_grad_()
    both = LossBatch(logits, torch.tensor([1, 1]), torch.ones(2, dtype=torch.float64), robustness=0.7)
    LOSSES.get("cross_entropy")(both, LossSettings())[0].backward()
    assert logits.grad is not None
    impossible, doubtful = logits.grad.abs().sum(dim=1).tolist()
    assert impossible < 1e-10 < 0.1 < doubtful


def test_impossible_tokens_without_mass_leave_a_finite_slope() -> None:
    logits = torch.tensor([[0.3, -math.inf, 0.1]]).requires_grad_()
    one = LossBatch(logits, torch.tensor([0]), torch.ones(1), torch.tensor([[0, 1]]), torch.tensor([[0.6, 0.0]]),
                    robustness=0.7)  # fmt: skip
    LOSSES.get("cross_entropy")(one, LossSettings(targets="soft"))[0].backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_only_what_has_a_robust_form_is_made_robust() -> None:
    for name in NAMES:
        check_robustness(0.0, name)
        if name in ("additive", "cross_entropy"):
            check_robustness(0.7, name)
        else:
            with pytest.raises(ConfigError, match=f"0.7 and loss '{name}' has no robust form: use loss.name=cro"):
                check_robustness(0.7, name)

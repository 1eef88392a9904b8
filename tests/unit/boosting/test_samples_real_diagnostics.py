"""Row-level samples, SAMME.R by hand, and the signs of trouble."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.boosting import diagnostics as signs
from ensemw2s.boosting.real import real_margins, update_real
from ensemw2s.boosting.rounds import BoostSettings, Judged, boosting_step, next_weights
from ensemw2s.boosting.samples import Samples
from ensemw2s.boosting.weights import uniform_weights
from ensemw2s.errors import ConfigError

OFFSETS = torch.tensor([0, 2, 3, 6])


def test_rows_are_wrong_where_any_token_is() -> None:
    rows = Samples("row", OFFSETS)
    wrong = torch.tensor([0, 1, 0, 0, 0, 0], dtype=torch.bool)
    assert rows.wrong(wrong).tolist() == [True, False, False]
    assert len(rows) == 3
    assert rows.to_tokens(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1, 1, 2, 3, 3, 3]
    assert rows.share_tokens(torch.tensor([1.0, 2.0, 3.0])).tolist() == [0.5, 0.5, 2, 1, 1, 1]
    tokens = Samples("token", OFFSETS)
    assert len(tokens) == 6
    assert tokens.wrong(wrong) is wrong
    assert tokens.owner.tolist() == [0, 0, 1, 2, 2, 2]


def samme_r_by_definition(
    weights: list[float], probs: list[list[float]], labels: list[int], rate: float
) -> list[float]:
    """Algorithm 4 of Zhu et al. (2009), written out with its coded labels."""
    classes = len(probs[0])
    new = []
    for w, p, c in zip(weights, probs, labels, strict=True):
        coded = [1.0 if k == c else -1 / (classes - 1) for k in range(classes)]
        inner = math.fsum(y * math.log(q) for y, q in zip(coded, p, strict=True))
        new.append(w * math.exp(-rate * (classes - 1) / classes * inner))
    return [w / math.fsum(new) for w in new]


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_samme_r_is_algorithm_4_for_three_rounds(rate: float) -> None:
    draw = torch.Generator().manual_seed(2)
    labels = [0, 2, 1, 3, 3]
    weights, expected = uniform_weights(5), [0.2] * 5
    settings = BoostSettings(form="real", shrinkage=rate, prior="none")
    for number in range(1, 4):
        p = torch.rand(5, 4, generator=draw, dtype=torch.float64) + 0.05
        p = p / p.sum(dim=1, keepdim=True)
        label_p = p[torch.arange(5), torch.tensor(labels)].log()
        margins = real_margins(label_p, p.log().mean(dim=1))
        wrong = p.argmax(dim=1) != torch.tensor(labels)
        wrong[0] = False  # keeps every round's expert better than chance, whatever was drawn
        record, weights = boosting_step(weights, wrong & False, 0.0, settings, round_number=number, margins=margins)
        if record.stops:  # a perfect expert: the weights are moved by hand then
            weights = next_weights(weights, wrong, 1.0, settings, margins)
        expected = samme_r_by_definition(expected, p.tolist(), labels, rate)
        assert weights.tolist() == pytest.approx(expected)


def test_samme_r_by_hand() -> None:
    # Two classes, label first: p = .8 and .3. Margins log p - mean = ½ log(p/(1-p)): ½ log 4 and ½ log 3/7.
    p = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    margins = real_margins(p[:, 0].log(), p.log().mean(dim=1))
    assert margins.tolist() == pytest.approx([0.5 * math.log(4), 0.5 * math.log(3 / 7)])
    moved = update_real(uniform_weights(2), margins)
    raw = [math.exp(-0.5 * math.log(4)), math.exp(-0.5 * math.log(3 / 7))]
    assert moved.tolist() == pytest.approx([raw[0] / sum(raw), raw[1] / sum(raw)])


def test_kept_experts_of_the_real_form_weigh_the_same() -> None:
    settings = BoostSettings(form="real", prior="none")
    margins = torch.tensor([1.0, -1.0, 0.5, 0.2], dtype=torch.float64)
    record, _ = boosting_step(uniform_weights(4), torch.tensor([0, 1, 0, 0], dtype=torch.bool), 0.0, settings,
                              round_number=2, margins=margins)  # fmt: skip
    assert (record.outcome, record.alpha) == ("ok", 1.0)
    with pytest.raises(ValueError, match="margins"):
        next_weights(uniform_weights(2), torch.tensor([True, False]), 1.0, settings)


def test_zero_probabilities_and_row_level_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"1 of 2 tokens have a class of probability 0"):
        real_margins(torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -math.inf]))
    with pytest.raises(ConfigError, match="needs a probability for every class"):
        BoostSettings(form="real", level="row")
    for field, value in (("level", "word"), ("error_on", "test"), ("form", "soft")):
        with pytest.raises(ConfigError, match=f"unknown boost.{field}"):
            BoostSettings(**{field: value})


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.05, 1))
def test_real_weights_sum_to_one_and_fall_with_the_margin(margins: list[float], rate: float) -> None:
    found = update_real(uniform_weights(len(margins)), torch.tensor(margins, dtype=torch.float64), rate)
    assert float(found.sum()) == pytest.approx(1)
    order = sorted(range(len(margins)), key=lambda i: margins[i])
    values = found[torch.tensor(order)]
    assert bool((values.diff() <= 1e-12).all())


def test_the_error_is_measured_where_it_is_said() -> None:
    wrong = torch.tensor([1, 0, 0, 0], dtype=torch.bool)
    judged = Judged(torch.tensor([0.0, 0.5, 0.5]), torch.tensor([1, 1, 0], dtype=torch.bool))
    record, after = boosting_step(uniform_weights(4), wrong, 1.0, BoostSettings(shrinkage=1.0), judged=judged)
    assert record.error == pytest.approx(0.5)
    # The training weights move by the training errors and that alpha: log(1) + 1.
    assert after[0] / after[1] == pytest.approx(math.e)


def test_agreement_and_error_correlation_by_hand() -> None:
    tops = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0], [9, 9, 9, 9]])
    assert signs.pairwise_agreement(tops)[0].tolist() == [1.0, 0.5, 0.0]
    wrong = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    found = signs.error_correlation(wrong)
    assert found[0, 1].item() == pytest.approx(0.25 / math.sqrt(0.25 * 0.1875) * 0.5)
    assert found[0, 2].item() == 0
    assert found.diagonal().tolist() == [1, 1, 1]
    assert signs.off_diagonal_mean(torch.eye(1)) is None


def test_labels_that_keep_growing_are_found_heaviest_first() -> None:
    history = [uniform_weights(4)]
    always, sometimes = torch.tensor([0, 1, 0, 1], dtype=torch.bool), torch.tensor([1, 1, 0, 0], dtype=torch.bool)
    for wrong, alpha in ((always, 1.0), (sometimes, 1.0)):
        history.append(next_weights(history[-1], wrong, alpha, BoostSettings(shrinkage=1.0)))
    found = signs.growing_samples(history)
    assert [entry.sample for entry in found] == [1]
    assert found[0].growth == pytest.approx(float(history[-1][1] / history[0][1]))
    assert signs.growing_samples(history[:1]) == []


def test_warnings() -> None:
    narrow = torch.tensor([0.97] + [0.03 / 99] * 99, dtype=torch.float64)
    alike = torch.zeros(2, 100, dtype=torch.int64)
    wrong = torch.zeros(2, 100, dtype=torch.bool)
    wrong[:, :5] = True
    lines = signs.warn([uniform_weights(100), narrow], alike, wrong, [0.05, 0.4])
    assert [word in " ".join(lines) for word in ("effective sample size 1 of 100", "collapsed", "too alike")] == [
        True
    ] * 3
    # Experts that are added are specialists: only being alike is a bad sign.
    (line,) = signs.warn([uniform_weights(100), narrow], alike, wrong, [0.05, 0.4], specialists=True)
    assert "too alike" in line
    fine = torch.arange(200).reshape(2, 100)
    assert (
        signs.warn([uniform_weights(100)] * 2, fine, wrong.roll(50, 1) & torch.tensor([[1], [0]]).bool(), [0.05, 0.06])
        == []
    )

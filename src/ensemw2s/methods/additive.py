"""Boosting by adding log-probabilities: each expert is trained on what the sum of those before leaves to explain.

    F_1 = log p_1,   F_t = F_{t-1} + ν log p_t,   p_t minimises Σ -log softmax(F_{t-1} + ν log p)(label)

Forward stagewise additive modelling, the scheme that AdaBoost and SAMME are cases of with the exponential loss
(Friedman, Hastie & Tibshirani 2000, Annals of Statistics 28(2); Zhu et al. 2009), here with the log loss that language
models are trained on, shrinkage ν (Friedman 2001, Annals of Statistics 29(5)) and every expert started from the
pretrained weak model. Not in the EnsemW2S paper.

Where labels are wrong, what is left to explain is the wrong labels. With ``training.robustness`` = q above 0 experts
minimise Σ (1 - p(label)^q) / q of the sum (generalised cross-entropy, Zhang & Sabuncu 2018), which gives up on labels
that the sum finds unlikely.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ensemw2s.boosting.error import weighted_error
from ensemw2s.boosting.rounds import BoostSettings, RoundRecord
from ensemw2s.boosting.samples import Samples
from ensemw2s.boosting.weights import effective_sample_size, uniform_weights
from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.errors import DataError
from ensemw2s.methods.bench import Bench, Expert, Members, base_of
from ensemw2s.methods.boosted import Boosted, alike
from ensemw2s.seeds import derive_seed
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings


def boost_additive(
    bench: Bench,
    rows: Sequence[Row],
    settings: BoostSettings,
    training: TrainSettings,
    *,
    seed: int,
    turns: Sequence[int] = (0,),
) -> Boosted:
    """Train ``settings.rounds`` experts, each added to the sum of those before it.

    The first is an ordinary expert with alpha 1, the others have alpha ν = ``settings.shrinkage``. No round stops
    early: the log loss has something left to explain as long as a label is not certain. A record's error is the
    expert's own, weighted by what it was asked to explain; its prior term is 0.

    Args:
        bench: does the work.
        rows: labelled.
        settings: rounds, shrinkage and top_k.
        training: every expert's budget.
        seed: run seed.
        turns: pretrained weak models that experts start from, over and over. The first counts most: its expert has
            alpha 1, and the others learn what it leaves.

    Raises:
        DataError: the rows hold no answer token.
    """
    pretrained = bench.token_table(bench.pretrained("weak", turns[0]), rows)
    if len(pretrained.label) == 0:
        raise DataError("the labelled rows hold no answer tokens: give rows with a non-empty answer")
    samples = Samples("token", pretrained.offsets)
    top_k = min(settings.top_k, bench.vocabulary_size("weak"))
    loss = LossSettings(name="additive", top_k=top_k, beta=settings.shrinkage)
    experts: list[Expert] = []
    tables, records, weights = [], [], [uniform_weights(len(samples))]
    soft: SoftTargets | None = None
    for number in range(1, settings.rounds + 1):
        expert = bench.fine_tune(
            "weak", rows, training, seed=derive_seed(seed, "expert", number), soft=soft,
            loss=loss if soft else None, base=base_of(number, turns),
        )  # fmt: skip
        experts.append(expert)
        tables.append(bench.token_table(expert, rows))
        records.append(_record(number, weights[-1], tables[-1].wrong, _alphas(settings, number)[-1]))
        members = summed(experts, _alphas(settings, number))
        soft = bench.soft_labels(members, rows, top_k, student="weak", with_labels=True)
        weights.append(left_to_explain(soft, tables[-1].label))
    return Boosted(
        members=members,
        rounds=tuple(records),
        samples=samples,
        weights=tuple(weights),
        pretrained_error=float(samples.wrong(pretrained.wrong).double().mean()),
        seconds=tuple(expert.seconds for expert in experts),
        tables=tuple(tables),
        messages=tuple(alike(rows)),
    )


def summed(experts: Sequence[Expert], alphas: Sequence[float]) -> Members:
    """Experts whose log-probabilities are added, each times its alpha."""
    return Members(tuple(experts), tuple(alphas), "additive", {"alphas": list(alphas)})


def left_to_explain(soft: SoftTargets, label: Tensor) -> Tensor:
    """1 - p(label) of every token, scaled to sum to one: float64 ``[token]``.

    The size of the log loss's gradient at the label's own logit. Robust experts are pulled by p^q times that, but what
    they give up is left to explain all the same, and is what somebody who looks for wrong labels looks for. Uniform
    where nothing is left.

    Args:
        soft: of the sum so far, the label among the named tokens.
        label: int64 ``[token]``.
    """
    likely = (soft.probs.double() * (soft.ids == label[:, None])).sum(dim=1)
    rest = (1 - likely).clamp(min=0)
    return rest / rest.sum() if float(rest.sum()) > 0 else uniform_weights(len(rest))


def _alphas(settings: BoostSettings, count: int) -> tuple[float, ...]:
    return (1.0, *(settings.shrinkage,) * (count - 1))


def _record(number: int, weights: Tensor, wrong: Tensor, alpha: float) -> RoundRecord:
    return RoundRecord(
        round=number,
        error=weighted_error(weights, wrong),
        alpha=alpha,
        prior_term=0.0,
        outcome="ok",
        effective_sample_size=effective_sample_size(weights),
        train_token_error=float(wrong.double().mean()),
    )

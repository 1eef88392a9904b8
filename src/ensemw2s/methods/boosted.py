"""What boosting leaves behind, in whichever form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ensemw2s.boosting.rounds import BoostSettings, RoundRecord
from ensemw2s.boosting.samples import Samples
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.combine import RULES
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.errors import ConfigError
from ensemw2s.methods.bench import Members


@dataclasses.dataclass(frozen=True)
class Boosted:
    """What boosting leaves behind.

    Attributes:
        members: the experts that were kept, with their alphas.
        rounds: one record a round, dropped experts among them.
        samples: what was weighed: tokens or rows.
        weights: D_t of every round, float64 ``[sample]``, and last the weights that a further round would have had.
            With form "additive": what the sum before the round had left to explain (see ``methods.additive``).
        pretrained_error: ε_0, the unweighted error of the weak model before any training (on the rows ε is measured
            on).
        seconds: training seconds of every round.
        tables: what the kept experts make of the training rows.
        messages: what the user should know (a perfect expert, one no better than the prior ...).
    """

    members: Members
    rounds: tuple[RoundRecord, ...]
    samples: Samples
    weights: tuple[Tensor, ...]
    pretrained_error: float
    seconds: tuple[float, ...]
    tables: tuple[ExpertTokens, ...]
    messages: tuple[str, ...]


def alike(rows: Sequence[Row]) -> list[str]:
    """A line for the user where all labelled answers are the same, else none."""
    answers = {row.answer for row in rows}
    if len(answers) == 1 and len(rows) > 1:
        return [f"all {len(rows)} labelled answers are alike ({next(iter(answers))!r}): there is nothing to learn"]
    return []


def usual_rule(form: str) -> str:
    """The combine rule of a form of boosting, where none is named: sums are added, mixtures averaged."""
    return "additive" if form == "additive" else "mean"


def usual_shrinkage(form: str, bases: int) -> float:
    """ν where none is named; chosen on validation rows of calibration seeds (docs/experiments.md).

    Args:
        form: of boosting.
        bases: pretrained models that experts start from. An added expert that starts elsewhere knows other things than
            the sum, one that starts where the others did corrects it; so the first may count for more.
    """
    if form != "additive":
        return BoostSettings.shrinkage
    return 0.1 if bases == 1 else 0.5


def usual_settings(rule: str | None = None, bases: int = 1, **named: Any) -> BoostSettings:
    """Settings of boosting where not all are named.

    The form is "additive" unless something named belongs to AdaBoost: a rule that combines a mixture, or one of the
    settings that only AdaBoost has.

    Args:
        rule: how experts are combined, or None.
        bases: pretrained models that experts start from.
        named: attributes of ``BoostSettings``.

    Raises:
        ConfigError: a value that is refused.
    """
    others = {"mode", "prior", "error_clamp", "count", "prior_error", "level", "error_on"} & named.keys()
    form = named.pop("form", "discrete" if others or rule not in (None, "additive") else "additive")
    return BoostSettings(**{"form": form, "shrinkage": usual_shrinkage(form, bases), **named})


def check_form(settings: BoostSettings, rule: str) -> None:
    """Refuse, before any work, a form of boosting with a rule that does not combine what it builds.

    Raises:
        ConfigError: no such rule, form "additive" with another rule, or the rule "additive" with another form.
    """
    RULES.get(rule)
    if (settings.form == "additive") != (rule == "additive"):
        cure = (
            "boost.form=discrete for this rule, or leave the rule out" if rule != "additive" else "boost.form=additive"
        )
        raise ConfigError(
            f"boost.form '{settings.form}' with rule '{rule}': experts of form 'additive' are combined by rule "
            f"'additive' and by no other, and no others by it; set {cure}"
        )

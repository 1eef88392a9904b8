"""Combine rules that learn from held-out rows: fitted once the experts are there, before anything is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ensemw2s.data.rows import Row
from ensemw2s.ensemble.combine import can_fit, fit_rule, needs_fitting
from ensemw2s.errors import ConfigError
from ensemw2s.methods.bench import Bench, Members


def fitted(bench: Bench, members: Members, held_out: Sequence[Row], *, seed: int) -> Members:
    """The members with their rule fitted, where it is one that can be and there are held-out rows.

    Raises:
        ConfigError: the rule has to be fitted and no rows are left for it.
    """
    check_rule(members.rule, held_out)
    if not held_out or not can_fit(members.rule):
        return members
    evidence = [bench.token_table(expert, held_out) for expert in members.experts]
    state = fit_rule(members.rule, evidence, members.alphas, seed=seed)
    return dataclasses.replace(members, rule_state=state)


def check_rule(rule: str, held_out: Sequence[Row]) -> None:
    """Refuse, before any work, a rule that could not be fitted."""
    if needs_fitting(rule) and not held_out:
        raise ConfigError(
            f"rule '{rule}' is fitted on held-out rows and there are none: give validation rows, or use rule=mean"
        )

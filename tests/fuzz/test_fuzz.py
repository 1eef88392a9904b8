"""A bounded sample of what ``python benchmarks/fuzz.py`` runs, always the same one."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from fuzzkit.engine import DEFECTS, Target, run_input
from fuzzkit.plan import all_targets

SEED = 20260101
# Inputs of each target that take together less than a minute on one thread.
SAMPLE = {
    "data files": 150, "configs": 120, "studies": 40, "model folders": 30, "stores": 10, "outputs": 10, "labels": 8,
    "command line": 10, "processes": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_a_sample_of_malformed_inputs_is_refused_or_survived(
    target: Target, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    target.prepare(base)
    outcomes = [run_input(target, SEED, number, base) for number in range(SAMPLE[target.name])]
    found = [f"{o.kind} {o.target} {o.number} (seed {SEED}): {o.note}\n{o.text}" for o in outcomes if o.kind in DEFECTS]
    assert not found, "\n".join(found)


def test_every_target_has_its_sample() -> None:
    assert {target.name for target in all_targets()} == set(SAMPLE)

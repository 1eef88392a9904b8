"""The benchmarks of combine rules and of mixed tokenizers: their arithmetic, and that docs say what is stored."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


def benchmark(name: str) -> ModuleType:
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def cost() -> ModuleType:
    return benchmark("rule_cost")


@pytest.fixture(scope="module")
def mixed() -> ModuleType:
    return benchmark("mixed_tokenizers")


def test_a_ratio_is_taken_within_a_round(cost: ModuleType) -> None:
    """Rounds that are slow as a whole leave it alone: 2 everywhere, though the medians' ratio would be 20 / 1."""
    times = {"mean": [1.0, 10.0, 1.0], "vote": [2.0, 20.0, 2.0], "gate": [1.0, 10.0, 30.0]}
    assert cost.median_ratio(times, "vote", "mean") == (2.0, 2.0, 2.0)
    value, low, high = cost.median_ratio(times, "gate", "mean")
    assert (value, low, high) == (1.0, 1.0, 30.0)


def test_contenders_take_turns_and_the_first_round_is_not_counted(cost: ModuleType) -> None:
    order: list[str] = []

    def run(name: str) -> int:
        order.append(name)
        return 6

    runs = {name: (lambda name=name: run(name)) for name in "abc"}
    times = cost.take_turns(runs, 2, 6)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert all(len(values) == 2 for kind in times.values() for values in kind.values())
    with pytest.raises(RuntimeError, match="'a' decoded 6 tokens, not 7"):
        cost.take_turns(runs, 1, 7)


def test_every_rule_decodes_every_token(cost: ModuleType) -> None:
    """Also those that are fitted, on experts that differ."""
    names = cost.RULES
    models = cost.shaken_experts("tiny", 2)
    assert not torch.equal(next(models[0].parameters()), next(models[1].parameters()))
    runs = cost.contenders(models, list(names), 2, 3)
    assert set(runs) == {*names, "one model"}
    assert {run() for run in runs.values()} == {6}


@pytest.mark.parametrize(
    ("name", "pages"), [("rule_cost", ["results"]), ("mixed_tokenizers", ["different-tokenizers", "results"])]
)
def test_docs_say_what_is_stored(name: str, pages: list[str]) -> None:
    """Every line of the tables stands in each page as the script prints it."""
    found, script = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text()), benchmark(name)
    lines = [*script.table(found), *(script.differences(found) if hasattr(script, "differences") else [])]
    assert len(lines) > 5
    for page in pages:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert [line for line in lines if line not in text] == [], page


def stored(mixed: ModuleType, right: dict[str, float]) -> dict:
    """Two seeds in the shape of a stored run; a system not named is right half of the time."""
    seeds = [
        {
            "systems": {
                name: {side: {"right": right.get(name, 0.5) + add, "ms": 10.0} for side in mixed.SIDES}
                for name in mixed.SYSTEMS
            }
        }
        for add in (0.0, 0.1)
    ]
    return {"seeds": seeds}


def test_differences_are_paired_by_seed(mixed: ModuleType) -> None:
    found = stored(mixed, {mixed.MIXED: 0.3})
    lines = mixed.differences(found)
    assert "| mixed, by text − two copies, by token | **-20.0 [-20.0, -20.0]** | < 0.001 |" in lines[2]
    # Gaps of 4.0 and 4.2 points: t = 41 with one degree of freedom, p = 2 / pi * atan(1 / 41). Two of the eight are smaller.
    for seed, add in zip(found["seeds"], (0.040, 0.042), strict=True):
        seed["systems"]["one copy"]["easy"]["right"] += add
    p = 6 * 2 / math.pi * math.atan(1 / 41)
    assert f"| one copy − two copies, by token | +4.1 [+2.8, +5.4] | {p:.3f} |" in mixed.differences(found)[5]
    assert mixed.table(found)[2].startswith("| one copy | 59.1 [")
    assert mixed.table(found)[2].endswith("| 1.0 |")


def test_without_the_shared_folder_the_reason_is_told(
    mixed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mixed_tokenizers.py", "--shared", str(tmp_path)])
    mixed.main()
    assert "skipped: " in capsys.readouterr().out


def test_answers_over_text_and_over_tokens_agree_for_one_model(mixed: ModuleType) -> None:
    """One expert says the same however it is asked, and is counted right where it is."""
    from ensemw2s.data.formatting import TaskFormat
    from ensemw2s.models.loading import load_model, load_tokenizer
    from ensemw2s.world.buckets import draw_rows

    form = TaskFormat(max_new_tokens=6)
    (row,) = draw_rows(1, families=["count"], levels=[1], bucket="question", seed=0, purpose="x")
    voice = mixed.Voice(load_model("w2s-weak"), load_tokenizer("w2s-weak"), 1.0, 0.0)
    said = mixed.by_token([voice], form)(row)
    text = mixed.by_text([voice], form, [1.0])(row)
    line = said.split("\n")[0].strip()
    assert line
    assert text.strip().startswith(line)
    right, ms = mixed.asked(lambda row: row.answer or "", [row], form)
    assert (right, mixed.asked(lambda row: "nothing of the kind", [row], form)[0]) == (1.0, 0.0)
    assert ms >= 0


def test_trials_on_real_questions_are_runs_that_can_be_made(shared: Path) -> None:
    """Every line's configuration, and splits whose validation rows the source does not mark as test."""
    trials = benchmark("real_trials")
    titles = [trial.title for trial in trials.TRIALS]
    assert len(set(titles)) == len(titles)
    for task in ("sciq, options", "sciq, 31 to 70 words", "arc, options"):
        trial = next(trial for trial in trials.TRIALS if trial.task == task)
        config = trials.configured(trial, shared, 1000)
        splits = trials.load_splits(config)
        assert len(splits.validation) == config.split.validation
        assert not any(row.split == "test" for row in (*splits.weak_train, *splits.validation))
        if task.startswith("sciq"):
            assert all(row.context for row in splits.validation)

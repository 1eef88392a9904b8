"""What separates from chance on real questions with tiny real models: tried on validation rows, never on a test row.

    OMP_NUM_THREADS=1 python benchmarks/real_trials.py --shared ../shared
    OMP_NUM_THREADS=1 python benchmarks/real_trials.py --shared ../shared --only "sciq, options"
    OMP_NUM_THREADS=1 python benchmarks/real_trials.py --shared ../shared --keep    # into results/real_trials.json
    OMP_NUM_THREADS=1 python benchmarks/real_trials.py --shared ../shared --twins   # questions with a twin to learn by heart

Every line is one model on one task: as pretrained, or fine-tuned on labelled rows. Printed are the share of validation
questions answered rightly with Wilson's 95 % interval, the level of guessing, the same share on labelled rows (what was
learned by heart), and the seconds, which say nothing where a finished stage was found in the store. A mark says that the
interval lies above guessing. ``real_table.trials`` makes the page's table of what was kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from short_passages import MOST_WORDS, RATINGS

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import Splits
from ensemw2s.evaluation.intervals import wilson
from ensemw2s.evaluation.metrics import chance_level, option_accuracy
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config, build_config
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.layers import merge
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.bench import Members
from ensemw2s.seeds import derive_seed

_PASSAGE = {
    "data": {"source": "sciq", "difficulty": "context-words"},
    "split": {"threshold": 60, "weak_train": 1200, "validation": 250, "pool": 50, "test_id": 50, "test_ood": 50},
    "format": {"max_length": 256},
}
_SHORT = {
    "data": {"source": "sciq", "difficulty": str(RATINGS)},
    "split": {"validation": 200, "test_id": 100, "test_ood": 100},
    "format": {"max_length": 512},
    "expert": {"batch_size": 8},
}
# Both sides in turn: the weak side is trained on the short passages, the ceiling on the longer ones.
_UP_TO_30, _UP_TO_70 = list(range(6, 31)), list(range(31, MOST_WORDS + 1))
_YES_NO = merge(
    _PASSAGE, {"task": "binary", "boost": {"prior": "none"}, "split": {"weak_train": 800, "validation": 300}}
)
TASKS: dict[str, dict[str, Any]] = {
    "sciq, yes/no": _YES_NO,
    "sciq, yes/no, classifier": merge(_YES_NO, {"head": "classifier"}),
    "sciq, options": _PASSAGE,
    "sciq, to 30 words": merge(
        _SHORT, {"split": {"easy_levels": _UP_TO_30, "hard_levels": _UP_TO_70, "weak_train": 480, "pool": 50}}
    ),
    "sciq, 31 to 70 words": merge(
        _SHORT, {"split": {"easy_levels": _UP_TO_70, "hard_levels": _UP_TO_30, "weak_train": 770, "pool": 50}}
    ),
    "arc, options": {
        "data": {"source": "arc_easy"},
        "split": {"easy_levels": [1, 2], "hard_levels": [3], "validation": 300, "pool": 50, "test_id": 50, "test_ood": 50},
        "format": {"max_length": 192},
    },
    "quartz, options": {
        "data": {"source": "quartz", "difficulty": "question-words"},
        "split": {"easy_fraction": 0.9, "validation": 300, "pool": 50, "test_id": 50, "test_ood": 50},
        "format": {"max_length": 192},
    },
}  # fmt: skip
# Fewer hard rows: those of a passage most of whose questions are easy are left out.
TASKS["quartz, options, by passage"] = merge(
    TASKS["quartz, options"], {"data": {"columns": {"group": "context"}}, "split": {"pool": 40, "test_ood": 40}}
)
STORED = Path(__file__).parent / "results" / "real_trials.json"
LLAMA, SMALL, LARGE = "tinystories-llama-260k", "tinystories-bitnet-1m", "tinystories-bitnet-3m"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One line: ``epochs`` 0 is the model as pretrained."""

    task: str
    model: str
    epochs: float = 0.0
    learning_rate: float = 1e-3
    rows: int | None = None

    @property
    def title(self) -> str:
        """The line's name."""
        unit = "epoch" if self.epochs == 1 else "epochs"
        how = f"{self.epochs:g} {unit} at {self.learning_rate:g}" if self.epochs else "as pretrained"
        rows = f" of {self.rows}" if self.rows else ""
        return f"{self.task}: {self.model.removeprefix('tinystories-')}, {how}{rows}"


TRIALS = (
    Trial("sciq, options", LLAMA),
    Trial("sciq, options", LLAMA, 3, 1e-3, 400),
    Trial("sciq, options", LLAMA, 3, 1e-3),
    Trial("sciq, options", SMALL),
    Trial("sciq, options", SMALL, 2, 5e-4, 400),
    Trial("sciq, options", SMALL, 2, 5e-4),
    Trial("sciq, options", SMALL, 3, 1e-3),
    Trial("sciq, options", LARGE),
    Trial("sciq, options", LARGE, 1, 5e-4),
    Trial("sciq, options", LARGE, 2, 5e-4),
    Trial("sciq, to 30 words", LLAMA, 3, 1e-3),
    Trial("sciq, 31 to 70 words", LLAMA, 3, 1e-3),
    Trial("sciq, 31 to 70 words", LARGE, 2, 5e-4),
    Trial("sciq, yes/no", LLAMA, 3, 1e-3),
    Trial("sciq, yes/no, classifier", LLAMA, 3, 1e-3),
    Trial("arc, options", LLAMA),
    Trial("arc, options", LLAMA, 2, 1e-3),
    Trial("quartz, options", LLAMA),
    Trial("quartz, options", LLAMA, 3, 1e-3),
    Trial("quartz, options, by passage", LLAMA),
    Trial("quartz, options, by passage", LLAMA, 3, 1e-3),
)


def configured(trial: Trial, shared: Path, seed: int) -> Config:
    """A run's configuration for one line; data and models lie in ``shared``."""
    task = TASKS[trial.task]
    budget = {"epochs": trial.epochs or 1, "learning_rate": trial.learning_rate}
    settings = merge(
        task,
        {
            "seed": seed,
            "data": {"source": str(shared / "data" / f"{task['data']['source']}.jsonl.gz")},
            "models": {"weak": str(shared / "models" / trial.model), "strong": str(shared / "models" / trial.model)},
            "expert": {"batch_size": 16, **task.get("expert", {}), **budget},
        },
    )
    if trial.rows:
        settings = merge(settings, {"split": {"weak_train": trial.rows}})
    return build_config(settings)


def share_right(bench: StoredBench, members: Members, rows: Sequence[Row]) -> float:
    """Of rows with choices, the share whose likeliest option is the right one; of yes/no rows, of right answers."""
    if bench.settings.binary:
        return bench.matches(bench.answer(members, rows, purpose="validation"), rows)
    return float(option_accuracy(bench.option_scores(members, rows), rows).value)


def measured(trial: Trial, shared: Path, seed: int) -> Mapping[str, Any]:
    """One line's figures."""
    config = configured(trial, shared, seed)
    splits = load_splits(config)
    store = Store(default_store(), numerics(torch.device("cpu"), config.dtype))
    bench = StoredBench(dataclasses.replace(BenchSettings.of(config), device="cpu"), store)
    began = time.perf_counter()
    expert = bench.pretrained("weak")
    if trial.epochs:
        expert = bench.fine_tune("weak", splits.weak_train, config.expert, seed=derive_seed(seed, "expert", 1))
    members = Members.single(expert)
    validation, labelled = (_with_choices(getattr(splits, name)) for name in ("validation", "weak_train"))
    return {
        "validation": share_right(bench, members, validation), "rows": len(validation),
        "chance": chance_level("option_accuracy", validation, splits.weak_train, str),
        "labelled": share_right(bench, members, labelled[:100]), "trained on": _trained(trial, splits),
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def in_passage(rows: Sequence[Row]) -> float:
    """Share right of whoever takes the option that stands in the passage, letter for letter; ties share the point."""
    found = {
        row.id: [float(choice.lower() in (row.context or "").lower()) for choice in row.choices or ()] for row in rows
    }
    return float(option_accuracy(found, rows).value)


def twins(asked: Sequence[Row], labelled: Sequence[Row], least: float = 0.6) -> tuple[int, int]:
    """How many of ``asked`` have a twin among ``labelled`` with another answer, and how many one with the same.

    A twin has the same options, and of all that have them the most words in common with the question (Jaccard), at
    least the share ``least``.
    """
    by_options: dict[frozenset[str], list[Row]] = {}
    for row in labelled:
        by_options.setdefault(_options(row), []).append(row)
    other = same = 0
    for row in asked:
        alike = [(_in_common(row, twin), twin.answer) for twin in by_options.get(_options(row), ())]
        nearest, answer = max(alike, key=lambda pair: pair[0], default=(0.0, None))
        if nearest >= least:
            other, same = (other, same + 1) if answer == row.answer else (other + 1, same)
    return other, same


def _options(row: Row) -> frozenset[str]:
    return frozenset(choice.lower() for choice in row.choices or ())


def _in_common(a: Row, b: Row) -> float:
    one, other = (set(row.question.lower().split()) for row in (a, b))
    return len(one & other) / max(1, len(one | other))


def _with_choices(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.choices]


def _trained(trial: Trial, splits: Splits) -> int:
    return len(splits.weak_train) if trial.epochs else 0


def reference(shared: Path, seed: int) -> dict[str, Any]:
    """The first line: who compares letters only."""
    rows = _with_choices(load_splits(configured(TRIALS[0], shared, seed)).validation)
    return {"task": "sciq, options", "model": "none", "epochs": 0, "learning_rate": 0, "trained on": 0, "rows": len(rows),
            "validation": in_passage(rows), "chance": chance_level("option_accuracy", rows, rows, str),
            "labelled": None}  # fmt: skip


def told(title: str, found: Mapping[str, Any]) -> str:
    """One line of what is printed."""
    interval = wilson(found["validation"] * found["rows"], found["rows"])
    mark = "*" if interval.low > found["chance"] else " "
    cell = f"{100 * found['validation']:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]{mark}"
    end = "" if found["labelled"] is None else f"{100 * found['labelled']:>10.1f}{found['seconds']:>9.0f}"
    return f"{title:<68}{found['trained on']:>6}{cell:>24}{100 * found['chance']:>10.1f}{end}"


def keep(entry: Mapping[str, Any]) -> None:
    """Store one line in the place of the one of the same task, model and training; in the order of ``TRIALS``."""
    name = ("task", "model", "epochs", "learning_rate", "trained on")
    stored = json.loads(STORED.read_text()) if STORED.is_file() else []
    new = {key: value for key, value in entry.items() if key != "seconds"}
    stored = [new if all(one[key] == new[key] for key in name) else one for one in stored]
    stored += [] if new in stored else [new]
    tasks, models = ["sciq, options", *TASKS], ["none", LLAMA, SMALL, LARGE]
    stored.sort(
        key=lambda one: (tasks.index(one["task"]), models.index(one["model"]), one["trained on"], one["epochs"])
    )
    STORED.write_text(json.dumps(stored, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the optional folder of data and models")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--only", nargs="*", default=[], help="lines that begin with one of these")
    parser.add_argument("--keep", action="store_true", help=f"also into {STORED.parent.name}/{STORED.name}")
    parser.add_argument("--twins", action="store_true", help="count validation questions with a labelled twin, no more")
    given = parser.parse_args()
    if not (given.shared / "data").is_dir():
        raise SystemExit(f"{given.shared}/data is not there: these trials need the optional folder ../shared")
    if given.twins:
        for task in TASKS:
            splits = load_splits(configured(Trial(task, LLAMA), given.shared, given.seed))
            asked = _with_choices(splits.validation)
            other, same = twins(asked, splits.weak_train)
            print(f"{task}: of {len(asked)} validation questions {other} have a labelled twin with another answer, "
                  f"{same} one with the same")  # fmt: skip
        return
    torch.set_num_threads(1)
    print(f"{'':<68}{'rows':>6}{'validation, %':>24}{'guessing':>10}{'labelled':>10}{'seconds':>9}")
    first = reference(given.shared, given.seed)
    print(told("sciq, options: the one that stands in the passage, no model", first), flush=True)
    if given.keep:
        keep(first)
    for trial in TRIALS:
        if given.only and not trial.title.startswith(tuple(given.only)):
            continue
        found = measured(trial, given.shared, given.seed)
        print(told(trial.title, found), flush=True)
        if given.keep:
            keep({**dataclasses.asdict(trial), **found})


if __name__ == "__main__":
    main()

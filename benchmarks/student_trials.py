"""What students are trained on, tried on easy validation rows of calibration seeds; every idea has its line.

    python benchmarks/student_trials.py --seeds 1000 1001 1002
    python benchmarks/student_trials.py --preset quickstart --teachers "one expert" additive --shares 0.25 0.35 0.5 1

For each teacher (one expert, uniform seeds, token AdaBoost, additive boosting; four experts of ten epochs) and each way to
take its labels of the pool: the student's share of right validation answers, the same on the hardest labelled level alone
(the nearest to hard questions that anybody has labels for), and nats an answer token. No test row is looked at; "labels
right" looks at the pool's answers and is told, not chosen by.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence

import torch
from boosting_trials import score

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import hide_answers, load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.baselines import best_base_weak, best_first, uniform_ensemble
from ensemw2s.methods.bench import Members
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.methods.selection import SelectionSettings
from ensemw2s.methods.students import take_labels, train_student
from ensemw2s.training.losses import LossSettings

# (selection, loss, the labelled easy rows besides)
Way = tuple[SelectionSettings, LossSettings, bool]
WAYS: dict[str, Way] = {
    "all labels": (SelectionSettings(), LossSettings(), False),
    "surest half": (SelectionSettings("confident", 0.5), LossSettings(), False),
    "surest quarter": (SelectionSettings("confident", 0.25), LossSettings(), False),
    "most agreed half": (SelectionSettings("agreement", 0.5), LossSettings(), False),
    "soft labels": (SelectionSettings(), LossSettings(targets="soft", top_k=64), False),
    "soft, surest half": (SelectionSettings("confident", 0.5), LossSettings(targets="soft", top_k=64), False),
    "all and labelled rows": (SelectionSettings(), LossSettings(), True),
    "surest half and labelled rows": (SelectionSettings("confident", 0.5), LossSettings(), True),
    "surest quarter and labelled rows": (SelectionSettings("confident", 0.25), LossSettings(), True),
}


def teachers(
    bench: StoredBench, config: Config, rows: Sequence[Row], validation: Sequence[Row], seed: int
) -> dict[str, Members]:
    """The weak sides whose labels are compared."""
    training, count, bases = config.expert, config.boost.rounds, len(config.models.bases)
    turns = tuple(range(bases))
    ranked = config.models.order == "validation"
    if ranked:
        turns, _ = best_first(bench, rows, validation, training, seed=seed, bases=bases)
    uniform = uniform_ensemble(bench, rows, training, count, seed=seed, turns=turns)
    one = Members.single(uniform.experts[bases - 1])
    if ranked:
        one, _ = best_base_weak(bench, rows, validation, training, config.weak_epochs, seed=seed, bases=range(bases))
    found = {"one expert": one, "uniform": uniform}
    shrinkage = 0.1 if bases == 1 else 0.5  # chosen by benchmarks/boosting_trials.py
    for name, settings, rule in (
        ("adaboost", BoostSettings(rounds=count, shrinkage=0.3), "mean"),
        ("additive", BoostSettings(form="additive", rounds=count, shrinkage=shrinkage), "additive"),
    ):
        found[name] = boost_experts(bench, rows, settings, training, seed=seed, rule=rule, turns=turns).members
    return found


def one_seed(config: Config, wanted: Sequence[str], ways: Mapping[str, Way]) -> dict[str, tuple[float, ...]]:
    """Every line's figures for the seed of ``config``."""
    seed, splits = config.seed, load_splits(config)
    store = Store(default_store(), numerics(torch.device("cpu"), config.dtype))
    bench = StoredBench(dataclasses.replace(BenchSettings.of(config), device="cpu"), store)
    hardest = [row for row in splits.validation if row.difficulty == max(config.data.easy_levels)]
    gold = {row.id: row.answer for row in splits.pool}
    questions = hide_answers(splits.pool)

    def told(student: Members, right: float) -> tuple[float, ...]:
        share, nats = score(bench, student, splits.validation)
        return share, score(bench, student, hardest)[0], nats, right

    times = round(len(splits.pool) / len(splits.weak_train))
    longer = dataclasses.replace(config.student, epochs=times * config.student.epochs)
    found = {
        "labelled rows alone": told(train_student(bench, splits.weak_train, config.student, seed=seed), 1.0),
        f"labelled rows alone, {times} epochs": told(train_student(bench, splits.weak_train, longer, seed=seed), 1.0),
    }
    for teacher, members in teachers(bench, config, splits.weak_train, splits.validation, seed).items():
        if wanted and teacher not in wanted:
            continue
        answers = bench.answer(members, questions, purpose="label")
        for way, (selection, loss, labelled) in ways.items():
            kept = take_labels(questions, answers, selection).rows
            right = sum(row.answer == gold[row.id] for row in kept) / len(kept)
            rows = (*kept, *splits.weak_train) if labelled else kept
            student = train_student(bench, rows, config.student, seed=seed, loss=loss, teacher=members)
            found[f"{teacher}: {way}"] = told(student, right)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value over the preset")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--teachers", nargs="*", default=[], help="only these")
    parser.add_argument("--shares", type=float, nargs="*", default=[], help="only surest labels and labelled rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.preset, options.set)
    shares = {
        f"surest {share:.0%} and labelled rows": (SelectionSettings("confident", share), LossSettings(), True)
        for share in options.shares
    }
    each = [
        one_seed(dataclasses.replace(config, seed=seed), options.teachers, shares or WAYS) for seed in options.seeds
    ]
    print(f"{'':<46}{'validation, %':>14}{'hardest, %':>12}{'nats':>8}{'labels right, %':>17}")
    for name in each[0]:
        share, hardest, nats, right = torch.tensor([found[name] for found in each]).mean(dim=0).tolist()
        print(f"{name:<46}{100 * share:>14.1f}{100 * hardest:>12.1f}{nats:>8.3f}{100 * right:>17.1f}")


if __name__ == "__main__":
    main()

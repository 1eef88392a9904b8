"""Long answers: chains of 24 to 80 steps, hard ones above 500 answer tokens. Every rival at equal labels and experts.

    python benchmarks/long_answers.py choose --models FOLDER --keep SET      # calibration seeds, no test rows
    python benchmarks/long_answers.py study --models FOLDER --set $(cat SET) # test rows; results/long_answers.json
    python benchmarks/long_answers.py render                                 # the tables, docs/images/results-long.svg

Every seed has a weak model of its own, prepared by ``ensemw2s.world.lengthen`` with this seed, so that the intervals
hold what the preparation does by chance. FOLDER keeps these models. A seed that the results hold already is not
measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemw2s.artifacts import file_sha256, write_json
from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.encoding import encode_prompts, padding_token
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.combine import MixRule, expert_weights, open_rule
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.experts import end_tokens
from ensemw2s.evaluation.steps import StepScore, right_by_position, score_steps, summarise_steps
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.baselines import bagging, uniform_ensemble
from ensemw2s.methods.bench import Members
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.seeds import derive_seed
from ensemw2s.world import lengthen
from ensemw2s.world.chains import fault, read_question, split_steps

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "long_answers.json"
FIGURE = HERE.parent / "docs" / "images" / "results-long.svg"
EXPERTS = 3
BLOCK = 4  # positions of a point of the curve
THRESHOLDS = (0.9, 0.99)

SETTINGS = (
    "data.families=[chain]", "data.easy_levels=[1,2,3]", "data.hard_levels=[4,5,6]",
    "split.validation=30", "split.pool=30", "split.test_id=40", "split.test_ood=60",
    "format.max_new_tokens=780", "evaluation.batch_size=60", "expert.learning_rate=1e-3", "expert.batch_size=8",
)  # fmt: skip

# Budgets of an expert that `choose` tries, in this order; it takes the first with which one expert answers most easy
# questions rightly (whole answers), and of the hard ones some steps; on validation and pool rows.
BUDGETS = tuple(
    (f"split.weak_train={rows}", f"expert.epochs={epochs}") for rows, epochs in ((96, 1), (96, 2), (96, 4), (192, 4))
)
EASY_AT_LEAST, HARD_WITHIN = 0.8, (0.3, 0.7)

Rows = Sequence[Row]
Maker = Callable[[StoredBench, Rows, Config], Members]


class Watched(MixRule):
    """A weighted mean that asks the other experts only where the first is unsure, and counts what others would do.

    Args:
        threshold: the first expert is sure where its best token is at least as likely; above 1 it never is.
    """

    def __init__(self, threshold: float = 2.0) -> None:
        super().__init__("mean")
        self.threshold = threshold
        self.tokens = self.asked = self.disagreed = self.needed = 0

    def __call__(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None = None) -> Tensor:
        mixed = super().__call__(log_probs, alphas, prefix)
        sure = log_probs[0].max(dim=-1).values.exp() >= self.threshold
        tops = log_probs.argmax(dim=-1)
        self.tokens += len(sure)
        self.asked += int((~sure).sum())
        self.disagreed += int((tops != tops[0]).any(dim=0).sum())
        self.needed += int(experts_needed(log_probs, alphas).sum())
        return torch.where(sure[:, None], log_probs[0], mixed)

    def told(self, experts: int) -> dict[str, float]:
        """Shares of tokens, and the share of expert calls left out by this threshold and by exact early exit."""
        calls = 1 + (experts - 1) * self.asked / self.tokens
        return {
            "asked": self.asked / self.tokens,
            "disagreed": self.disagreed / self.tokens,
            "saved": 1 - calls / experts,
            "saved_by_exit": 1 - self.needed / self.tokens / experts,
        }


def experts_needed(log_probs: Tensor, alphas: Tensor) -> Tensor:
    """How many experts, the heaviest first, decide each row's greedy token: int64 ``[m]`` (as ``ensemble/early.py``)."""
    weights = expert_weights(alphas, len(log_probs))
    order = weights.argsort(descending=True, stable=True)
    needed = torch.full((log_probs.shape[1],), len(order), dtype=torch.int64)
    mixture, left = torch.zeros_like(log_probs[0], dtype=torch.float64), 1.0
    for count, place in enumerate(order.tolist(), start=1):
        mixture += log_probs[place].double().exp() * weights[place]
        left -= float(weights[place])
        best = mixture.topk(2, dim=-1).values
        decided = (best[:, 0] - best[:, 1] > left + 1e-6) & (needed == len(order))
        needed[decided] = count
    return needed


def ada(level: str, shrinkage: float = 0.3) -> Maker:
    settings = BoostSettings(rounds=EXPERTS, level=level, shrinkage=shrinkage)  # type: ignore[arg-type]
    return lambda bench, rows, config: (
        boost_experts(bench, rows, settings, config.expert, seed=config.seed, rule="mean").members
    )


def single(bench: StoredBench, rows: Rows, config: Config) -> Members:
    seed = derive_seed(config.seed, "expert", 1)
    return Members.single(bench.fine_tune("weak", rows, config.expert, seed=seed))


def total(bench: StoredBench, rows: Rows, config: Config) -> Members:
    longer = dataclasses.replace(config.expert, epochs=EXPERTS * config.expert.epochs)
    return Members.single(bench.fine_tune("weak", rows, longer, seed=derive_seed(config.seed, "expert", 1)))


def additive(bench: StoredBench, rows: Rows, config: Config) -> Members:
    settings = BoostSettings(form="additive", rounds=EXPERTS, shrinkage=0.1)
    return boost_experts(bench, rows, settings, config.expert, seed=config.seed, rule="additive").members


SYSTEMS: dict[str, Maker] = {
    "weak expert": single,
    "weak, total compute": total,
    "uniform ensemble": lambda bench, rows, c: uniform_ensemble(bench, rows, c.expert, EXPERTS, seed=c.seed),
    "bagging": lambda bench, rows, c: bagging(bench, rows, c.expert, EXPERTS, seed=c.seed),
    "AdaBoost by token": ada("token"),
    "AdaBoost by row": ada("row"),
    "additive, ν = 0.1": additive,
}
CONSULTING = ("uniform ensemble", "AdaBoost by token")


def prepared(models: Path, seed: int) -> Path:
    """The folder of the seed's weak model, which is prepared first where it is not there."""
    folder, recipe = models / str(seed), lengthen.Lengthening(seed=seed)
    told = folder / "recipe.json"  # the last file that is written
    if not told.is_file():
        lengthen.prepare("w2s-weak", folder, recipe)
    if json.loads(told.read_text())["recipe"] != dataclasses.asdict(recipe):
        raise SystemExit(f"{folder} was prepared by another recipe: move it away first")
    return folder


def configured(weak: str, seed: int, overrides: Sequence[str]) -> tuple[Config, StoredBench]:
    """One seed's configuration and its bench."""
    config = dataclasses.replace(load_config("paper", [*SETTINGS, f"models.weak={weak}", *overrides]), seed=seed)
    settings = dataclasses.replace(BenchSettings.of(config), device="cpu")
    return config, StoredBench(settings, Store(default_store(), numerics(torch.device("cpu"), config.dtype)))


def answers(bench: StoredBench, members: Members, rows: Rows, rule: MixRule) -> list[StepScore]:
    """Free-running greedy answers, scored step by step."""
    models, tokenizer = bench.shelf.load_all(members.experts), bench.tokenizer("weak")
    form = bench.settings.task_format
    encoded = encode_prompts(rows, tokenizer, form, bench.shelf.context(models[0])).rows
    found = generate(
        models, members.alphas, rule, [row.input_ids for row in encoded], ids=[row.id for row in encoded],
        max_new_tokens=form.max_new_tokens, eos_token_ids=end_tokens(models[0], tokenizer),
        pad_token_id=padding_token(tokenizer), batch_size=bench.settings.batch_size,
    )  # fmt: skip
    by_id = {row.id: row for row in rows}
    scores = []
    for decoded in found:
        row = by_id[decoded.id]
        question, text = read_question(row.question), tokenizer.decode(decoded.token_ids, skip_special_tokens=True)
        scores.append(
            score_steps(
                split_steps(text), split_steps(row.answer or ""), finished=decoded.finished,
                fault=partial(fault, question),
            )
        )  # fmt: skip
    return scores


def told(scores: Sequence[StepScore]) -> dict[str, Any]:
    """What the results keep of one system on one set of rows; the curve ends where the shortest answer does."""
    reached = min(score.wanted for score in scores)
    shortened = [score._replace(right=score.right[:reached]) for score in scores]
    first = [score.right_before_wrong for score in scores if not all(score.right)]
    return {
        **summarise_steps(scores)._asdict(),
        "first_wrong": sum(first) / len(first) + 1 if first else None,
        "positions": right_by_position(shortened, BLOCK),
    }


def measured(weak: str, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Every system's figures for one seed, on its test rows."""
    config, bench = configured(weak, seed, overrides)
    splits = load_splits(config)
    sides = {"easy": splits.test_id, "hard": splits.test_ood}
    found: dict[str, Any] = {"systems": {}, "consulting": {}, "alphas": {}}
    for name, make in SYSTEMS.items():
        began = time.process_time()
        members = make(bench, splits.weak_train, config)
        bench.shelf.keep(members.experts)
        watched = Watched() if name in CONSULTING else None
        rules = {"easy": open_rule(members.rule, members.rule_state or None)}
        rules["hard"] = watched or rules["easy"]
        found["systems"][name] = {
            side: told(answers(bench, members, rows, rules[side])) for side, rows in sides.items()
        }
        found["alphas"][name] = list(members.alphas)
        if watched is not None:
            entries: dict[str, Any] = {"always": watched.told(len(members.experts))}
            found["consulting"][name] = entries
            for threshold in THRESHOLDS:
                rule = Watched(threshold)
                scores = answers(bench, members, sides["hard"], rule)
                entries[f"{threshold:g}"] = {**rule.told(len(members.experts)), "hard": told(scores)}
        hard = found["systems"][name]["hard"]
        print(f"seed {seed}  {name:<22} easy {shown(found['systems'][name]['easy'])}  hard {shown(hard)}  "
              f"{time.process_time() - began:.0f} s", flush=True)  # fmt: skip
    return found


def shown(side: dict[str, Any]) -> str:
    return f"{100 * side['whole']:.1f} ({100 * side['step_accuracy']:.1f}, follow {100 * side['coherence']:.2f})"


def study(models: Path, seeds: Sequence[int], overrides: Sequence[str]) -> None:
    """Measure the seeds that the results do not hold yet, each written as soon as it is there."""
    head = {"settings": [*SETTINGS, *overrides], "experts": EXPERTS, "block": BLOCK,
            "lengthening": {**dataclasses.asdict(lengthen.Lengthening()), "seed": "that of the questions"},
            "versions": {name: version(name) for name in ("torch", "transformers")}}  # fmt: skip
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {**head, "seeds": {}}
    if any(kept[name] != value for name, value in head.items()):
        raise SystemExit(f"{RESULTS} holds results of other settings: move it away first")
    for seed in seeds:
        if str(seed) not in kept["seeds"]:
            weak = prepared(models, seed)
            found = measured(str(weak), seed, overrides)
            kept["seeds"][str(seed)] = {"model": file_sha256(weak / "model.safetensors"), **found}
            write_json(RESULTS, kept)


def trial(weak: str, seed: int, overrides: Sequence[str], name: str = "weak expert") -> tuple[float, float]:
    """Of one system the easy answers that are right as a whole, and the right steps of hard ones; no test rows."""
    config, bench = configured(weak, seed, overrides)
    splits = load_splits(config)
    began = time.process_time()
    members = SYSTEMS[name](bench, splits.weak_train, config)
    trained = time.process_time() - began
    rule = open_rule(members.rule, members.rule_state or None)
    easy, hard = (told(answers(bench, members, rows, rule)) for rows in (splits.validation, splits.pool))
    print(f"{' '.join(overrides)}  seed {seed}  {name}: easy {shown(easy)}  hard {shown(hard)}  {hard['faults']}  "
          f"training {trained:.0f} s, all {time.process_time() - began:.0f} s", flush=True)  # fmt: skip
    return easy["whole"], hard["step_accuracy"]


def choose(models: Path, seeds: Sequence[int]) -> tuple[bool, Sequence[str]]:
    """Whether a budget does what is asked of it, and the budget; else the one nearest to half of the hard steps."""
    nearest, best = 2.0, BUDGETS[0]
    for budget in BUDGETS:
        pairs = [trial(str(prepared(models, seed)), seed, budget) for seed in seeds]
        easy, hard = (sum(side) / len(side) for side in zip(*pairs, strict=True))
        if easy >= EASY_AT_LEAST and HARD_WITHIN[0] <= hard <= HARD_WITHIN[1]:
            return True, budget
        if abs(hard - 0.5) < nearest:
            nearest, best = abs(hard - 0.5), budget
    return False, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, seeds in (("choose", [1000, 1001]), ("study", [0, 1, 2, 3, 4])):
        command = commands.add_parser(name)
        command.add_argument("--models", type=Path, required=True, help="folder of the prepared models, one a seed")
        command.add_argument("--seeds", type=int, nargs="+", default=seeds)
        if name == "choose":
            command.add_argument("--keep", type=Path, required=True, help="file for the budget that was chosen")
        else:
            command.add_argument("--set", nargs="+", required=True, help="the chosen budget, section.key=value")
    commands.add_parser("render")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "choose":
        found, budget = choose(options.models, options.seeds)
        options.keep.write_text(" ".join(budget) + "\n")
        raise SystemExit(0 if found else 3)
    if options.command == "study":
        study(options.models, options.seeds, options.set)
        return
    sys.path.insert(0, str(HERE))
    from long_tables import render

    render(json.loads(RESULTS.read_text()), FIGURE)


if __name__ == "__main__":
    main()

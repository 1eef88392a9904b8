"""Experts of different tokenizers in one ensemble, mixed over text, against two equal copies of one model.

    OMP_NUM_THREADS=1 python benchmarks/mixed_tokenizers.py --shared ../shared --out benchmarks/results/mixed_tokenizers.json

On the built-in world, in each seed: two experts made from ``w2s-weak`` that differ in their seed, and one made from the
tinystories model of 0.26 M parameters, whose tokenizer has other tokens. All learn from the same 600 labelled easy
questions; each model's epochs are chosen on easy validation questions. So is the weight of the other model in
"mixed, weight chosen", on the first of them. Accuracy (exact match) is that on the first test questions of each side;
milliseconds are those that the processor spent on a question, one question at a time in every way of decoding.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _hardware import describe

from ensemw2s.data.encoding import encode_prompts, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.experts import end_tokens
from ensemw2s.ensemble.text.mixed import Mode, TextEnsemble
from ensemw2s.evaluation.overseeds import paired_over_seeds, seed_interval
from ensemw2s.evaluation.testing import holm
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.baselines import single_weak
from ensemw2s.methods.bench import Expert, Members
from ensemw2s.models.loading import context_length
from ensemw2s.seeds import derive_seed

OTHER = "tinystories-llama-260k"
EPOCHS = {"w2s-weak": (5.0, 10.0, 20.0), OTHER: (10.0, 20.0)}
SHARES = (0.5, 0.25, 0.1)
SIDES = ("easy", "hard")
LONGEST = 40  # bytes of an answer
COPIES = "two copies, by token"
MIXED, CHOSEN = "mixed, by text", "mixed, weight chosen"
#: What the systems are; ``alone`` have one expert.
SYSTEMS = {
    "one copy": "one expert of w2s-weak",
    "other tokenizer": "one expert of the tinystories model",
    COPIES: "two seeds of w2s-weak, mean of probabilities, token by token",
    "two copies, by text": "the same two, mixed over text (mode union)",
    MIXED: "one of each, equal weights, mixed over text (mode union)",
    CHOSEN: "the same two, weight chosen on validation questions",
    "mixed, by bytes": "the same two, equal weights, byte marginals (mode bytes, epsilon 1e-4)",
}


@dataclasses.dataclass(frozen=True)
class Voice:
    """An expert that can be asked: model, tokenizer, the epochs it was trained for, its validation share."""

    model: Any
    tokenizer: Any
    epochs: float
    validation: float


Say = Callable[[Row], str]


def voices(base: str, seed: int, copies: int) -> list[Voice]:
    """``copies`` experts of one base that differ in their seed, with the epochs that did best for the first."""
    config = dataclasses.replace(load_config("paper", [f"models.weak={base}"]), seed=seed)
    splits = load_splits(config)
    store = Store(default_store(), numerics(torch.device("cpu"), config.dtype))
    bench = StoredBench(dataclasses.replace(BenchSettings.of(config), device="cpu"), store)
    grid = EPOCHS[Path(base).name]
    first, choice = single_weak(bench, splits.weak_train, splits.validation, config.expert, grid, seed=seed)
    training = dataclasses.replace(config.expert, epochs=choice.chosen)
    others = [
        bench.fine_tune("weak", splits.weak_train, training, seed=derive_seed(seed, "expert", number))
        for number in range(2, copies + 1)
    ]

    def voice(expert: Expert) -> Voice:
        answers = bench.answer(Members.single(expert), splits.validation, purpose="validation")
        right = bench.matches(answers, splits.validation)
        return Voice(bench.shelf.fresh(expert), bench.tokenizer("weak"), choice.chosen, right)

    return [voice(expert) for expert in (*first.experts, *others)]


def by_token(members: Sequence[Voice], form: TaskFormat) -> Say:
    """Answers by experts of one vocabulary, mixed token by token."""
    models, tokenizer = [voice.model for voice in members], members[0].tokenizer

    def say(row: Row) -> str:
        encoded = encode_prompts([row], tokenizer, form, context_length(models[0])).rows
        (answer,) = generate(
            models, [1.0] * len(models), "mean", [encoded[0].input_ids], max_new_tokens=form.max_new_tokens,
            eos_token_ids=end_tokens(models[0], tokenizer), pad_token_id=padding_token(tokenizer),
        )  # fmt: skip
        return str(tokenizer.decode(answer.token_ids, skip_special_tokens=True))

    return say


def by_text(members: Sequence[Voice], form: TaskFormat, alphas: Sequence[float], mode: Mode = "union") -> Say:
    """Answers by experts of any tokenizers, mixed over text."""
    models, tokenizers = [voice.model for voice in members], [voice.tokenizer for voice in members]
    epsilon = 1e-4 if mode == "bytes" else 0.0
    ensemble = TextEnsemble(models, tokenizers, alphas, mode=mode, epsilon=epsilon)

    def say(row: Row) -> str:
        return ensemble.generate([form.prompt(row)], max_new_bytes=LONGEST, stop=["\n"])[0].text

    return say


def asked(say: Say, rows: Sequence[Row], form: TaskFormat) -> tuple[float, float]:
    """Share of rows answered rightly, and processor milliseconds a question."""
    used = time.process_time()
    right = sum(form.same_answer(say(row), row.answer or "", row) for row in rows)
    return right / len(rows), 1e3 * (time.process_time() - used) / len(rows)


def one_seed(seed: int, shared: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Every system's figures for one seed."""
    config = dataclasses.replace(load_config("paper"), seed=seed)
    splits, form = load_splits(config), config.format
    tests = {"easy": splits.test_id[: given.questions], "hard": splits.test_ood[: given.questions]}
    copies = voices("w2s-weak", seed, 2)
    (other,) = voices(str(shared / "models" / OTHER), seed, 1)
    mixed = [copies[0], other]
    chosen = {
        share: asked(by_text(mixed, form, [1 - share, share]), splits.validation[: given.validation], form)[0]
        for share in SHARES
    }
    share = max(chosen, key=lambda found: (chosen[found], found))
    says = {
        "one copy": by_token(copies[:1], form),
        "other tokenizer": by_token([other], form),
        COPIES: by_token(copies, form),
        "two copies, by text": by_text(copies, form, [1.0, 1.0]),
        MIXED: by_text(mixed, form, [1.0, 1.0]),
        CHOSEN: by_text(mixed, form, [1 - share, share]),
        "mixed, by bytes": by_text(mixed, form, [1.0, 1.0], "bytes"),
    }
    found: dict[str, Any] = {}
    for name, say in says.items():
        most = given.by_bytes if name == "mixed, by bytes" else given.questions
        sides = {side: asked(say, rows[:most], form) for side, rows in tests.items()}
        found[name] = {side: {"right": right, "ms": ms, "questions": most} for side, (right, ms) in sides.items()}
    return {
        "seed": seed, "share": share, "shares": {str(key): value for key, value in chosen.items()}, "systems": found,
        "experts": [[voice.epochs, voice.validation] for voice in (*copies, other)],
    }  # fmt: skip


def column(found: Mapping[str, Any], system: str, side: str, what: str) -> list[float]:
    """One figure of one system, seed by seed."""
    return [seed["systems"][system][side][what] for seed in found["seeds"]]


def table(found: Mapping[str, Any]) -> list[str]:
    """The figures of a stored run as a Markdown table."""
    lines = [
        "| system | easy, exact match % | hard, exact match % | ms a question, times two copies |",
        "| --- | --- | --- | --- |",
    ]
    base = [sum(column(found, COPIES, side, "ms")) for side in SIDES]
    for system in SYSTEMS:
        cells = [_share(column(found, system, side, "right")) for side in SIDES]
        ratio = sum(sum(column(found, system, side, "ms")) for side in SIDES) / sum(base)
        lines.append(f"| {system} | {cells[0]} | {cells[1]} | {ratio:.1f} |")
    return lines


def differences(found: Mapping[str, Any]) -> list[str]:
    """Paired by seed against two equal copies; p-values are Holm's over the table. Only systems asked the same questions."""
    gaps = {
        (system, side): paired_over_seeds(column(found, system, side, "right"), column(found, COPIES, side, "right"))
        for system in (MIXED, CHOSEN, "two copies, by text", "one copy")
        for side in SIDES
    }
    corrected = holm({key: gap.p for key, gap in gaps.items()})
    lines = ["| difference | easy, points | p | hard, points | p |", "| --- | --- | --- | --- | --- |"]
    for system in dict.fromkeys(system for system, _ in gaps):
        cells = []
        for side in SIDES:
            gap, p = gaps[system, side], corrected[system, side]
            text = f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            cells += [f"**{text}**" if p < 0.05 else text, "< 0.001" if p < 0.001 else f"{p:.3f}"]
        lines.append(f"| {system} − {COPIES} | {' | '.join(cells)} |")
    return lines


def _share(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    mean = seed_interval(values)
    return f"{100 * mean.value:.1f} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the optional folder of data and models")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7])
    parser.add_argument("--questions", type=int, default=200, help="test questions a side")
    parser.add_argument("--by-bytes", type=int, default=40, help="of them asked in mode bytes")
    parser.add_argument("--validation", type=int, default=60, help="questions on which the weight is chosen")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    given = parser.parse_args()
    if not (given.shared / "models" / OTHER).is_dir():
        print(f"skipped: {given.shared}/models/{OTHER} is not there, and no other model here has another tokenizer")
        return
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": f"{describe()}, load {os.getloadavg()[0]:.1f}", "questions": given.questions,
        "by_bytes": given.by_bytes, "validation": given.validation, "seeds": [],
    }  # fmt: skip
    for seed in given.seeds:
        found["seeds"].append(one_seed(seed, given.shared, given))
        print(f"seed {seed} done", flush=True)
        if given.out is not None:  # after every seed: a run that is cut off has told what it found
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(found["machine"], *table(found), sep="\n")
    if len(given.seeds) > 1:
        print(*differences(found), sep="\n")


if __name__ == "__main__":
    main()

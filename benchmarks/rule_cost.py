"""What every combine rule costs in decoding, at equal experts, prompts and tokens.

    OMP_NUM_THREADS=1 python benchmarks/rule_cost.py --out benchmarks/results/rule_cost.json

Four experts of one base (its weights shaken, so that they differ) decode the same random prompts to the same length: the
built-in world's strong model, and a GPT-NeoX of ten million parameters with a vocabulary of 8,000. All contenders take
turns within a round, in an order that moves on by one each round. A figure is the median over the rounds of seconds over
the seconds of rule ``mean`` (or of one model alone) in the same round, with a 95 % bootstrap interval. Seconds are those
that the processor spent on this process; the wall clock's are kept beside. Rules that are fitted are fitted once, on
random rows, outside of what is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _hardware import describe
from engine_speed import SIZES, base_model

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble.combine import RULES, MixRule, can_fit, fit_rule, open_rule
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.engine.choose import steady_bank
from ensemw2s.ensemble.evidence import expert_tokens
from ensemw2s.ensemble.experts import vocabulary_size
from ensemw2s.models.loading import load_model

UNITS = ("mean", "one model")
RESAMPLES = 2000

Times = Mapping[str, Sequence[float]]


def shaken_experts(base: str, count: int, by: float = 0.05) -> list[Any]:
    """Models of one base whose every weight is multiplied by 1 + ``by`` times a normal number of its own."""
    models = []
    for seed in range(count):
        model = base_model(base, torch.float32) if base in SIZES else load_model(base)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + by * torch.randn(parameter.shape, generator=generator))
        models.append(model.eval())
    return models


def random_rows(count: int, prompt: int, answer: int, vocabulary: int) -> list[EncodedRow]:
    """Rows of random tokens: what they say does not matter for speed."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (count, prompt + answer), generator=generator).tolist()
    return [EncodedRow(str(number), row, prompt) for number, row in enumerate(ids)]


def opened_rules(models: Sequence[Any], names: Sequence[str]) -> dict[str, MixRule]:
    """Every rule, ready; those that can be fitted are, on random rows."""
    alphas = [1.0] * len(models)
    rows = random_rows(32, 16, 8, vocabulary_size(models[0]))
    evidence = [expert_tokens(model, rows, pad_token_id=0) for model in models]
    return {name: open_rule(name, fit_rule(name, evidence, alphas) if can_fit(name) else None) for name in names}


def contenders(models: Sequence[Any], names: Sequence[str], rows: int, tokens: int) -> dict[str, Callable[[], int]]:
    """What is timed: each decodes all prompts and says how many tokens that were."""
    prompts = [row.input_ids for row in random_rows(rows, 24, 0, vocabulary_size(models[0]))]
    together, alone = steady_bank(models), steady_bank(models[:1])

    def decode(bank: Any, rule: MixRule) -> Callable[[], int]:
        def run() -> int:
            answers = generate(
                bank, [1.0] * bank.size, rule, prompts, max_new_tokens=tokens, eos_token_ids=None, pad_token_id=0,
                batch_size=rows,
            )  # fmt: skip
            return sum(len(answer.token_ids) for answer in answers)

        return run

    found = {name: decode(together, rule) for name, rule in opened_rules(models, names).items()}
    return found | {"one model": decode(alone, open_rule("mean"))}


def take_turns(runs: Mapping[str, Callable[[], int]], rounds: int, tokens: int) -> dict[str, dict[str, list[float]]]:
    """Processor and wall seconds of every contender in every round, after a round that is not counted.

    Raises:
        RuntimeError: a contender that did not decode ``tokens`` tokens: the others' times say nothing about its own.
    """
    names = list(runs)
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            began, used = time.perf_counter(), time.process_time()
            made = runs[name]()
            spent = time.process_time() - used, time.perf_counter() - began
            if made != tokens:
                raise RuntimeError(f"'{name}' decoded {made} tokens, not {tokens}")
            if turn:
                cpu[name].append(spent[0])
                wall[name].append(spent[1])
    return {"cpu_s": cpu, "wall_s": wall}


def median_ratio(times: Times, name: str, unit: str, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Median over the rounds of ``name``'s seconds over ``unit``'s, and a 95 % percentile bootstrap over rounds."""
    ratios = np.array(times[name]) / np.array(times[unit])
    drawn = np.random.default_rng(0).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def table(found: Mapping[str, Any]) -> list[str]:
    """The figures of a stored run as a Markdown table."""
    heads, bases = ["rule"], found["bases"]
    for base in bases:
        heads += [f"{base['title']}: times one model", "times `mean`"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name in ("one model", *found["rules"]):
        cells = [name if name == "one model" else f"`{name}`"]
        for base in bases:
            for unit in ("one model", "mean"):
                value, low, high = median_ratio(base["cpu_s"], name, unit)
                cells.append("1" if unit == name else f"{value:.2f} [{low:.2f}, {high:.2f}]")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=["w2s-strong", "10m"], help="built-in names, or sizes")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16, help="prompts, decoded together")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of every answer")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    given = parser.parse_args()
    names = list(dict.fromkeys(["mean", *sorted(RULES)]))
    found: dict[str, Any] = {
        "rules": names, "experts": given.experts, "rows": given.rows, "tokens": given.tokens, "rounds": given.rounds,
        "machine": f"{describe()}, load {os.getloadavg()[0]:.1f}", "bases": [],
    }  # fmt: skip
    for base in given.bases:
        models = shaken_experts(base, given.experts)
        parameters = sum(parameter.numel() for parameter in models[0].parameters()) / 1e6
        title = f"{parameters:.1f} M, {vocabulary_size(models[0]):,} tokens"
        runs = contenders(models, names, given.rows, given.tokens)
        times = take_turns(runs, given.rounds, given.rows * given.tokens)
        found["bases"].append({"name": base, "title": title, **times})
    print(found["machine"], *table(found), sep="\n")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

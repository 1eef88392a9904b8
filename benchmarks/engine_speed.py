"""Decoding with T LoRA experts on one base in this engine, against the ways there were before.

    python benchmarks/engine_speed.py --size 10m --threads 2 --out engine-10m.json

Seconds of one decoding step, random weights, prompts of equal length. Rivals in the same run, taken in turn so that a
busy machine hurts all alike:

    own-1       one model in this engine (the unit of the goals)
    hf-1        one model, transformers' own generate
    own         T experts in this engine, one forward pass for all
    turns       T models, one after the other, each with its cache (plain transformers modules)
    peft        PEFT's mixed batch (adapter_names), same rows

A step's time is (time of a long run - time of a short run) / the steps between; prompts are not read but stand in the
caches as random numbers, which cost the same. The bound
is the larger of bytes / measured bandwidth and FLOPs / measured FLOP/s, both for T experts and for one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _hardware import describe
from transformers import DynamicCache

from ensemw2s.ensemble.combine import open_rule
from ensemw2s.ensemble.engine.adapters import Adapter, parse_adapter
from ensemw2s.ensemble.engine.bank import Turns
from ensemw2s.ensemble.engine.choose import make_bank, pack_model, stack_on
from ensemw2s.ensemble.experts import log_distribution
from ensemw2s.ensemble.record import Record

# name -> (hidden, layers, heads, feed-forward, vocabulary): GPT-NeoX shapes of 10, 100 and 400 million parameters
SIZES = {
    "tiny": (64, 2, 4, 256, 1000),
    "10m": (256, 8, 8, 1024, 8000),
    "100m": (640, 14, 10, 2560, 16000),
    "400m": (1024, 24, 16, 4096, 50304),
}
SHORT, LONG = 2, {"tiny": 34, "10m": 18, "100m": 14, "400m": 10}
RANKS = (8, 16, 64)


@dataclasses.dataclass(frozen=True)
class Cell:
    """Experts, rows and prompt of one cell; its ranks are measured side by side."""

    experts: int
    batch: int
    prompt: int


def cells(size: str) -> list[Cell]:
    """The full grid at 10 M; above, B · T up to 32 with short prompts, and long ones at B = 1."""
    grid = [Cell(t, b, p) for p in (64, 512) for b in (1, 8, 32) for t in (1, 2, 4, 8)]
    if size in ("10m", "tiny"):
        return grid
    return [c for c in grid if (c.prompt == 64 and c.batch * c.experts <= 32) or (c.prompt == 512 and c.batch == 1)]


def base_model(size: str, dtype: torch.dtype) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    hidden, layers, heads, wide, vocabulary = SIZES[size]
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=wide, max_position_embeddings=1024, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config).to(dtype).eval().requires_grad_(False)


def with_adapters(model: Any, experts: int, rank: int) -> Any:
    """PEFT's own multi-adapter model, B filled so that adapters do something."""
    from peft import LoraConfig, get_peft_model

    names = [f"e{n}" for n in range(experts)]
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    peft = get_peft_model(model, settings, adapter_name=names[0], autocast_adapter_dtype=False)
    for name in names[1:]:
        peft.add_adapter(name, settings, autocast_adapter_dtype=False)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
        parameter.requires_grad_(False)
    return peft.to(model.dtype).eval()


def fill(cache: Any, config: Any, rows: int, tokens: int, dtype: torch.dtype) -> None:
    """Random keys and values as if a prompt had been read: what it says does not matter for speed."""
    heads = config.num_attention_heads
    state = torch.randn(rows, heads, tokens, config.hidden_size // heads).to(dtype)
    for layer in range(config.num_hidden_layers):
        cache.update(state, state, layer)


def own_steps(bank: Any, cell: Cell) -> Callable[[int], None]:
    """The inner loop of ``decoding``: passes, mixture, record."""
    model, inside = bank.experts[0], bank.new_cache()
    for part in inside.parts:
        fill(part, model.config, cell.batch * inside.copies, cell.prompt, next(model.parameters()).dtype)
    inside.rows = cell.batch
    alphas, rule = torch.full((bank.size,), 1.0 / bank.size, dtype=torch.float64), open_rule("mean")
    rows, weights = torch.arange(cell.batch), alphas.float()[:, None]

    @torch.inference_mode()
    def run(steps: int) -> None:
        ids, record = torch.ones(cell.batch, 1, dtype=torch.int64), Record(cell.batch, steps, 0, bank.device)
        for step in range(steps):
            positions = torch.full((cell.batch, 1), cell.prompt + step)
            log_probs = log_distribution(
                bank(ids, position_ids=positions, cache=inside, keep=1)[:, :, -1], torch.float32
            )
            mixed = rule(log_probs, alphas)
            chosen = mixed.argmax(dim=-1)
            record.add(step, rows, chosen, chosen < 0, log_probs, mixed, weights)
            ids = chosen[:, None]
        inside.crop(-steps)

    return run


def hf_steps(model: Any, cell: Cell) -> Callable[[int], None]:
    """Transformers' own generate, going on from a filled cache."""
    cache = DynamicCache(config=model.config)
    fill(cache, model.config, cell.batch, cell.prompt, model.dtype)
    ids = torch.ones(cell.batch, cell.prompt + 1, dtype=torch.int64)
    mask = torch.ones_like(ids)

    def run(steps: int) -> None:
        model.generate(
            input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=steps, min_new_tokens=steps,
            do_sample=False, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        cache.crop(cell.prompt - cache.get_seq_length())

    return run


def peft_steps(peft: Any, cell: Cell, cache: Any) -> Callable[[int], None]:
    """Every expert's rows in one batch, mixed per token: what a user would write around PEFT's mixed batch."""
    names = [f"e{n}" for n in range(cell.experts) for _ in range(cell.batch)]

    @torch.inference_mode()
    def run(steps: int) -> None:
        rows = torch.ones(cell.experts * cell.batch, 1, dtype=torch.int64)
        for _ in range(steps):
            output = peft(input_ids=rows, past_key_values=cache, use_cache=True, adapter_names=names, logits_to_keep=1)
            probs = output.logits[:, -1].float().softmax(-1).view(cell.experts, cell.batch, -1).mean(0)
            rows = probs.argmax(-1)[:, None].repeat(cell.experts, 1)
        cache.crop(-steps)

    return run


def step_seconds(runs: dict[str, Callable[[int], None]], repeats: int, long: int) -> dict[str, float]:
    """Seconds of a step of each contender: the median over repeats, contenders in turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run(SHORT)  # not timed: adapters are put in place, memory is warmed
            times = []
            for steps in (SHORT, long):
                began = time.perf_counter()
                run(steps)
                times.append(time.perf_counter() - began)
            found[name].append((times[1] - times[0]) / (long - SHORT))
    return {name: statistics.median(some) for name, some in found.items()}


def machine_limits(dtype: torch.dtype) -> tuple[float, float]:
    """Measured bytes a second of a long read and FLOP/s of a large product, in the dtype of the models."""
    with torch.inference_mode():
        long = torch.ones(64 * 2**20, dtype=torch.float32)
        a = torch.randn(1024, 4096, dtype=dtype)
        b = torch.randn(4096, 4096, dtype=dtype)
        read, product = [], []
        for _ in range(5):
            began = time.perf_counter()
            long.sum()
            read.append(time.perf_counter() - began)
            began = time.perf_counter()
            torch.nn.functional.linear(a, b)
            product.append(time.perf_counter() - began)
    return long.numel() * 4 / min(read), 2 * 1024 * 4096 * 4096 / min(product)


def bound_seconds(size: str, cell: Cell, experts: int, rank: int, item: int, limits: tuple[float, float]) -> float:
    """The larger of the two times of a step, by the formulas of bytes and FLOPs (weights, adapters, cache, logits)."""
    hidden, layers, _, wide, vocabulary = SIZES[size]
    streamed = layers * (4 * hidden * hidden + 2 * hidden * wide) + hidden * vocabulary
    around = layers * (2 * 4 * hidden + 2 * hidden + 2 * (hidden + wide))  # Σ (in + out) of adapted layers
    rows, context = experts * cell.batch, cell.prompt + LONG[size] / 2
    cached = 2 * layers * hidden * item
    moved = streamed * item + experts * rank * around * item + rows * context * cached + 8 * rows * vocabulary
    work = 2 * rows * (streamed + rank * around) + 4 * rows * context * layers * hidden
    return max(moved / limits[0], work / limits[1])


class Contenders:
    """Models of one size, made once; adapters are made for every number of experts."""

    def __init__(self, size: str, dtype: torch.dtype) -> None:
        self.size, self.dtype = size, dtype
        self.packed, self.plain = base_model(size, dtype), [base_model(size, dtype), base_model(size, dtype)]
        pack_model(self.packed)
        self.stacked: Any = None  # what the base holds now
        self.adapted: Any = None
        self.peft: Any = None
        self.base = base_model(size, dtype)
        self.peft_base = base_model(size, dtype)

    def runs(self, cell: Cell) -> dict[str, Callable[[int], None]]:
        """What decodes in a cell, by name; stacks of all ranks take turns on one base."""
        found = {
            "own-1": own_steps(Turns([self.packed]), cell),
            "hf-1": hf_steps(self.plain[0], cell),
            # Two sets of weights by turns cost the memory bus what T sets would, and fit beside the other contenders.
            "turns": own_steps(Turns([self.plain[n % 2] for n in range(cell.experts)]), cell),
        }
        cache = DynamicCache(config=self.plain[0].config)  # one for all ranks: every run takes back what it appended
        fill(cache, self.plain[0].config, cell.experts * cell.batch, cell.prompt, self.dtype)
        for rank in RANKS:
            found[f"own-r{rank}"] = self._own(cell, rank)
            found[f"peft-r{rank}"] = self._peft(cell, rank, cache)
        return found

    def _own(self, cell: Cell, rank: int) -> Callable[[int], None]:
        adapters = [random_adapter(self.plain[0], rank, seed) for seed in range(cell.experts)]

        def run(steps: int) -> None:
            if self.stacked != (cell, rank):
                self.steps, self.stacked = own_steps(make_bank(stack_on(self.base, adapters)), cell), (cell, rank)
            self.steps(steps)

        return run

    def _peft(self, cell: Cell, rank: int, cache: Any) -> Callable[[int], None]:
        def run(steps: int) -> None:
            if self.adapted != (cell.experts, rank):
                base = self.peft.unload() if self.adapted else self.peft_base
                self.peft, self.adapted = with_adapters(base, cell.experts, rank), (cell.experts, rank)
            peft_steps(self.peft, cell, cache)(steps)

        return run


def random_adapter(model: Any, rank: int, seed: int) -> Adapter:
    """LoRA on every linear layer but the output, filled so that it does something; PEFT's names."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, layer in model.named_modules():
        wide = getattr(layer, "in_features", None)
        if wide is None or not name.rpartition(".")[2].startswith(("query_key_value", "dense")) or "base" in name:
            continue
        state[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, wide, generator=generator) * wide**-0.5
        state[f"base_model.model.{name}.lora_B.weight"] = (
            torch.randn(layer.out_features, rank, generator=generator) * 0.01
        )
    return parse_adapter({"peft_type": "LORA", "lora_alpha": 2 * rank}, state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="10m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="T,B,P of one cell; several with a space between")
    parser.add_argument("--out", type=Path, help="a JSON file that grows cell by cell")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    dtype, item = getattr(torch, arguments.dtype), torch.finfo(getattr(torch, arguments.dtype)).bits // 8
    limits = machine_limits(dtype)
    print(describe())
    print(
        f"{arguments.size} {arguments.dtype}: {limits[0] / 1e9:.1f} GB/s, {limits[1] / 1e9:.0f} GFLOP/s; times of own-1"
    )
    print(" T   r  B   P  own-1 ms    own   hf-1  turns   peft  bound")
    contenders, table = Contenders(arguments.size, dtype), []
    for cell in [Cell(*map(int, part.split(","))) for part in arguments.only.split()] or cells(arguments.size):
        found = step_seconds(contenders.runs(cell), arguments.repeats, LONG[arguments.size])
        unit = found["own-1"]
        one = bound_seconds(arguments.size, cell, 1, 0, item, limits)
        bounds = {rank: bound_seconds(arguments.size, cell, cell.experts, rank, item, limits) / one for rank in RANKS}
        table.append({**dataclasses.asdict(cell), "seconds": found, "bounds": bounds})
        for rank in RANKS:
            ratios = [found[name] / unit for name in (f"own-r{rank}", "hf-1", "turns", f"peft-r{rank}")]
            told = " ".join(f"{ratio:6.2f}" for ratio in ratios)
            print(
                f"{cell.experts:2} {rank:3} {cell.batch:2} {cell.prompt:3} {unit * 1e3:9.2f} {told} {bounds[rank]:6.2f}",
                flush=True,
            )
        if arguments.out:
            record = {"size": arguments.size, "dtype": arguments.dtype, "machine": describe(), "limits": limits}
            arguments.out.write_text(json.dumps({**record, "cells": table}, indent=1))


if __name__ == "__main__":
    main()

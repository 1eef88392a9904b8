"""Decoding with T LoRA experts on one base in this engine, against the ways there were before.

    python benchmarks/engine_speed.py --size 10m --threads 2 --out engine-10m.json

Seconds of one decoding step, random weights, prompts of equal length. Rivals in the same run, taken in turn so that a
busy machine hurts all alike:

    own-1       one model in this engine (the unit of the goals)
    hf-1        one model, transformers' own generate
    own         T experts in this engine, one forward pass for all
    turns       T models, one after the other, each with its cache (plain transformers modules)
    peft        PEFT's mixed batch (adapter_names), same rows

A step's time is (time of a long run - time of a short run) / the steps between, so that prompts do not count. The bound
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

from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.engine.bank import Turns
from ensemw2s.ensemble.engine.choose import make_bank, stack_on
from ensemw2s.ensemble.engine.packed import pack_linears

# name -> (hidden, layers, heads, feed-forward, vocabulary): GPT-NeoX shapes of 10, 100 and 400 million parameters
SIZES = {
    "tiny": (64, 2, 4, 256, 1000),
    "10m": (256, 8, 8, 1024, 8000),
    "100m": (640, 14, 10, 2560, 16000),
    "400m": (1024, 24, 16, 4096, 50304),
}
SHORT, LONG = 2, 18


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the grid."""

    experts: int
    rank: int
    batch: int
    prompt: int


def cells(size: str) -> list[Cell]:
    """The full grid at 10 M; above, B · T up to 32 with short prompts, and long ones at B = 1."""
    grid = [Cell(t, r, b, p) for p in (64, 512) for b in (1, 8, 32) for t in (1, 2, 4, 8) for r in (8, 16, 64)]
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


def own_steps(bank: Any, cell: Cell, vocabulary: int) -> Callable[[int], None]:
    prompts = torch.randint(1, vocabulary, (cell.batch, cell.prompt)).tolist()

    def run(steps: int) -> None:
        list(generate(bank, [1.0] * bank.size, "mean", prompts, max_new_tokens=steps, eos_token_ids=None, pad_token_id=0))

    return run


def hf_steps(model: Any, cell: Cell, vocabulary: int) -> Callable[[int], None]:
    ids = torch.randint(1, vocabulary, (cell.batch, cell.prompt))
    mask = torch.ones_like(ids)

    def run(steps: int) -> None:
        model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, pad_token_id=0
        )

    return run


def peft_steps(peft: Any, cell: Cell, vocabulary: int) -> Callable[[int], None]:
    """Every expert's rows in one batch, mixed per token: what a user would write around PEFT's mixed batch."""
    ids = torch.randint(1, vocabulary, (cell.batch, cell.prompt))
    names = [f"e{n}" for n in range(cell.experts) for _ in range(cell.batch)]

    @torch.inference_mode()
    def run(steps: int) -> None:
        rows, cache = ids.repeat(cell.experts, 1), None
        for _ in range(steps):
            output = peft(input_ids=rows, past_key_values=cache, use_cache=True, adapter_names=names, logits_to_keep=1)
            cache = output.past_key_values
            probs = output.logits[:, -1].float().softmax(-1).view(cell.experts, cell.batch, -1).mean(0)
            rows = probs.argmax(-1)[:, None].repeat(cell.experts, 1)

    return run


def step_seconds(runs: dict[str, Callable[[int], None]], repeats: int) -> dict[str, float]:
    """Seconds of a step of each contender: the median over repeats, contenders in turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(SHORT)
    for _ in range(repeats):
        for name, run in runs.items():
            times = []
            for steps in (SHORT, LONG):
                began = time.perf_counter()
                run(steps)
                times.append(time.perf_counter() - began)
            found[name].append((times[1] - times[0]) / (LONG - SHORT))
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


def bound_seconds(size: str, cell: Cell, experts: int, adapted: bool, item: int, limits: tuple[float, float]) -> float:
    """The larger of the two times of a step, by the formulas of bytes and FLOPs (weights, adapters, cache, logits)."""
    hidden, layers, _, wide, vocabulary = SIZES[size]
    streamed = layers * (4 * hidden * hidden + 2 * hidden * wide) + hidden * vocabulary
    around = layers * (2 * 4 * hidden + 2 * hidden + 2 * (hidden + wide)) if adapted else 0  # Σ (in + out), qkv as one
    rank, rows = (cell.rank if adapted else 0), experts * cell.batch
    context = cell.prompt + LONG / 2
    cached = 2 * layers * hidden * item
    moved = streamed * item + experts * rank * around * item + rows * context * cached + 8 * rows * vocabulary
    work = 2 * rows * (streamed + rank * around) + 4 * rows * context * layers * hidden
    return max(moved / limits[0], work / limits[1])


def measure(size: str, cell: Cell, dtype: torch.dtype, repeats: int, rivals: list[str]) -> dict[str, float]:
    vocabulary = SIZES[size][4]
    runs: dict[str, Callable[[int], None]] = {}
    one = base_model(size, dtype)
    pack_linears(one)
    runs["own-1"] = own_steps(Turns([one]), cell, vocabulary)
    if "hf-1" in rivals:
        runs["hf-1"] = hf_steps(base_model(size, dtype), cell, vocabulary)
    peft = with_adapters(base_model(size, dtype), cell.experts, cell.rank)
    if "peft" in rivals:
        runs["peft"] = peft_steps(peft, cell, vocabulary)
    adapters = []
    for n in range(cell.experts):
        peft.set_adapter(f"e{n}")
        adapters.append(_adapter(peft, f"e{n}"))
    runs["own"] = own_steps(make_bank(stack_on(base_model(size, dtype), adapters)), cell, vocabulary)
    if "turns" in rivals:
        # Two sets of weights by turns cost the memory bus what T sets would, and fit beside the other contenders.
        copies = [base_model(size, dtype) for _ in range(min(cell.experts, 2))]
        models = [copies[n % len(copies)] for n in range(cell.experts)]
        runs["turns"] = own_steps(Turns(models), cell, vocabulary)
    return step_seconds(runs, repeats)


def _adapter(peft: Any, name: str) -> Any:
    from peft import get_peft_model_state_dict

    from ensemw2s.ensemble.engine.adapters import parse_adapter

    state = get_peft_model_state_dict(peft, adapter_name=name, save_embedding_layers=False)
    return parse_adapter(peft.peft_config[name].to_dict(), state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="10m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rivals", default="hf-1,peft,turns")
    parser.add_argument("--only", default="", help="T,r,B,P of one cell; several with a space between")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    dtype = getattr(torch, arguments.dtype)
    limits = machine_limits(dtype)
    print(describe())
    print(f"{arguments.size} {arguments.dtype}: {limits[0] / 1e9:.1f} GB/s, {limits[1] / 1e9:.0f} GFLOP/s")
    chosen = [Cell(*map(int, part.split(","))) for part in arguments.only.split()] or cells(arguments.size)
    print(f"{'T':>2} {'r':>3} {'B':>3} {'P':>4} {'own-1 ms':>9} {'own':>6} {'hf-1':>6} {'turns':>6} {'peft':>6} {'bound':>6}")
    table = []
    for cell in chosen:
        found = measure(arguments.size, cell, dtype, arguments.repeats, arguments.rivals.split(","))
        item, unit = torch.finfo(dtype).bits // 8, found["own-1"]
        bounds = [bound_seconds(arguments.size, cell, n, a, item, limits) for n, a in ((cell.experts, True), (1, False))]
        table.append({**dataclasses.asdict(cell), "seconds": found, "bound": bounds[0] / bounds[1]})
        ratios = [f"{found[name] / unit:6.2f}" if name in found else "     -" for name in ("own", "hf-1", "turns", "peft")]
        print(
            f"{cell.experts:2} {cell.rank:3} {cell.batch:3} {cell.prompt:4} {unit * 1e3:9.2f} {' '.join(ratios)} "
            f"{bounds[0] / bounds[1]:6.2f}", flush=True,
        )  # fmt: skip
        if arguments.out:
            record = {"size": arguments.size, "dtype": arguments.dtype, "machine": describe(), "limits": limits}
            arguments.out.write_text(json.dumps({**record, "cells": table}, indent=1))


if __name__ == "__main__":
    main()

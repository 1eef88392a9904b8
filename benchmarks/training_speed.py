"""Training tokens a second against a bare PyTorch loop on the same model, rows and batches.

    python benchmarks/training_speed.py [--model w2s-weak] [--device cpu] [--threads 1] [--rows 1200]

The bare loop is what one writes first: padded batches prepared before the clock starts, the model's own forward pass
with attention mask and masked labels, its own loss, gradient clipping, AdamW. It is timed with AdamW as torch gives
it and with the fused kernel. Medians of three runs each, taken in turn; tokens are real tokens fed (padding not
counted), the same number for all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _hardware import describe

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.models.loading import load_model, model_size, resolve_device
from ensemw2s.training.batches import flatten_rows, plan_epoch
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.settings import TrainSettings

RUNS = 3


def make_rows(count: int, vocabulary: int, share: float) -> list[EncodedRow]:
    """Rows of 20 to 60 random tokens; ``share`` of each is the answer."""
    draw = np.random.default_rng(0)
    rows = []
    for index in range(count):
        length = int(draw.integers(20, 61))
        prompt = length - max(1, round(share * length))
        rows.append(EncodedRow(str(index), draw.integers(3, vocabulary, length).tolist(), prompt))
    return rows


def bare_batches(
    rows: list[EncodedRow], settings: TrainSettings, device: torch.device
) -> list[dict[str, torch.Tensor]]:
    """The batches that ``fine_tune`` will make, whole and padded on the right, on the device."""
    lengths = flatten_rows(rows, None, 0).lengths
    batches = []
    for indices in plan_epoch(lengths, settings, seed=1, epoch=0):
        chosen = [rows[int(index)] for index in indices]
        width = max(len(row.input_ids) for row in chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for at, row in enumerate(chosen):
            size = len(row.input_ids)
            ids[at, :size] = torch.tensor(row.input_ids)
            mask[at, :size] = 1
            labels[at, row.prompt_length : size] = ids[at, row.prompt_length : size]
        batches.append({"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)})
    return batches


def bare_loop(model: Any, batches: list[dict[str, torch.Tensor]], settings: TrainSettings, fused: bool) -> None:
    """One epoch the plain way."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=fused or None)
    for batch in batches:
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, with the device's queue emptied."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(model: Any, rows: list[EncodedRow], settings: TrainSettings, device: torch.device) -> dict[str, float]:
    """Median seconds of each contender; they take turns, so that a slow spell of the machine hits all."""
    batches = bare_batches(rows, settings, device)
    contenders: dict[str, Callable[[], object]] = {
        "bare loop": lambda: bare_loop(model, batches, settings, fused=False),
        "bare loop, fused AdamW": lambda: bare_loop(model, batches, settings, fused=True),
        "fine_tune": lambda: fine_tune(model, rows, settings, seed=1, pad_token_id=0),
    }
    for run in contenders.values():
        run()  # warm-up
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(RUNS):
        for name, run in contenders.items():
            times[name].append(seconds_of(run, device))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", nargs="+", default=["w2s-weak", "w2s-strong"], help="built-in names, folders or hub ids"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--answer-share", type=float, nargs="+", default=[0.3, 1.0])
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    settings = TrainSettings(epochs=1, batch_size=options.batch_size, learning_rate=1e-4)
    print(describe())
    print(f"{'model':<28}{'parameters':>12}{'answer':>8}  {'loop':<24}{'tokens/s':>10}{'ratio':>7}")
    for name in options.model:
        model = load_model(name, device=options.device, dtype=options.dtype)
        for share in options.answer_share:
            rows = make_rows(options.rows, model.config.vocab_size, min(share, 0.95))
            medians = compare(model, rows, settings, device)
            # Every loop feeds the same rows; the last token of a row predicts nothing and is not counted.
            tokens = sum(len(row.input_ids) - 1 for row in rows)
            for loop, seconds in medians.items():
                ratio = medians["bare loop"] / seconds
                label = f"{name.rsplit('/', 1)[-1]:<28}{model_size(model):>12,}{min(share, 0.95):>8.0%}"
                print(f"{label}  {loop:<24}{tokens / seconds:>10,.0f}{ratio:>7.2f}")


if __name__ == "__main__":
    main()

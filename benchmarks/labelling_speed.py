"""Labelling with four experts, as a stream to Parquet, against one question at a time with each expert in turn.

    python benchmarks/labelling_speed.py --questions 10000 --naive 100

The rival is a fair one: every expert keeps its key-value cache, only batching is missing. It answers --naive of the
questions and is compared by questions a second; both must give the same tokens. Goal: at least 20 times, the writing
of the labels included. The twin of the tests, which reads the whole prefix again at every step, answers --cache-free
of them for comparison. --profile tells where the time of the stream goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _hardware import describe

from ensemw2s.data.encoding import encode_prompts
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.naive import naive_generate
from ensemw2s.labelling import label_stream
from ensemw2s.labelling.stream import WINDOW
from ensemw2s.models.loading import load_model, load_tokenizer
from ensemw2s.world.buckets import draw_rows

ALPHAS = (1.3, 1.1, 1.0, 0.9)
LONGEST = 20
FORM = TaskFormat(max_new_tokens=LONGEST)
GOAL = 20


def shaken_experts(base: str = "w2s-weak") -> list[Any]:
    """Four experts that differ: a built-in model with its weights slightly shaken."""
    models = []
    for seed in range(len(ALPHAS)):
        torch.manual_seed(seed)
        model = load_model(base)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.02 * torch.randn_like(parameter))
        models.append(model)
    return models


def questions(count: int) -> list[Row]:
    """Short questions of the built-in world, in an order that makes the first few a fair sample."""
    families = ["count", "distinct", "facts", "order", "reverse", "words"]
    return draw_rows(count, families=families, levels=[4, 5], bucket="question", seed=1, purpose="bench")


@torch.inference_mode()
def one_at_a_time(models: list[Any], prompt: Sequence[int], end: int) -> list[int]:
    """The rival: greedy decoding of one prompt, each expert in turn with a cache of its own."""
    weights = torch.tensor(ALPHAS) / sum(ALPHAS)
    caches: list[Any] = [None] * len(models)
    ids = torch.tensor([prompt])
    answer: list[int] = []
    while len(answer) < LONGEST:
        mixture = torch.zeros(())
        for place, model in enumerate(models):
            output = model(input_ids=ids, past_key_values=caches[place], use_cache=True)
            caches[place] = output.past_key_values
            mixture = mixture + weights[place] * output.logits[0, -1].softmax(-1)
        token = int(mixture.argmax())
        if token == end:
            break
        answer.append(token)
        ids = torch.tensor([[token]])
    return answer


def rate(work: Callable[[], Sequence[Any]]) -> tuple[float, Sequence[Any]]:
    """Results a second, and the results."""
    began = time.perf_counter()
    done = work()
    return len(done) / (time.perf_counter() - began), done


def stream(
    models: list[Any], rows: list[Row], tokenizer: Any, batch_size: int, window: int, **options: Any
) -> list[Row]:
    """All of it: encode, decode, write Parquet."""
    with tempfile.TemporaryDirectory() as folder:
        label_stream(models, ALPHAS, "mean", iter(rows), Path(folder) / "labels", tokenizer=tokenizer, task_format=FORM,
                     batch_size=batch_size, window=window, ensemble_id="bench", **options)  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--naive", type=int, default=60)
    parser.add_argument("--cache-free", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--window", type=int, default=WINDOW)
    parser.add_argument("--soft", type=int, default=0)
    parser.add_argument("--votes", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    print(describe())
    tokenizer, models, rows = load_tokenizer("w2s-weak"), shaken_experts(), questions(arguments.questions)
    prompts = [row.input_ids for row in encode_prompts(rows, tokenizer, FORM, 256).rows]
    end = tokenizer.eos_token_id
    shape = (models, rows, tokenizer, arguments.batch_size, arguments.window)
    options = {"soft_top_k": arguments.soft, "votes": arguments.votes}
    if arguments.profile:
        profile = cProfile.Profile()
        profile.runcall(stream, *shape, **options)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    stream(models, rows[:64], *shape[2:], **options)  # the first call also loads the Parquet library
    ratios = []
    for _ in range(arguments.runs):
        streamed, _ = rate(lambda: stream(*shape, **options))
        slow, single = rate(lambda: [one_at_a_time(models, prompt, end) for prompt in prompts[: arguments.naive]])
        decoding, batched = rate(
            lambda: list(
                generate(models, ALPHAS, "mean", prompts, max_new_tokens=LONGEST, eos_token_ids=end,
                         pad_token_id=tokenizer.pad_token_id, batch_size=arguments.batch_size)
            )
        )  # fmt: skip
        twin, _ = rate(
            lambda: [
                naive_generate(models, ALPHAS, "mean", prompt, max_new_tokens=LONGEST, eos_token_ids=[end])
                for prompt in prompts[: arguments.cache_free]
            ]
        )
        same = sum(a == b.token_ids for a, b in zip(single, batched, strict=False))
        ratios.append(streamed / slow)
        print(
            f"stream to Parquet {streamed:,.0f} questions/s ({streamed / slow:.1f} times), decoding alone {decoding:,.0f} "
            f"({decoding / slow:.1f} times), one at a time {slow:,.1f}, without cache {twin:,.1f}; "
            f"{same} of {len(single)} answers equal", flush=True,
        )  # fmt: skip
    found = statistics.median(ratios)
    verdict = "met" if found >= GOAL else f"missed by {100 * (1 - found / GOAL):.0f} %"
    print(f"median of {len(ratios)}: {found:.1f} times one at a time; goal {GOAL}: {verdict}")


if __name__ == "__main__":
    main()

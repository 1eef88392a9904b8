"""Labelling with four experts in batches, against one question at a time with each expert in turn.

    python benchmarks/labelling_speed.py --questions 1000 --naive 60

The rival is a fair one: every expert keeps its key-value cache, only batching is missing. It answers --naive of the
questions and is compared by questions a second; both must give the same tokens. Goal: at least 10 times. The twin of
the tests, which reads the whole prefix again at every step, answers --cache-free of them for comparison.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import torch
from _hardware import describe

from ensemw2s.data.encoding import encode_prompts
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.naive import naive_generate
from ensemw2s.models.loading import load_model, load_tokenizer
from ensemw2s.world.buckets import draw_rows

ALPHAS = (1.3, 1.1, 1.0, 0.9)
LONGEST = 20


@torch.inference_mode()
def one_at_a_time(models: list[Any], prompt: list[int], end: int) -> list[int]:
    weights = torch.tensor(ALPHAS) / sum(ALPHAS)
    caches: list[Any] = [None] * len(models)
    ids, answer = torch.tensor([prompt]), []
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--naive", type=int, default=60)
    parser.add_argument("--cache-free", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print(describe())
    tokenizer = load_tokenizer("w2s-weak")
    models = []
    for seed in range(len(ALPHAS)):  # four experts that differ: the built-in weak model, slightly shaken
        torch.manual_seed(seed)
        model = load_model("w2s-weak")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.02 * torch.randn_like(parameter))
        models.append(model)
    families = ["count", "distinct", "facts", "order", "reverse", "words"]
    rows = draw_rows(arguments.questions, families=families, levels=[4, 5], bucket="question", seed=1, purpose="bench")
    prompts = [row.input_ids for row in encode_prompts(rows, tokenizer, TaskFormat(max_new_tokens=LONGEST), 256).rows]
    draws = random.Random(1)
    draws.shuffle(prompts)  # so that the first few are a fair sample
    ratios, twin_ratios = [], []
    for _ in range(arguments.runs):
        began = time.perf_counter()
        batched = list(
            generate(models, ALPHAS, "mean", prompts, max_new_tokens=LONGEST, eos_token_ids=tokenizer.eos_token_id,
                     pad_token_id=tokenizer.pad_token_id, batch_size=256)
        )  # fmt: skip
        fast = len(prompts) / (time.perf_counter() - began)
        began = time.perf_counter()
        single = [one_at_a_time(models, prompt, tokenizer.eos_token_id) for prompt in prompts[: arguments.naive]]
        slow = len(single) / (time.perf_counter() - began)
        same = sum(a == b.token_ids for a, b in zip(single, batched, strict=False))
        began = time.perf_counter()
        for prompt in prompts[: arguments.cache_free]:
            naive_generate(
                models, ALPHAS, "mean", prompt, max_new_tokens=LONGEST, eos_token_ids=[tokenizer.eos_token_id]
            )
        twin = arguments.cache_free / (time.perf_counter() - began)
        ratios.append(fast / slow)
        twin_ratios.append(fast / twin if twin else float("nan"))
        print(
            f"batched {fast:,.0f} questions/s, one at a time {slow:,.1f} ({fast / slow:.1f} times), without cache {twin:,.1f}; "
            f"{same} of {len(single)} answers equal", flush=True,
        )  # fmt: skip
    print(
        f"median of {len(ratios)}: {statistics.median(ratios):.1f} times one at a time, "
        f"{statistics.median(twin_ratios):.1f} times without cache"
    )


if __name__ == "__main__":
    main()

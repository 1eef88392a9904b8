"""Prepare a built-in model for long answers: a longer context, and text of the family ``chain``. One command:

    python -m ensemw2s.world.lengthen w2s-weak --out FOLDER

The model is loaded with a context of 1,024 tokens (its positions are rotary, so that no weight changes) and trained on
``text`` instances only, in wordings that no training or test row uses: first on the parts of a chain, lists said twice
and single sums, then on chains that grow from a few steps to the longest. The loss is that of the second list, of the
sum's result, or of the chain; the numbers before it are drawn at random, and nothing is learned from guessing them.

Without the sums a chain is learned when its additions are, which happens late and at a step that rounding decides; in
one wording alone, experts carry over to the task's wording from some of the models and not from others.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ensemw2s.artifacts import write_json
from ensemw2s.models.loading import load_model, load_tokenizer
from ensemw2s.seeds import derive_seed
from ensemw2s.world.buckets import WORLD_VERSION, draw_instance
from ensemw2s.world.chains import RING, items_text
from ensemw2s.world.family import find_family

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 1024


@dataclasses.dataclass(frozen=True)
class Lengthening:
    """How a model is prepared.

    Attributes:
        part_tokens: tokens of lists said twice and of single sums, batch by batch at random.
        chain_tokens: tokens of chains.
        growth: share of the chains' tokens over which the longest chain grows to its full length.
        batch_tokens: tokens an optimiser step, about; one document at least.
        muon_rate, adam_rate, warmup: peak rates as in pretraining, and steps of linear warm-up. They fall to 0.
        seed: of the text.
    """

    part_tokens: int = 500_000
    chain_tokens: int = 3_500_000
    growth: float = 0.5
    batch_tokens: int = 1024
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    warmup: int = 100
    seed: int = 1


_SHORT = (3, 4, 6, 8, 12, 16, 24)  # steps of the documents that a model begins with


def list_document(generator: random.Random, steps: int) -> tuple[str, str]:
    """A list and the same again: what comes before, and what is learned."""
    operands = draw_instance(find_family("chain"), steps, "text", generator)
    items = items_text(operands)
    return f"{items} From {RING[operands[0]]}:", f" {items}"


def sum_document(generator: random.Random, steps: int) -> tuple[str, str]:
    """One sum, as a step of any number of ``steps`` writes it."""
    value, number = generator.randrange(10), generator.randrange(10)
    return f"{value}+{number}=", str((value + number) % 10)


def chain_document(generator: random.Random, steps: int) -> tuple[str, str]:
    """A chain, stated or asked in wordings that are not the task's."""
    family = find_family("chain")
    operands = draw_instance(family, steps, "text", generator)
    answer = f" {family.answer(operands)}"
    if generator.random() < 0.5:
        return generator.choice(family.statements)(operands).removesuffix(answer), answer
    return f"Question: {generator.choice(family.asked)(operands)}\nAnswer:", answer


def batches(
    recipe: Lengthening, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
    """(share done, input ids, labels) of every step; int64 ``[batch, seq]``, -100 where nothing is learned.

    All documents of a batch have as many steps.
    """
    generator = random.Random(derive_seed(recipe.seed, "world", "lengthen"))
    sizes = sorted({*_SHORT, *find_family("chain").sizes})
    total, seen = recipe.part_tokens + recipe.chain_tokens, 0
    while seen < total:
        chains = seen >= recipe.part_tokens
        grown = (seen - recipe.part_tokens) / max(1.0, recipe.growth * recipe.chain_tokens) if chains else 0.0
        steps = generator.choice([size for size in sizes if size <= max(_SHORT[-1], grown * sizes[-1])])
        document = chain_document if chains else generator.choice((list_document, sum_document))
        rows: list[tuple[list[int], list[int]]] = []
        while not rows or (len(rows) + 1) * len(rows[0][0]) <= recipe.batch_tokens:
            before, after = document(generator, steps)
            prompt, answer = tokenizer(before)["input_ids"], [*tokenizer(after)["input_ids"], tokenizer.eos_token_id]
            rows.append((prompt + answer, [-100] * len(prompt) + answer))
        width = max(len(ids) for ids, _ in rows)  # the two wordings of a chain differ by a few tokens
        inputs = torch.tensor([ids + [tokenizer.eos_token_id] * (width - len(ids)) for ids, _ in rows])
        labels = torch.tensor([ids + [-100] * (width - len(ids)) for _, ids in rows])
        yield seen / total, inputs, labels
        seen += inputs.numel()


def lengthen(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, recipe: Lengthening, report_every: int = 200
) -> None:
    """Train ``model`` in place; prints a line of progress now and then."""
    model.config.max_position_embeddings = CONTEXT
    tokenizer.model_max_length = CONTEXT
    model.train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimisers: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, momentum=0.95), recipe.muon_rate),
        (torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0), recipe.adam_rate),
    ]
    began, tokens = time.perf_counter(), 0
    for step, (done, inputs, labels) in enumerate(batches(recipe, tokenizer)):
        scale = min(1.0, (step + 1) / recipe.warmup) * (1 - done)
        for optimiser, peak in optimisers:
            optimiser.param_groups[0]["lr"] = peak * scale
        loss = model(input_ids=inputs, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, _ in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        tokens += inputs.numel()
        if (step + 1) % report_every == 0:
            rate = tokens / (time.perf_counter() - began)
            print(
                f"step {step + 1}  tokens {tokens / 1e6:.2f} M  loss {loss.item():.3f}  {rate:,.0f} tokens/s",
                flush=True,
            )
    model.eval()


def prepare(model: str, out: Path, recipe: Lengthening) -> None:
    """Prepare ``model``, a built-in model's name or a folder, into the folder ``out``; its ``recipe.json`` comes last.

    The same number of threads gives the same weights on the same kind of processor. Another number gives others: sums
    are rounded in another order, and over thousands of steps the difference grows.
    """
    network, tokenizer = load_model(model), load_tokenizer(model)
    torch.manual_seed(derive_seed(recipe.seed, "world", "lengthen"))
    began = time.perf_counter()
    lengthen(network, tokenizer, recipe)
    network.save_pretrained(out)
    tokenizer.save_pretrained(out)
    details = {"model": model, "recipe": dataclasses.asdict(recipe), "world_version": WORLD_VERSION,
               "seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__}  # fmt: skip
    write_json(out / "recipe.json", details)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a built-in model's name, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, in Hugging Face format")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; default 1, another number gives other weights"
    )
    for field in dataclasses.fields(Lengthening):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Lengthening(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Lengthening)})
    prepare(arguments.model, arguments.out, recipe)


if __name__ == "__main__":
    main()

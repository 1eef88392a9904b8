"""Pretrain the built-in models. One command makes one of them again:

    python -m ensemw2s.world.pretrain w2s-weak --out FOLDER

The text is streamed from a seed, batches hold documents of like length and about equally many tokens,
hidden matrices are trained with Muon (the rest with AdamW), and the learning rate falls linearly to zero
after a short warm-up. Two phases: statements alone, then statements and questions in wordings that no training
or test row uses, so that fine-tuning has to elicit a skill and not to teach a form.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ensemw2s.artifacts import write_json
from ensemw2s.seeds import derive_seed
from ensemw2s.world.buckets import WORLD_VERSION
from ensemw2s.world.corpus import documents
from ensemw2s.world.vocabulary import CONTEXT, build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one model of the family is made.

    Attributes:
        hidden, layers, heads: shape of the GPT-NeoX model; the feed-forward width is 4 * hidden.
        tokens: tokens of the first phase (statements), padding not counted.
        asked_tokens: tokens of the second phase, in which ``asked`` of the documents are questions with answers.
        asked: see there.
        batch_tokens: tokens an optimiser step, about.
        muon_rate: peak learning rate of the hidden matrices.
        adam_rate: peak learning rate of embeddings, norms and biases.
        warmup: steps of linear warm-up.
        seed: seed of weights and text.
        stored: dtype of the shipped weights.
        architecture: GPT-NeoX, or Llama (feed-forward 3 * hidden, gated, so that the sizes stay close).
    """

    hidden: int
    layers: int
    heads: int
    tokens: int
    asked_tokens: int
    asked: float = 0.5
    batch_tokens: int = 4096
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    warmup: int = 100
    seed: int = 1
    stored: str = "float32"
    architecture: Literal["gpt_neox", "llama"] = "gpt_neox"


# The first three are the family. The others are weak models again, from other weights and other text: seed 2 for
# choices, 5 to 7 for figures no choice had seen, 9 to 11 to make the default's pool one of eight. Not shipped are eight
# more, on which the finished default was measured, one of another architecture, and one of another size: twice the
# parameters on half the text, for about the same compute.
_WEAK = Recipe(hidden=48, layers=3, heads=4, tokens=16_000_000, asked_tokens=2_000_000)
RECIPES = {
    "w2s-weak": _WEAK,
    "w2s-strong": Recipe(hidden=128, layers=4, heads=4, tokens=20_000_000, asked_tokens=6_000_000),
    "w2s-large": Recipe(hidden=176, layers=5, heads=4, tokens=12_000_000, asked_tokens=3_000_000, stored="float16"),
    **{
        f"w2s-weak-{seed}": dataclasses.replace(_WEAK, seed=seed, stored="float16")
        for seed in (2, 5, 6, 7, *range(9, 20))
    },
    "w2s-weak-llama": dataclasses.replace(_WEAK, hidden=64, layers=2, seed=4, stored="float16", architecture="llama"),
    "w2s-weak-wide": dataclasses.replace(
        _WEAK, hidden=72, heads=6, tokens=8_000_000, asked_tokens=1_000_000, seed=8, stored="float16"
    ),
}


def build_model(recipe: Recipe, vocabulary: int, end: int, pad: int) -> PreTrainedModel:
    """A freshly initialised model of the recipe's shape."""
    from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": recipe.hidden,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    config: PreTrainedConfig
    if recipe.architecture == "llama":
        config = LlamaConfig(intermediate_size=3 * recipe.hidden, **shape)
    else:
        config = GPTNeoXConfig(intermediate_size=4 * recipe.hidden, rotary_pct=0.5, **shape)
    torch.manual_seed(derive_seed(recipe.seed, "world", "weights"))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def batches(recipe: Recipe, asked: float = 0.0, window: int = 40_000) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (input ids, labels), int64 ``[batch, seq]``; padding is -100 in the labels."""
    tokenizer = build_tokenizer()
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    stream = documents(10**12, recipe.seed, asked)
    shuffle = random.Random(derive_seed(recipe.seed, "world", "batches"))
    while True:
        encoded = tokenizer(list(islice(stream, window)))["input_ids"]
        encoded.sort(key=len)  # stable, so the stream alone decides
        groups: list[list[list[int]]] = [[]]
        for ids in encoded:
            if (len(groups[-1]) + 1) * (len(ids) + 1) > recipe.batch_tokens:
                groups.append([])
            groups[-1].append([*ids, end])
        shuffle.shuffle(groups)
        for group in groups:
            width = max(map(len, group))
            inputs = torch.tensor([ids + [pad] * (width - len(ids)) for ids in group])
            labels = torch.tensor([ids + [-100] * (width - len(ids)) for ids in group])
            yield inputs, labels


def train(model: PreTrainedModel, recipe: Recipe, tokens: int, asked: float, report_every: int = 500) -> None:
    """One phase: ``tokens`` tokens of text of which ``asked`` are questions. Prints a line of progress now and then."""
    stream = batches(recipe, asked)
    # The second phase starts from trained weights: half the rates.
    scale_of_phase = 0.5 if asked else 1.0
    model.train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [scale_of_phase * recipe.muon_rate, scale_of_phase * recipe.adam_rate]
    seen = step = 0
    began = time.perf_counter()
    while seen < tokens:
        inputs, labels = next(stream)
        scale = min(1.0, (step + 1) / recipe.warmup) * max(0.0, 1 - seen / tokens)
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            optimiser.param_groups[0]["lr"] = peak * scale
        # Documents are whole rows padded on the right: causal attention never looks at the padding.
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        seen += int((labels != -100).sum())
        step += 1
        if step % report_every == 0:
            rate = seen / (time.perf_counter() - began)
            print(f"step {step}  tokens {seen / 1e6:.1f} M  loss {loss.item():.3f}  {rate:,.0f} tokens/s", flush=True)
    model.eval()


def main() -> None:
    """The command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="folder to write, in Hugging Face format")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's own choice)")
    parser.add_argument("--first-phase", type=Path, help="start from this finished first phase")
    parser.add_argument("--tokens", type=int, help="train the first phase on fewer or more tokens")
    parser.add_argument("--asked-tokens", type=int, help="the same for the second phase")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    recipe = RECIPES[arguments.model]
    changes = {"tokens": arguments.tokens, "asked_tokens": arguments.asked_tokens}
    recipe = dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    began = time.perf_counter()
    tokenizer = build_tokenizer()
    if arguments.first_phase:
        model = load_first_phase(arguments.first_phase)
    else:
        model = build_model(recipe, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
        train(model, recipe, recipe.tokens, 0.0)
        save(model, recipe, arguments.out / "first-phase", began)
    if recipe.asked_tokens:
        train(model, recipe, recipe.asked_tokens, recipe.asked)
    save(model, recipe, arguments.out, began)


def load_first_phase(folder: Path) -> PreTrainedModel:
    """The model a first phase left."""
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def save(model: PreTrainedModel, recipe: Recipe, folder: Path, began: float) -> None:
    """Write the model, its tokenizer, and how it was made."""
    copy.deepcopy(model).to(getattr(torch, recipe.stored)).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    details = {
        "recipe": dataclasses.asdict(recipe),
        "world_version": WORLD_VERSION,
        "seconds": round(time.perf_counter() - began, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_json(folder / "recipe.json", details)


if __name__ == "__main__":
    main()

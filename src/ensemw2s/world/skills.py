"""Measured skills of a pretrained model: how often it completes a statement about a test instance.

Statements are what the models are pretrained on, so this is the skill that lies latent before any
fine-tuning; the question form is new to it (but for people's ages).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ensemw2s.seeds import derive_seed
from ensemw2s.world.buckets import draw_instance
from ensemw2s.world.family import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], longest: int = 24
) -> list[str]:
    """Greedy completions up to the end token."""
    texts: list[str] = []
    for start in range(0, len(prompts), 256):
        batch = tokenizer(list(prompts[start : start + 256]), return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            output = model.generate(
                **batch, max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        texts += tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def measure_skills(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: int = 64, seed: int = 0
) -> dict[str, list[float]]:
    """Share of statements completed rightly, by family and difficulty 1, 2, 3 ..., on ``rows`` test instances each."""
    names, prompts, answers = [], [], []
    for name, family in FAMILIES.items():
        for level, size in enumerate(family.sizes, start=1):
            generator = random.Random(derive_seed(seed, "world", "skills", name, level))
            for _ in range(rows):
                operands = draw_instance(family, size, "test", generator)
                answer = family.answer(operands)
                names.append((name, level))
                prompts.append(generator.choice(family.statements)(operands).removesuffix(f" {answer}"))
                answers.append(answer)
    right = [a == b for a, b in zip(complete(model, tokenizer, prompts), answers, strict=True)]
    skills: dict[str, list[float]] = {}
    for name, family in FAMILIES.items():
        for level in family.levels:
            hits = [hit for key, hit in zip(names, right, strict=True) if key == (name, level)]
            skills.setdefault(name, []).append(sum(hits) / len(hits))
    return skills

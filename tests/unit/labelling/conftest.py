"""Tiny random experts over a few words, and questions for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ensemw2s.data.rows import Row

WORDS = [
    "</s>",
    "<unk>",
    "what",
    "is",
    "one",
    "two",
    "three",
    "four",
    "plus",
    "?",
    "a",
    "b",
    "c",
    "Question",
    "Answer",
    ":",
]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>", pad_token="</s>")


@pytest.fixture(scope="session")
def experts() -> list[Any]:
    """Three GPT-NeoX with weights drawn wide, so that they differ; a context of 24 tokens."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = GPTNeoXConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=24, initializer_range=0.4, eos_token_id=0,
        )  # fmt: skip
        models.append(GPTNeoXForCausalLM(config).eval())
    return models


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[Row]]:
    """``make_rows(n)``: n questions of two to eight words, every third with options and a column of its own."""

    def make(count: int, *, choices: bool = True) -> list[Row]:
        words = WORDS[2:13]
        rows = []
        for number in range(count):
            text = " ".join(
                words[(number * 7 + place * (number % 5 + 1)) % len(words)] for place in range(2 + number % 7)
            )
            options = ("one two", "three", "four plus a") if choices and number % 3 == 0 else None
            raw = {"id": f"q{number}", "question": text, "topic": {"n": number}} if number % 3 == 0 else {}
            rows.append(Row(f"q{number}", text, choices=options, raw=raw))
        return rows

    return make

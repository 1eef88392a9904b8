"""Model folders made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = ["<end>", "<unk>", "one", "two", "three", "four"]


def build_tokenizer(words: list[str] = WORDS, end: str | None = "<end>", **options: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, unk_token="<unk>", **options)


def build_model(seed: int = 0, vocab: int = 8, **options: Any) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = GPTNeoXConfig(
            vocab_size=vocab, max_position_embeddings=24, initializer_range=0.2, **{**sizes, **options}
        )
        return GPTNeoXForCausalLM(config).eval()


@pytest.fixture
def tokenizer() -> Callable[..., Any]:
    return build_tokenizer


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    return build_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model folder: config, safetensors weights, tokenizer."""
    path = tmp_path / "tiny"
    build_model().save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path

"""Tiny random models of three families: rotary, rotary with grouped heads and norms, learned positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

VOCAB = 37
CONTEXT = 32


def tiny_model(family: str, seed: int, vocab: int = VOCAB) -> Any:
    """Weights drawn wide, so that distributions are far from flat and top tokens differ between experts."""
    import transformers as tf

    torch.manual_seed(seed)
    common = {"vocab_size": vocab, "initializer_range": 0.4}
    if family == "gpt2":
        config = tf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, **common)
        return tf.GPT2LMHeadModel(config).eval()
    shared = dict(hidden_size=16, num_hidden_layers=2, intermediate_size=32, max_position_embeddings=CONTEXT, **common)
    if family == "llama":
        return tf.LlamaForCausalLM(
            tf.LlamaConfig(num_attention_heads=4, num_key_value_heads=2, bos_token_id=None, **shared)
        ).eval()
    return tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(num_attention_heads=2, rotary_pct=0.5, **shared)).eval()


@pytest.fixture(params=["gptneox", "llama", "gpt2"])
def family(request) -> str:
    return str(request.param)


@pytest.fixture
def make_experts() -> Callable[..., list[Any]]:
    return lambda family, count, seed=0: [tiny_model(family, seed * 100 + expert) for expert in range(count)]


@pytest.fixture
def ragged_prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(5)
    lengths = [4, 1, 9, 4, 12, 2, 7, 1, 9]
    return [torch.randint(0, VOCAB, (length,), generator=draw).tolist() for length in lengths]

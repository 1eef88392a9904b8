"""Tiny random experts and a word tokenizer for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

WORDS = ["</s>", "<s>", "<unk>", "what", "is", "one", "two", "three", "four", "plus", "?", "a", "b", "c"]
VOCAB = 16  # two more than words: output layers are often padded


@pytest.fixture
def make_expert() -> Callable[..., Any]:
    """``make_expert(seed, **config)``: a GPT-NeoX with weights drawn wide, so that experts differ."""

    def make(seed: int, **changes: Any) -> Any:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        torch.manual_seed(seed)
        settings = {
            "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "max_position_embeddings": 24, "initializer_range": 0.4, "bos_token_id": 1, "eos_token_id": 0,
        }  # fmt: skip
        return GPTNeoXForCausalLM(GPTNeoXConfig(**settings | changes)).eval()

    return make


@pytest.fixture
def tokenizer() -> Any:
    """Words as tokens; a start token before every text and, as a trap, an end token after it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )

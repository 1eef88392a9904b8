"""Toy tokenizers over a few byte strings, tiny random models for them, and the brute-force oracle."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch


def build_tokenizer(tokens: Sequence[str], *, start: bool = True, space: bool = False) -> Any:
    """Unigram over ``<s>``, ``</s>`` and ``tokens`` (``<0xAB>`` is a byte); ``space``: U+2581 before every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", *tokens]
    inner = Tokenizer(models.Unigram([(name, -float(len(name) == 1)) for name in names], unk_id=0, byte_fallback=True))
    steps = [decoders.ByteFallback(), decoders.Fuse()]
    if space:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), *steps, decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    if start:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", name_or_path="toy")


def build_model(width: int, seed: int, context: int = 32, **changes: Any) -> Any:
    """A GPT-NeoX in float64 with weights drawn wide; end token 1."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": width, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": context, "initializer_range": 0.5, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    return GPTNeoXForCausalLM(GPTNeoXConfig(**settings | changes)).double().eval()


def build_llama(width: int, seed: int, context: int = 64) -> Any:
    """A Llama in float64 with weights drawn wide; end token 1."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=width, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=context, initializer_range=0.5, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


class Oracle:
    """P(text begins with x) by enumeration: all sequences of n choices among tokens and end, n the bytes of x.

    Every token has at least one byte, so n choices decide whether a text begins with x. It shares no code with the
    package: the model is asked for whole sequences, without a cache.
    """

    def __init__(self, model: Any, spelled: dict[int, bytes], start: Sequence[int]) -> None:
        self.model, self.spelled, self.start, self.end = model, spelled, list(start), 1

    def prefix(self, wanted: bytes, *, closed: bool = False) -> float:
        """P(the text begins with ``wanted``); ``closed``: P(the text is ``wanted``)."""
        choices = [*self.spelled, self.end]
        count = len(wanted) + closed
        if count == 0:
            return 1.0
        sequences = torch.tensor([[*self.start, *tail] for tail in itertools.product(choices, repeat=count)])
        with torch.inference_mode():
            logits = self.model(sequences).logits[:, len(self.start) - 1 : -1]
        allowed = torch.full((logits.shape[-1],), -torch.inf, dtype=torch.float64)
        allowed[choices] = 0.0
        steps = torch.log_softmax(logits + allowed, dim=-1)
        total = 0.0
        for sequence, log_probs in zip(sequences[:, len(self.start) :].tolist(), steps, strict=True):
            stop = sequence.index(self.end) if self.end in sequence else count
            if any(token != self.end for token in sequence[stop:]):
                continue  # the end absorbs: each closed text is counted once
            text = b"".join(self.spelled[token] for token in sequence[:stop])
            if text == wanted if closed else text.startswith(wanted):
                if closed and stop == count:
                    continue  # not closed after all
                used = sequence[: min(stop + 1, count)]
                total += float(log_probs[range(len(used)), used].sum().exp())
        return total


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    return build_tokenizer


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return build_model


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Any]:
    return build_llama


@pytest.fixture(scope="session")
def oracle() -> type[Oracle]:
    return Oracle

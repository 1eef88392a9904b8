"""Tiny models and rows for the training loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemw2s.data.encoding import EncodedRow

sys.path.insert(0, str(Path(__file__).parent))  # losskit

VOCAB = 40


@pytest.fixture
def make_rows() -> Callable[..., list[Any]]:
    """``make_rows([(prompt, answer), ...])`` or ``make_rows(count, seed)`` of ragged random rows."""

    def build(spec: int | Sequence[tuple[Sequence[int], Sequence[int]]], seed: int = 0) -> list[Any]:
        if isinstance(spec, int):
            draw = np.random.default_rng(seed)
            spec = [
                (
                    draw.integers(1, VOCAB, draw.integers(2, 9)).tolist(),
                    draw.integers(1, VOCAB, draw.integers(1, 5)).tolist(),
                )
                for _ in range(spec)
            ]
        return [EncodedRow(f"r{i}", [*prompt, *answer], len(prompt)) for i, (prompt, answer) in enumerate(spec)]

    return build


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """``make_model(dropout=0.0, dtype=torch.float32)``: a GPT-NeoX of two layers, the same weights every call."""

    def build(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Any:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        with torch.random.fork_rng():
            torch.manual_seed(7)
            config = GPTNeoXConfig(
                vocab_size=VOCAB,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
                hidden_dropout=dropout,
                initializer_range=0.2,
            )
            return GPTNeoXForCausalLM(config).to(dtype).eval()

    return build


@pytest.fixture
def nll() -> Callable[..., torch.Tensor]:
    """``nll(model, row)``: -log p of every answer token, from one unpadded forward pass."""

    def score(model: Any, row: Any) -> torch.Tensor:
        with torch.no_grad():
            log_probs = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        places = torch.arange(row.prompt_length, len(row.input_ids))
        return -log_probs[places - 1, torch.tensor(row.input_ids)[places]]

    return score

"""Memory that runs out: smaller micro-batches, the same training."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.errors import ModelError
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.settings import TrainSettings
from ensemw2s.training.step import is_out_of_memory

ROWS = [EncodedRow(str(n), [1, 2 + n % 5, 3 + n % 7, 4, 0], 2) for n in range(12)]
SETTINGS = TrainSettings(epochs=2, batch_size=6, learning_rate=1e-2)


def model(dropout: float = 0.0) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return GPTNeoXForCausalLM(
            GPTNeoXConfig(vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                          intermediate_size=32, max_position_embeddings=16, hidden_dropout=dropout)
        )  # fmt: skip


def train(made: Any, **changes: Any) -> Any:
    import dataclasses

    return fine_tune(made, ROWS, dataclasses.replace(SETTINGS, **changes), seed=1, pad_token_id=0)


def small_memory(made: Any, most: int, error: type[Exception] = RuntimeError) -> list[int]:
    """Let the model's body fail in training with more than ``most`` rows, as an allocator does. Returns row counts."""
    seen: list[int] = []
    forward = made.gpt_neox.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        rows = len(kwargs.get("input_ids", args[0] if args else ()))
        if torch.is_grad_enabled():
            seen.append(rows)
            if rows > most:
                raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return forward(*args, **kwargs)

    made.gpt_neox.forward = limited
    return seen


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, MemoryError])
def test_the_micro_batch_is_halved_and_the_training_is_the_same(error, caplog) -> None:
    caplog.set_level(logging.WARNING, logger="ensemw2s.training")
    plain, tight = model(), model()
    wanted = train(plain)
    seen = small_memory(tight, 2, error)
    found = train(tight)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(tight.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    assert found.losses == pytest.approx(wanted.losses, abs=1e-5)
    assert found[:3] == wanted[:3]
    assert sum(rows > 2 for rows in seen) == 2  # 6 and 3 fail once each, and never again
    assert [record.args for record in caplog.records] == [(6, 3), (3, 2)]


def test_it_is_what_a_small_micro_batch_from_the_start_gives_with_dropout(caplog) -> None:
    plain, tight = model(0.3), model(0.3)
    train(plain, micro_batch_size=3)
    small_memory(tight, 3)
    train(tight)
    for name, value in plain.state_dict().items():
        assert torch.equal(tight.state_dict()[name], value), name


def test_one_row_that_does_not_fit_is_one_clear_line() -> None:
    made = model()
    small_memory(made, 0)
    with pytest.raises(ModelError, match=r"not even one row \(of up to 4 tokens\) fits"):
        train(made)
    assert not made.training
    assert all(parameter.grad is None for parameter in made.parameters())


def test_other_errors_are_not_taken_for_it() -> None:
    made = model()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    made.gpt_neox.forward = broken
    with pytest.raises(RuntimeError, match="shapes"):
        train(made)
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert not is_out_of_memory(ValueError("no"))

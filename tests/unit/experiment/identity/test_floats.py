"""What is in an identity (docs/adr/0010): what decides the floats; what changes no bit, or too little to matter, is out."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from ensemw2s.data.encoding import encode_prompts, encode_rows, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.experts import end_tokens
from ensemw2s.experiment import identity as identity_module
from ensemw2s.experiment.identity import numerics, training_identity
from ensemw2s.models.adapters import LoraSettings, add_lora
from ensemw2s.models.loading import load_model, load_tokenizer
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.settings import TrainSettings

DECIDES_FLOATS = {"device", "hardware", "dtype", "threads", "matmul", "torch", "transformers", "tokenizers", "numpy"}


def test_numerics_hold_what_decides_the_floats() -> None:
    cpu = numerics(torch.device("cpu"), "float32")
    assert set(cpu) == DECIDES_FLOATS
    assert cpu["hardware"] == torch.backends.cpu.get_cpu_capability()
    assert numerics(torch.device("cuda"), "float32")["threads"] is None  # a GPU's sums do not know of CPU threads


def test_processes_that_share_a_step_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = numerics(torch.device("cpu"), "float32")
    monkeypatch.setattr(identity_module.parallel, "world", lambda: 2)
    shared = numerics(torch.device("cpu"), "float32")
    assert {key: value for key, value in shared.items() if key in alone} == alone
    assert {key: shared[key] for key in shared.keys() - alone.keys()} == {"processes": 2, "sharding": "ddp"}


FLOATS = """
import hashlib, torch
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(257, 515), torch.nn.GELU(), torch.nn.LayerNorm(515), torch.nn.Softmax(-1))
model(torch.randn(129, 257)).square().sum().backward()
found = hashlib.sha256(b"".join(p.grad.numpy().tobytes() for p in model.parameters())).hexdigest()
print(torch.backends.cpu.get_cpu_capability(), found)
"""


def test_vector_instructions_decide_floats_and_are_told() -> None:
    def run(capability: str | None) -> tuple[str, str]:
        environment = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
        told = subprocess.run(
            [sys.executable, "-c", FLOATS], capture_output=True, text=True, check=True,
            env=environment | ({"ATEN_CPU_CAPABILITY": capability} if capability else {}),
        ).stdout.split()  # fmt: skip
        return told[0], told[1]

    own, plain = run(None), run("default")
    if own[0] == plain[0]:
        pytest.skip("this CPU has no vector instructions that torch tells apart")
    assert own[1] != plain[1]


@pytest.fixture(scope="module")
def easy() -> list[Row]:
    words = ["red", "blue", "green", "seven"]
    return [Row(f"r{n}", f"say {words[n % 4]} {n}", f"{words[n % 4]} {n % 3}") for n in range(24)]


def trained(rows: list[Row], *, lora: bool = False, **settings: Any) -> tuple[Any, torch.Tensor]:
    model, tokenizer = load_model("w2s-weak"), load_tokenizer("w2s-weak")
    if lora:
        model = add_lora(model, LoraSettings(r=2, dropout=0.2), 3)
    encoded = encode_rows(rows, tokenizer, TaskFormat(), 128).rows
    options = TrainSettings(**{"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **settings})
    fine_tune(model, encoded, options, seed=1, pad_token_id=padding_token(tokenizer))
    return model, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_changes_no_bit_and_is_out(easy: list[Row], lora: bool) -> None:
    _, plain = trained(easy, lora=lora)
    _, checkpointed = trained(easy, lora=lora, gradient_checkpointing=True)
    assert torch.equal(plain, checkpointed)
    assert training_identity(TrainSettings(gradient_checkpointing=True)) == training_identity(TrainSettings())


def test_micro_batches_change_the_rounding_and_are_in(easy: list[Row]) -> None:
    """The gradient is the same to within rounding; what Adam makes of rounding in tiny gradients is not."""
    _, plain = trained(easy, max_steps=1)
    _, parts = trained(easy, max_steps=1, micro_batch_size=3)
    assert not torch.equal(plain, parts)
    assert training_identity(TrainSettings(micro_batch_size=3)) != training_identity(TrainSettings())
    _, whole = trained(easy, max_steps=1, micro_batch_size=8)
    _, larger = trained(easy, max_steps=1, micro_batch_size=99)
    assert torch.equal(plain, whole)
    assert torch.equal(plain, larger)
    same = {"batch_size": 8}
    assert training_identity(TrainSettings(**same, micro_batch_size=8)) == training_identity(TrainSettings(**same))
    assert training_identity(TrainSettings(**same, micro_batch_size=99)) == training_identity(TrainSettings(**same))


#: Largest difference of an answer's log-probability (nats) that batches of other sizes may make.
BATCH_TOLERANCE = 1e-4


def test_the_batch_size_of_answers_is_out_at_a_tolerance(easy: list[Row]) -> None:
    model, _ = trained(easy)
    tokenizer = load_tokenizer("w2s-weak")
    prompts = encode_prompts(easy, tokenizer, TaskFormat(), 128).rows

    def answers(batch_size: int) -> dict[str, tuple[list[int], float]]:
        found = generate(
            [model], [1.0], "mean", [row.input_ids for row in prompts], ids=[row.id for row in prompts],
            max_new_tokens=12, eos_token_ids=end_tokens(model, tokenizer), pad_token_id=padding_token(tokenizer),
            batch_size=batch_size,
        )  # fmt: skip
        return {one.id: (list(one.token_ids), one.log_prob) for one in found}

    whole = answers(256)
    for size in (1, 5):
        other = answers(size)
        assert {key: tokens for key, (tokens, _) in other.items()} == {
            key: tokens for key, (tokens, _) in whole.items()
        }
        assert max(abs(other[key][1] - whole[key][1]) for key in whole) < BATCH_TOLERANCE

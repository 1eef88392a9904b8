"""What the processes and the test that starts them share: models, rows, trainings. The same bits in every process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ensemw2s import interrupts
from ensemw2s.data.encoding import EncodedRow
from ensemw2s.models.adapters import LoraSettings, add_lora
from ensemw2s.models.classes import ClassModel, ClassSpec
from ensemw2s.training.batches import flatten_rows
from ensemw2s.training.checkpoint import Checkpoints
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings
from ensemw2s.training.step import Stepper

VOCAB = 40
CPU = torch.device("cpu")

#: The last batch of an epoch has one row, so that one process has none.
SETTINGS = TrainSettings(epochs=2, batch_size=5, micro_batch_size=2, learning_rate=1e-2, weight_decay=0.1)

#: In the order of the rows, so that one process has the long ones and the other has more of them.
UNEVEN = TrainSettings(shuffle=False, batch_size=5, micro_batch_size=1, max_steps=3, learning_rate=1e-2)


def model_of(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = GPTNeoXConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, hidden_dropout=dropout, initializer_range=0.2,
        )  # fmt: skip
        return GPTNeoXForCausalLM(config).to(dtype).eval()


def lora_of(dtype: torch.dtype = torch.float32) -> Any:
    model = add_lora(model_of(dtype=dtype), LoraSettings(r=4, alpha=8.0, dropout=0.0), 3)
    with torch.no_grad():  # B starts at 0, which would leave A without a gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
    return model


def rows_of(count: int, seed: int = 0) -> list[EncodedRow]:
    """Ragged: some prompts are ten times as long as others."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        prompt = draw.integers(1, VOCAB, int(draw.integers(2, 5)) * (10 if number % 4 == 0 else 1)).tolist()
        answer = draw.integers(1, VOCAB, int(draw.integers(1, 9))).tolist()
        rows.append(EncodedRow(f"r{number}", [*prompt, *answer], len(prompt)))
    return rows


def weights_of(rows: list[EncodedRow]) -> torch.Tensor:
    """Uneven, as boosting makes them; some are 0. On a grid, so that their sums are exact in any order."""
    count = sum(len(row.input_ids) - row.prompt_length for row in rows)
    generator = torch.Generator().manual_seed(5)
    weights = (1024 * torch.rand(count, generator=generator, dtype=torch.float64) ** 8).ceil() / 1024
    return weights * (torch.rand(count, generator=generator) > 0.2)


def class_rows(count: int) -> list[EncodedRow]:
    return [EncodedRow(row.id, [*row.input_ids[:-1], place % 2], len(row.input_ids) - 1)
            for place, row in enumerate(rows_of(count))]  # fmt: skip


def gradient(model: Any, rows: list[EncodedRow], micro: int | None = None) -> dict[str, torch.Tensor]:
    """The gradient of one step over all rows, weights uneven; float64 if the model is."""
    settings = TrainSettings(batch_size=len(rows), micro_batch_size=micro, gradient_clip=None)
    flat = flatten_rows(rows, weights_of(rows), 0)
    stepper = Stepper(model, flat, settings, 1, LossSettings(), lambda: torch.autocast("cpu", enabled=False), CPU)
    stepper.gradient(np.arange(len(flat)), 0, 0.0)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    return found


def train(model: Any, settings: TrainSettings = SETTINGS, **options: Any) -> dict[str, Any]:
    """Losses and weights after a training."""
    rows = options.pop("rows", None) or rows_of(11)
    weights = options.pop("token_weights", None)
    done = fine_tune(model, rows, settings, seed=1, pad_token_id=0, token_weights=weights, **options)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return {
        "losses": torch.tensor(done.losses),
        "counts": torch.tensor([done.steps, done.tokens, done.answer_tokens]),
    } | state


def classes_of(dtype: torch.dtype) -> ClassModel:
    return ClassModel(model_of(dtype=dtype), ClassSpec(("no", "yes"), "tokens", (3, 4), 0))


def probe(model: Any) -> torch.Tensor:
    """What a trained model says, in float32."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([rows_of(1)[0].input_ids])).logits.float()


def train_and_ask(model: Any) -> dict[str, torch.Tensor]:
    return {"losses": train(model)["losses"], "logits": probe(model)}


#: Trainings that must end alike with one process and with several, by name. In float64: AdamW divides a gradient by its
#: size, so weights whose true gradient is 0 (key biases) follow the rounding in float32, wherever that leads.
WIDE: dict[str, Callable[[], dict[str, Any]]] = {
    "full": lambda: train(model_of(dtype=torch.float64), token_weights=weights_of(rows_of(11))),
    "uneven numbers of passes": lambda: train(model_of(dtype=torch.float64), UNEVEN),
    "lora": lambda: train(lora_of(torch.float64)),
    "frozen part": lambda: train(_freeze(model_of(dtype=torch.float64))),
    "confidence": lambda: train(
        classes_of(torch.float64), rows=class_rows(11), loss=LossSettings("confidence", weight=0.9)
    ),
    "checkpointing": lambda: train(
        model_of(dtype=torch.float64), TrainSettings(max_steps=3, batch_size=6, gradient_checkpointing=True)
    ),
}

#: The same in narrow arithmetic: losses and answers only.
NARROW: dict[str, Callable[[], dict[str, Any]]] = {
    "float32": lambda: train_and_ask(model_of()),
    "bfloat16 base": lambda: train_and_ask(lora_of(torch.bfloat16)),
}


def _freeze(model: Any) -> Any:
    for parameter in model.gpt_neox.layers[0].parameters():
        parameter.requires_grad_(False)
    return model


def dropout_seeds() -> list[int]:
    """What the generator was seeded with at every step of a training."""
    seeds: list[int] = []
    train(model_of(dropout=0.3), progress=lambda done, steps: seeds.append(torch.initial_seed()))
    return seeds


def stopped_and_resumed(folder: Path, signal_here: bool) -> dict[str, Any]:
    """A training with dropout that a signal stops at its third step, and that then goes on from its checkpoint."""
    model = model_of(dropout=0.3)

    def signal(done: int, _: int) -> None:
        if done == 2 and signal_here:
            interrupts.on_signal(15, None)

    try:
        train(model, checkpoints=Checkpoints(folder, "a", 1e9), progress=signal)
        raise AssertionError("it did not stop")
    except interrupts.Stopped as stopped:
        assert stopped.number == 15
    assert [path.name for path in folder.iterdir()] == ["step-000000003"]
    return train(model_of(dropout=0.3), checkpoints=Checkpoints(folder, "a", 1e9))

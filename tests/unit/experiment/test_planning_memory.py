"""Memory: what training holds to the byte, and peaks of fake tensors against peaks of real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.experiment.planning.layers import cut, depths
from ensemw2s.experiment.planning.memory import trained_weights
from ensemw2s.experiment.planning.shapes import build, read_config, shape_of
from ensemw2s.experiment.planning.tracing import Pass, Peak, peak
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.models.heads import answer_logits
from ensemw2s.training import finetune
from ensemw2s.training.settings import TrainSettings

LORA = LoraSettings(r=4)


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_weights_gradients_and_moments_are_those_of_a_training(
    dtype: str, tuning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(read_config("w2s-weak"), dtype, tuning, LORA)
    seen: dict[str, int] = {}
    make = finetune.make_optimizer

    def watched(*arguments: Any, **named: Any) -> Any:
        optimizer = make(*arguments, **named)

        def look(*_: Any) -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            seen["weights"] = bytes_of(model.parameters())
            seen["gradients"] = bytes_of(p.grad for p in parameters)
            states = [value for p in parameters for value in optimizer.state[p].values()]
            seen["moments"] = bytes_of(value for value in states if value.dim())

        optimizer.register_step_pre_hook(look)
        return optimizer

    monkeypatch.setattr(finetune, "make_optimizer", watched)
    rows = [EncodedRow(str(i), [3, 4, 5, 6, 7, 8], 3) for i in range(4)]
    finetune.fine_tune(model, rows, TrainSettings(epochs=2, batch_size=2), seed=0, pad_token_id=0)
    held = trained_weights(shape_of("w2s-weak", read_config("w2s-weak"), dtype=dtype, tuning=tuning, lora=LORA))
    assert seen == {"weights": held.weights, "gradients": held.gradients, "moments": held.moments}


def test_the_peak_of_a_few_tensors() -> None:
    known = torch.zeros(1000)
    with Peak([known]) as peak:
        doubled = known * 2  # 4,000 bytes
        view = doubled[:10]  # none
        more = torch.ones(500) + known[0]  # 2,000, and as much for the ones until they go
        assert peak.live == 6000
        del view, doubled
        assert peak.live == 2000
        known.add_(1)  # in place: none
        more = more.double()  # 4,000 beside the 2,000
    assert peak.peak == 8000
    assert peak.live == 4000


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_fake_tensors_peak_where_real_ones_do(tuning: str, checkpointing: bool) -> None:
    config, rows, length, answers = read_config("w2s-weak"), 4, 40, 50
    planned = peak(config, Pass("float32", rows, length, answers, tuning, LORA, True, checkpointing))
    model = build(config, "float32", tuning, LORA)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    ids, positions = torch.zeros(rows, length, dtype=torch.int64), torch.zeros(answers, dtype=torch.int64)
    with Peak([*model.parameters(), *model.buffers()]) as real:
        logits = answer_logits(model, ids, None, positions)
        loss = torch.nn.functional.cross_entropy(logits.float(), positions, reduction="sum")
        del logits
        loss.backward()
    # fake operations take other ways at a few places: a hidden state more or less
    assert planned == pytest.approx(real.peak, rel=0.05)


def test_peaks_grow_with_the_batch_and_shrink_with_checkpointing() -> None:
    config = read_config("w2s-strong")

    def bytes_with(rows: int, checkpointing: bool) -> int:
        return peak(config, Pass("float32", rows, 64, 8, "lora", LORA, True, checkpointing))

    one, two, four = (bytes_with(rows, False) for rows in (8, 16, 32))
    assert (four - two) == pytest.approx(2 * (two - one), rel=0.01)
    assert bytes_with(32, True) < 0.5 * four
    # keys and values are in the peak of a cached pass
    shape = shape_of("w2s-strong", config)
    assert peak(config, Pass("float32", 8, 64, 8, cached=True)) > 8 * 64 * shape.keys * 4


def test_reading_grows_with_the_answers() -> None:
    config = read_config("w2s-weak")
    shape = shape_of("w2s-weak", config)
    few, many = (peak(config, Pass("float32", 2, 64, n)) for n in (64, 6400))
    assert many - few >= 4 * shape.vocabulary * (6400 - 64) * 0.9


def deep(kind: str, layers: int) -> Any:
    sizes = {"vocab_size": 640, "hidden_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
    more = {} if kind == "gpt_neox" else {"num_key_value_heads": 2, "head_dim": 16}
    return AutoConfig.for_model(
        kind, **sizes, **more, intermediate_size=160, max_position_embeddings=64, bos_token_id=0, eos_token_id=0
    )


@pytest.mark.parametrize(
    ("kind", "layers", "dtype", "tuning", "rows", "checkpointing"),
    [
        ("llama", 7, "float32", "full", 8, False),  # peaks at the output layer
        ("llama", 9, "float32", "full", 1, False),  # peaks at the end, when all gradients are there
        ("llama", 7, "bfloat16", "lora", 8, True),
        ("gpt_neox", 7, "bfloat16", "full", 8, True),  # peaks in the backward pass of the last layer but one
        ("gemma2", 13, "float32", "lora", 4, False),  # layers of two kinds in turn
    ],
)
def test_few_layers_stand_for_many(
    kind: str, layers: int, dtype: str, tuning: str, rows: int, checkpointing: bool
) -> None:
    config = deep(kind, layers)
    a_pass = Pass(dtype, rows, 32, 20 * rows, tuning, LORA, True, checkpointing)
    assert len(depths(config, backward=True)) == 2
    assert peak(config, a_pass) == peak(config, a_pass, whole=True)


@pytest.mark.parametrize("cached", [False, True])
def test_few_layers_stand_for_many_without_gradient(cached: bool) -> None:
    config, a_pass = deep("llama", 6), Pass("float32", 8, 32, 8, cached=cached)
    assert len(depths(config, backward=False)) == 2
    assert peak(config, a_pass) == peak(config, a_pass, whole=True)


def test_depths_keep_the_pattern_of_the_layers() -> None:
    assert depths(deep("llama", 28), backward=True) == (3, 4)
    assert depths(deep("llama", 4), backward=True) == (4,)
    assert depths(deep("gemma2", 27), backward=False) == (5, 7)
    assert cut(deep("gemma2", 27), 5).layer_types == deep("gemma2", 27).layer_types[:5]
    uneven = deep("gemma2", 12)
    uneven.layer_types = ["full_attention"] * 4 + ["sliding_attention"] * 8
    assert depths(uneven, backward=True) == (12,)

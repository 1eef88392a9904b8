"""Sizes from configurations: against published counts, loaded models, and torch's own counter of FLOPs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.experiment.planning.bench import Work
from ensemw2s.experiment.planning.costs import cost_of, decoding_flops, forward_flops, training_flops
from ensemw2s.experiment.planning.hardware import Efficiency, Hardware, find_hardware, hardware_names
from ensemw2s.experiment.planning.loads import Load
from ensemw2s.experiment.planning.shapes import build, dtype_of, read_config, shape_of, shipped_shapes
from ensemw2s.models.adapters import LoraSettings, add_lora, save_adapter
from ensemw2s.models.loading import load_model, model_size
from ensemw2s.training.settings import TrainSettings

ROWS, LENGTH, ANSWERS = 3, 16, 12


def tiny(kind: str) -> Any:
    if kind == "gpt2":
        return GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64)
    if kind == "gpt_neox":
        return GPTNeoXConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
            max_position_embeddings=64,
        )  # fmt: skip
    return LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=80, max_position_embeddings=64, head_dim=16,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(shipped_shapes()))
def test_shipped_shapes_have_the_published_number_of_parameters(name: str) -> None:
    published = float(shipped_shapes()[name]["published"])
    found = shape_of(name, read_config(name), dtype="bfloat16").parameters
    if published % 1e6:  # given to the last parameter
        assert found == published
    else:  # given in hundredths of a billion, cut off or rounded
        assert abs(found - published) < 0.01e9


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_shape_is_that_of_the_loaded_model(tuning: str, tmp_path: Path) -> None:
    model = load_model("w2s-weak")
    shape = shape_of("w2s-weak", read_config("w2s-weak"), tuning=tuning)
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    assert shape.parameters == model_size(model) == 120_720
    assert shape.matrices == sum(m.weight.numel() for m in linear)
    assert shape.head == head.weight.numel()
    cache = model(torch.zeros(1, 5, dtype=torch.int64)).past_key_values
    assert shape.keys * 5 == sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    if tuning == "lora":
        adapted = add_lora(model, LoraSettings(), 0)
        assert shape.trainable == shape.adapter == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        save_adapter(adapted, tmp_path)
        weights = tmp_path / "adapter_model.safetensors"
    else:
        assert shape.trainable == shape.parameters
        assert shape.adapter == 0
        model.save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
    header = int.from_bytes(weights.read_bytes()[:8], "little")
    assert shape.stored == weights.stat().st_size - 8 - header


def test_adapters_of_half_precision_models_are_stored_in_float32() -> None:
    shape = shape_of("w2s-weak", read_config("w2s-weak"), tuning="lora", dtype="bfloat16")
    assert shape.stored == 4 * shape.adapter
    assert shape.width == 2


def counted(config: Any, tuning: str, *, backward: bool) -> int:
    """FLOPs by torch's counter; plain attention, so that none is hidden in a fused kernel."""
    config._attn_implementation = "eager"
    model = build(config, "float32", tuning, LoraSettings(r=4)).train()
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def load(answers: int = ROWS * LENGTH) -> Load:
    # torch counts attention to all positions, plans to half of them: twice the squares
    return Load(ROWS, 0, ROWS * LENGTH, 2 * ROWS * LENGTH**2, answers, 1)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_flops_are_those_that_torch_counts(kind: str) -> None:
    shape = shape_of(kind, tiny(kind))
    # rotary embeddings multiply positions with frequencies: the only product without a weight
    rotary = 0 if kind == "gpt2" else 2 * LENGTH * (8 if kind == "llama" else 1)
    forward = forward_flops(shape, load())
    assert abs(counted(tiny(kind), "full", backward=False) - forward) <= rotary
    assert (
        abs(counted(tiny(kind), "full", backward=True) - training_flops(shape, load(), checkpointing=False)) <= rotary
    )


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_lora_flops_spare_the_frozen_weights_gradients(kind: str) -> None:
    shape = shape_of(kind, tiny(kind), tuning="lora", lora=LoraSettings(r=4))
    expected = training_flops(shape, load(), checkpointing=False)
    found = counted(tiny(kind), "lora", backward=True)
    # Nothing below the first adapted layer needs a gradient: at most that layer's part is not spent.
    first = 2 * shape.matrices / shape.layers * ROWS * LENGTH
    assert expected - first <= found <= expected + 2 * LENGTH * 8
    assert (
        expected
        < 0.75 * training_flops(shape_of(kind, tiny(kind)), load(), checkpointing=False)
        + 6 * shape.adapter * ROWS * LENGTH
    )


def test_checkpointing_costs_one_more_forward_pass_of_the_layers() -> None:
    shape = shape_of("llama", tiny("llama"))
    more = training_flops(shape, load(), checkpointing=True) - training_flops(shape, load(), checkpointing=False)
    assert more == forward_flops(shape, load()) - 2 * shape.head * ROWS * LENGTH


def test_decoding_costs_what_reading_all_of_it_at_once_does() -> None:
    shape = shape_of("llama", tiny("llama"))
    prompt, written = 10, 6
    keys = sum(prompt + step + 1 for step in range(written))
    steps = decoding_flops(shape, Load(1, prompt, prompt, prompt**2, 1 + written, 1, written, written, keys))
    whole = forward_flops(shape, Load(1, 16, 16, 16**2, 1 + written, 1))
    # half a position a token apart: a token sees itself, the closed form counts half of it
    slack = 2 * shape.layers * shape.attention * written
    assert sum(steps) == whole + slack


def work_of(kind: str, load: Load, *, shared: bool = False, train: TrainSettings | None = None) -> Work:
    return Work(0, "some", kind, "weak", 3, shared, 1 if shared else 3, 1, load, train, frozenset(), "pool")


def test_decoding_reads_a_shared_base_once_a_pass() -> None:
    shape = shape_of("llama", tiny("llama"), tuning="lora", lora=LoraSettings(r=4))
    load = Load(4, 40, 40, 400, 24, 2, steps=5, written=20, keys=300)
    device = Hardware("some", {"float32": 1e30}, 1e9, 1e9, "made up")  # only reads take time
    apart, shared = (
        cost_of(work_of("answer", load, shared=flag), shape, device, Efficiency(decode=0.5)) for flag in (False, True)
    )
    base = 4 * (shape.matrices + shape.head)
    cache = 300 * 3 * shape.keys * 4  # keys and values of three experts, float32
    assert apart.bytes == (2 + 5) * 3 * (base + 4 * shape.adapter) + cache
    assert shared.bytes == (2 + 5) * (base + 3 * 4 * shape.adapter) + cache
    assert shared.seconds == pytest.approx(shared.bytes / 0.5e9)
    assert shared.flops == apart.flops == 3 * sum(decoding_flops(shape, load))


def test_training_takes_as_long_as_its_products_or_its_reads() -> None:
    shape = shape_of("llama", tiny("llama"))
    load = Load(4, 40, 40, 400, 24, passes=2, steps=1)
    work = work_of("train", load, train=TrainSettings())
    flops = training_flops(shape, load, checkpointing=False)
    fast, wide = (Hardware("x", {"float32": f}, b, 1e9, "made up") for f, b in ((1e30, 1e9), (1e9, 1e30)))
    reads = cost_of(work, shape, fast, Efficiency(decode=1.0))
    assert reads.bytes == 3 * 2 * 4 * shape.parameters + 40 * shape.parameters
    assert reads.seconds == pytest.approx(reads.bytes / 1e9)
    assert cost_of(work, shape, wide, Efficiency(train=0.25)).seconds == pytest.approx(flops / 0.25e9)


def test_a_config_file_stands_for_a_model_that_is_not_here(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny("llama").to_dict()))
    shape = shape_of("mine/model", read_config("mine/model", path))
    assert shape.parameters == model_size(AutoModelForCausalLM.from_config(tiny("llama")))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "no model_type"), ('{"model_type": "nonsense"}', "no configuration of a model"), ("[", "config")],
)
def test_a_config_file_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        read_config("mine/model", path)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Qwen/Qwen2.5-7B.*--weak-config|--weak-config.*Qwen/Qwen2.5-7B"):
        read_config("Qwen/Qwen2.5-9B")
    with pytest.raises(ConfigError, match="unknown dtype"):
        dtype_of(tiny("llama"), "int8")
    config = tiny("llama")
    config.num_local_experts = 8
    with pytest.raises(ModelError, match="mixture of experts"):
        shape_of("moe", config)
    with pytest.raises(ConfigError, match="did you mean 'h100'"):
        find_hardware("h10")
    with pytest.raises(ConfigError, match="train must lie in"):
        Efficiency(train=1.5)


@pytest.mark.parametrize("name", hardware_names())
def test_profiles_are_whole(name: str) -> None:
    hardware = find_hardware(name)
    assert {"float32", "bfloat16"} <= set(hardware.flops)
    assert hardware.flops["bfloat16"] >= hardware.flops["float32"] > hardware.bandwidth > hardware.memory > 0
    assert hardware.source

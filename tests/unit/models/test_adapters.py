"""Adapters: seeded, frozen base, plain PEFT folders that load again to the same function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.artifacts import file_sha256
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.adapters import LoraSettings, add_lora, load_adapter, load_expert, merge_adapter, save_adapter
from ensemw2s.models.loading import load_model, load_tokenizer, save_model

IDS = torch.tensor([[1, 2, 3, 4, 5]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def trained(base: Any, seed: int = 1, **options: Any) -> Any:
    """An adapter that does something: B is no longer 0."""
    model = add_lora(base, LoraSettings(r=4, alpha=8, **options), seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return model.eval()


def test_a_fresh_adapter_changes_nothing_and_is_seeded(tiny_model: Any) -> None:
    base = logits(tiny_model())
    state = torch.get_rng_state()
    one, same, other = (add_lora(tiny_model(), LoraSettings(r=4), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(one.eval()), base)
    first = {n: p for n, p in one.named_parameters() if "lora_A" in n}
    assert first
    assert all(torch.equal(p, dict(same.named_parameters())[n]) for n, p in first.items())
    assert not any(torch.equal(p, dict(other.named_parameters())[n]) for n, p in first.items())


def test_every_linear_layer_but_the_head_and_nothing_else_is_trained(tiny_model: Any) -> None:
    model = add_lora(tiny_model(), LoraSettings(r=4), seed=1)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in names)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names}
    assert layers == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
    assert len(names) == 2 * 4 * 2  # two layers, four linears, A and B


def test_round_trip_and_equal_bytes(folder: Path, tmp_path: Path) -> None:
    model = trained(load_model(folder))
    expected = logits(model)
    save_adapter(model, tmp_path / "one", base="owner/tiny")
    save_adapter(trained(load_model(folder)), tmp_path / "two", base="owner/tiny")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert file_sha256(tmp_path / "one" / name) == file_sha256(tmp_path / "two" / name)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/tiny"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    loaded = load_adapter(load_model(folder), tmp_path / "one")
    assert not loaded.training
    assert torch.equal(logits(loaded), expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(logits(load_expert(tmp_path / "one", folder)), expected)


def test_peft_itself_reads_the_folder(folder: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    model = trained(load_model(folder))
    save_adapter(model, tmp_path / "adapter", base=str(folder))
    assert torch.allclose(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")), logits(model))


def test_an_expert_folder_of_either_kind(folder: Path, tmp_path: Path) -> None:
    assert torch.equal(logits(load_expert(folder)), logits(load_model(folder)))
    model = trained(load_model(folder))
    save_adapter(model, tmp_path / "adapter", base=str(folder))
    assert torch.equal(logits(load_expert(tmp_path / "adapter")), logits(model))  # the base is named in the config


def test_merging_keeps_the_function(folder: Path, tmp_path: Path) -> None:
    model = trained(load_model(folder))
    expected = logits(model)
    assert not torch.allclose(expected, logits(load_model(folder)), atol=1e-2)
    merged = merge_adapter(model)
    assert not hasattr(merged, "peft_config")
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    save_model(merged, load_tokenizer(folder), tmp_path / "merged")
    assert torch.equal(logits(load_model(tmp_path / "merged")), logits(merged))


def test_conv1d_layers_of_gpt2(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=8)).eval()
    expected = logits(model)
    adapted = add_lora(model, LoraSettings(r=2), seed=0)
    assert torch.allclose(logits(adapted.eval()), expected)


def test_mixed_up_verbs_are_refused(folder: Path, tmp_path: Path) -> None:
    model = trained(load_model(folder))
    with pytest.raises(ModelError, match="save it with save_adapter"):
        save_model(model, load_tokenizer(folder), tmp_path / "x")
    with pytest.raises(ModelError, match="save it with save_model"):
        save_adapter(load_model(folder), tmp_path / "x")
    with pytest.raises(ModelError, match="has an adapter already"):
        add_lora(model, LoraSettings(), 1)
    save_adapter(model, tmp_path / "adapter")
    with pytest.raises(ModelError, match="holds an adapter, not a full model"):
        load_model(tmp_path / "adapter")


def test_bad_adapter_folders(folder: Path, tiny_model: Any, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    save_adapter(trained(load_model(folder)), adapter, base=str(folder))
    for other in (tiny_model(hidden_size=32), tiny_model(num_hidden_layers=1)):
        with pytest.raises(ModelError, match="does not fit its base model"):
            load_adapter(other, adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        load_adapter(load_model(folder), adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load_adapter(load_model(folder), adapter)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    with pytest.raises(ModelError, match="names no base model"):
        load_expert(adapter)
    with pytest.raises(ModelError, match=r"has no adapter_config\.json"):
        load_adapter(load_model(folder), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "value"),
    [("r", 0), ("r", 1.5), ("r", True), ("alpha", 0), ("dropout", 1.0), ("dropout", -0.1), ("target_modules", ())],
)
def test_settings_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"lora\.{field}"):
        LoraSettings(**{field: value})  # type: ignore[arg-type]


def test_layers_that_are_not_there(tiny_model: Any) -> None:
    with pytest.raises(ConfigError, match="fits no layer of this model"):
        add_lora(tiny_model(), LoraSettings(target_modules=("q_proj",)), 1)
    model = add_lora(tiny_model(), LoraSettings(target_modules=("dense",)), 1)
    assert len([n for n, p in model.named_parameters() if p.requires_grad]) == 4

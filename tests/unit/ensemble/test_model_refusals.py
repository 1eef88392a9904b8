"""A live ensemble: what it refuses, and what it says."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ensemw2s.artifacts import write_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ConfigError, DataError, ModelError
from ensemw2s.models.loading import save_model

ALPHAS = [1.25, 0.1 + 0.2, 2.0]
FORM = TaskFormat(max_new_tokens=5, template="what is {question} ?")
IDS = torch.tensor([[1, 3, 4, 5, 9], [1, 8, 2, 7, 6]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"input_ids": torch.zeros(1, 24, dtype=torch.long)}, DataError, "prompt has 24 tokens, at most 23 fit"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, DataError, "has no tokens"),
        ({"input_ids": torch.zeros(0, 3, dtype=torch.long)}, DataError, "has no tokens"),
        ({"input_ids": [[1, 2]]}, DataError, "has no tokens"),
        ({"input_ids": None}, DataError, "has no tokens"),
        ({"input_ids": torch.tensor([[1, 16]])}, DataError, "token id 16 is not in the vocabulary of 16"),
        ({"input_ids": torch.tensor([[1, -1]])}, DataError, "token id -1"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])}, DataError, "row 1 is nothing but padding"),
        ({"top_k": 17, "do_sample": True}, ConfigError, "top_k is 17: allowed are 0"),
        ({"top_k": -1, "do_sample": True}, ConfigError, "top_k is -1"),
        ({"num_beams": 9}, ConfigError, "num_beams is 9"),
        ({"cache_implementation": "quantized"}, ConfigError, "'quantized': an ensemble has 'dynamic' and 'static'"),
    ],
)  # fmt: skip
def test_bad_requests(options: Any, error: type[Exception], words: str, full: Any) -> None:
    ensemble = full(1, 2)
    wanted = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 2, **options}
    if wanted["input_ids"] is not IDS:
        del wanted["attention_mask"]
    with pytest.raises(error, match=words):
        ensemble.generate(**wanted)


def test_an_explicit_configuration_is_checked_too(full: Any) -> None:
    from transformers import GenerationConfig

    with pytest.raises(ConfigError, match="top_k is 99"):
        full(1, 2).generate(IDS, GenerationConfig(top_k=99, do_sample=True))
    with pytest.raises(ConfigError, match="num_beams is 50"):
        full(1, 2).generate(IDS, GenerationConfig(num_beams=50))


def test_the_longest_prompt_fits(full: Any) -> None:
    ids = torch.full((1, 23), 5)
    assert full(1, 2).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1).shape == (1, 24)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engin": "auto"}, "no loading option 'engin': did you mean 'engine'"),
        ({"load_in_8bit": True}, "no loading option 'load_in_8bit'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is for one model"),
        ({"device_map": {"bank.0": 0, "bank.1": 1}}, "must name one device"),
        ({"device_map": {"": None}}, "must name one device"),
        ({"dtype": "int8"}, "int8"),
        ({"engine": "fast"}, "unknown engine 'fast'"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_unusable_loading_options(options: Any, words: str, full: Any, tmp_path: Path) -> None:
    full(1).save_pretrained(tmp_path / "saved")
    with pytest.raises(ConfigError, match=words):
        Ensemble.from_pretrained(tmp_path / "saved", **options)


@pytest.mark.parametrize(
    "options",
    [{"device_map": "cpu"}, {"device_map": {"": "cpu"}}, {"torch_dtype": torch.float32}, {"dtype": "float32"},
     {"device_map": torch.device("cpu"), "local_files_only": True, "token": None}],
)  # fmt: skip
def test_usable_loading_options(options: Any, full: Any, tmp_path: Path) -> None:
    full(1).save_pretrained(tmp_path / "saved")
    loaded = Ensemble.from_pretrained(tmp_path / "saved", **options)
    assert (loaded.dtype, loaded.device.type) == (torch.float32, "cpu")


def test_a_flipped_byte_of_an_adapter_is_seen(lora: Any, tmp_path: Path) -> None:
    lora(1, 2)
    weights = tmp_path / "lora-1-2mean" / "expert-2" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-3] + bytes([whole[-3] ^ 16]) + whole[-2:])
    with pytest.raises(ModelError, match=r"not whole.*expert-2/adapter_model.safetensors is damaged"):
        lora(1, 2)
    weights.unlink()
    with pytest.raises(ModelError, match=r"expert-2/adapter_model.safetensors is missing"):
        lora(1, 2)
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        lora(1, 2, verify=False)


def test_adapters_of_another_base_in_the_folder(lora: Any, tmp_path: Path, make_expert: Any, tokenizer: Any) -> None:
    lora(1, 2)
    place = tmp_path / "lora-1-2mean"
    settings = json.loads((place / "ensemble.json").read_text())
    save_model(make_expert(5, hidden_size=8), tokenizer, tmp_path / "small base")
    (place / "ensemble.json").write_text(json.dumps(settings | {"base": str(tmp_path / "small base")}))
    write_checksums(place)
    with pytest.raises(ModelError, match="give the base model that it was trained on"):
        Ensemble.from_pretrained(place)


@pytest.mark.parametrize(
    ("alphas", "words"),
    [([1.0, -0.1], "negative"), ([1.0, float("nan")], "not all finite"), ([0.0, 0.0], "all zero"), ([1.0], "1 alphas for 2")],
)  # fmt: skip
def test_unusable_alphas(alphas: Any, words: str, make_expert: Any) -> None:
    with pytest.raises(ConfigError, match=words):
        Ensemble.of([make_expert(1), make_expert(2)], alphas)


def test_unknown_names(make_expert: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        Ensemble.of([make_expert(1)], [1.0], "meen")
    with pytest.raises(ConfigError, match="unknown engine 'staked': did you mean 'stacked'"):
        Ensemble.of([make_expert(1)], [1.0], engine="staked")
    with pytest.raises(ConfigError, match="at least one expert"):
        Ensemble.of([], [])
    with pytest.raises(ModelError, match="different vocabularies"):
        Ensemble.of([make_expert(1), make_expert(2, vocab_size=20)], [1.0, 1.0])


def test_forward_says_what_it_needs(full: Any) -> None:
    from transformers import DynamicCache

    ensemble = full(1, 2)
    with pytest.raises(ConfigError, match="give input_ids"):
        ensemble(inputs_embeds=torch.zeros(1, 2, 16))
    with pytest.raises(ConfigError, match="no cache of an ensemble"):
        ensemble(IDS, past_key_values=DynamicCache())


def test_forward_is_a_models(full: Any) -> None:
    """Loss, tuples and kept positions as of any causal LM; the logits are log-probabilities."""
    ensemble = full(1, 2, 3)
    with torch.no_grad():
        out = ensemble(IDS, labels=IDS)
        torch.testing.assert_close(out.logits.logsumexp(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
        picked = out.logits[:, :-1].gather(-1, IDS[:, 1:, None])
        torch.testing.assert_close(out.loss, -picked.mean())
        ignored = torch.where(torch.arange(5) < 3, -100, IDS)
        torch.testing.assert_close(ensemble(IDS, labels=ignored).loss, -picked[:, 2:].mean())
        loss, again = ensemble(IDS, labels=IDS, return_dict=False)[:2]
        assert torch.equal(loss, out.loss)
        assert torch.equal(again, out.logits)
        torch.testing.assert_close(ensemble(IDS, logits_to_keep=2).logits, out.logits[:, -2:], atol=1e-5, rtol=1e-5)
        picked = ensemble(IDS, logits_to_keep=torch.tensor([0, 3])).logits
        torch.testing.assert_close(picked, out.logits[:, [0, 3]], atol=1e-5, rtol=1e-5)
        single = full(1)
        torch.testing.assert_close(logits(single), logits(single.models[0]).log_softmax(-1), atol=1e-5, rtol=1e-5)


def test_the_log_tells_the_engine_and_why(full: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ensemw2s.engine")
    for engine, words in (
        ("turns", "engine turns for 2 experts: asked for"),
        ("stacked", "engine stacked weights for 2"),
    ):
        caplog.clear()
        full(1, 2, engine=engine)
        assert words in caplog.text
    caplog.clear()
    full(1)
    assert "a single expert" in caplog.text

"""Loading: what comes out equals what went in, and every bad folder is refused in one line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.errors import CacheError, ConfigError, EnsemW2SError, ModelError, PrerequisiteError
from ensemw2s.models import hub, loading
from ensemw2s.models.loading import (
    MODELS,
    check_same_vocabulary,
    context_length,
    load_model,
    load_tokenizer,
    model_size,
    resolve_device,
    resolve_dtype,
    resolve_model,
    save_model,
)

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "models"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(action: Callable[[], Any], kind: type[EnsemW2SError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_round_trip(folder: Path, tiny_model: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert not model.training
    for name, value in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    save_model(model, tokenizer, tmp_path / "copy")
    again = load_model(tmp_path / "copy")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert load_tokenizer(tmp_path / "copy").get_vocab() == tokenizer.get_vocab()
    assert {path.suffix for path in (tmp_path / "copy").iterdir()} <= {".json", ".safetensors"}
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""  # no bars, no notes


def test_every_call_reads_fresh_weights(folder: Path) -> None:
    first = load_model(folder)
    kept = first.get_output_embeddings().weight.detach().clone()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert torch.equal(load_model(folder).get_output_embeddings().weight, kept)


def test_notes_about_spare_tensors_are_not_shown(folder: Path) -> None:
    shown: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = shown.append  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    edit_config(folder, num_hidden_layers=1)
    try:
        load_model(folder)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert [record.getMessage() for record in shown] == []


def test_the_verbosity_of_transformers_comes_back(folder: Path) -> None:
    from transformers.utils import logging as notes

    before = notes.get_verbosity(), notes.is_progress_bar_enabled()
    load_model(folder)
    shutil.rmtree(folder)
    refusal(lambda: load_model(folder))
    assert (notes.get_verbosity(), notes.is_progress_bar_enabled()) == before


def test_dtypes(folder: Path) -> None:
    assert load_model(folder).dtype == torch.float32
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    load_model(folder, dtype="float16").save_pretrained(folder)
    assert load_model(folder, dtype="auto").dtype == torch.float16
    assert load_model(folder).dtype == torch.float32
    assert "did you mean 'bfloat16'" in refusal(lambda: resolve_dtype("bfloat"), ConfigError)


def test_sizes(folder: Path, tiny_model: Any) -> None:
    model = load_model(folder)
    assert context_length(model) == 24
    assert model_size(model) == sum(value.numel() for value in model.state_dict().values())
    tied = tiny_model(tie_word_embeddings=True)
    assert model_size(tied) == model_size(model) - 8 * 16


def test_a_model_without_a_limit() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, state_size=2)
    assert context_length(MambaForCausalLM(config)) == loading.UNLIMITED_CONTEXT


def test_sharded_weights(folder: Path, tiny_model: Any) -> None:
    (folder / "model.safetensors").unlink()
    tiny_model(seed=1).save_pretrained(folder, max_shard_size="5KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert torch.equal(
        load_model(folder).get_output_embeddings().weight, tiny_model(seed=1).get_output_embeddings().weight
    )
    lost = sorted(folder.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert lost.name in refusal(lambda: load_model(folder))


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights: it needs model.safetensors" in refusal(lambda: load_model(folder))


def test_pickled_weights_are_never_read(folder: Path, tiny_model: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    message = refusal(lambda: load_model(folder))
    assert "only pickled weights (pytorch_model.bin), which are never read" in message


def test_damaged_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert str(folder) in refusal(lambda: load_model(folder))


def test_weights_of_another_model(folder: Path, tiny_model: Any) -> None:
    tiny_model(hidden_size=32).save_pretrained(folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")
    assert "cannot load the model" in refusal(lambda: load_model(folder))


def test_missing_tensors_are_not_filled_with_chance(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=3)
    assert "tensors of the model, such as gpt_neox.layers.2" in refusal(lambda: load_model(folder))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "it has no config.json"),
        ("{", "cannot read"),
        ("[]", "not a JSON object"),
        ("{}", "not a causal language model"),
    ],
)
def test_bad_config(folder: Path, text: str | None, words: str) -> None:
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    assert words in refusal(lambda: load_model(folder))


def test_own_code_needs_leave(folder: Path) -> None:
    edit_config(folder, model_type="strange", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"})
    (folder / "m.py").write_text("raise SystemError('must not run')")
    (folder / "c.py").write_text("raise SystemError('must not run')")
    message = refusal(lambda: load_model(folder))
    assert "Python code" in message
    assert "trust_remote_code=True" in message


def test_a_type_nobody_knows(folder: Path) -> None:
    edit_config(folder, model_type="strange")
    assert "model type 'strange'" in refusal(lambda: load_model(folder))


def test_other_kinds_of_models(folder: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=8, **sizes)).save_pretrained(tmp_path / "bert")
    assert "is a BertForMaskedLM, not a causal language model" in refusal(lambda: load_model(tmp_path / "bert"))
    edit_config(folder, model_type="t5", architectures=["T5ForConditionalGeneration"])
    assert "not a causal language model" in refusal(lambda: load_model(folder))


def test_tokenizer_refusals(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer(end=None).save_pretrained(tmp_path / "endless")
    assert "no end token" in refusal(lambda: load_tokenizer(tmp_path / "endless"))
    (folder / "tokenizer.json").write_text("{}")
    assert "cannot load the tokenizer" in refusal(lambda: load_tokenizer(folder))
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer: it needs tokenizer.json" in refusal(lambda: load_tokenizer(folder))


def test_padding_falls_back_on_the_end_token(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    assert load_tokenizer(folder).pad_token == "<end>"
    tokenizer(pad_token="<unk>").save_pretrained(tmp_path / "padded")
    assert load_tokenizer(tmp_path / "padded").pad_token == "<unk>"


def test_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._items, "w2s-test", folder)
    assert resolve_model("w2s-test") == str(folder)
    assert resolve_model(folder) == str(folder)
    assert resolve_model("owner/name") == "owner/name"
    assert load_model("w2s-test").config.hidden_size == 16
    for bad in ("./nowhere", "/no/such/folder", "a/b/c", "", "x y"):
        assert "w2s-test" in refusal(lambda bad=bad: resolve_model(bad))  # type: ignore[misc]
    assert "is a file" in refusal(lambda: resolve_model(folder / "config.json"))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert "2 CUDA devices" in refusal(lambda: resolve_device("cuda:2"), PrerequisiteError)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    assert "0 CUDA devices" in refusal(lambda: resolve_device("cuda"), PrerequisiteError)
    assert "no device 'mps'" in refusal(lambda: resolve_device("mps"), PrerequisiteError)
    for bad in ("gpu", "cuda:x", "cpu:1", "CUDA", ""):
        assert "use auto, cpu, cuda" in refusal(lambda bad=bad: resolve_device(bad), ConfigError)  # type: ignore[misc]


def test_same_vocabulary(tokenizer: Any) -> None:
    words = ["<end>", "<unk>", "one", "two"]
    same = {"a": tokenizer(words), "b": tokenizer(words, pad_token="<unk>")}  # the padding token may differ
    check_same_vocabulary(same)
    swapped = {**same, "c": tokenizer(["<end>", "<unk>", "two", "one"])}
    message = refusal(lambda: check_same_vocabulary(swapped))
    assert "'a' (4 tokens) and 'c' (4 tokens) differ, for example in 'one'" in message
    assert "(5 tokens)" in refusal(lambda: check_same_vocabulary({**same, "c": tokenizer([*words, "x"])}))
    assert "special tokens" in refusal(lambda: check_same_vocabulary({**same, "c": tokenizer(words, end="two")}))
    check_same_vocabulary({})


class ConnectError(Exception):
    """As the HTTP client of some hub versions raises it: not an OSError."""

    __module__ = "httpx2._exceptions"


@pytest.mark.parametrize(
    "error", [ConnectionError("refused"), TimeoutError("slow"), OSError("no"), ConnectError("dns")]
)
def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setenv("ENSEMW2S_HUB_WAIT", "0")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    monkeypatch.setattr(loading, "cached_snapshot", lambda _: None)
    message = refusal(lambda: load_model("nobody/nothing"), PrerequisiteError)
    assert "cannot fetch 'nobody/nothing': the Hugging Face hub cannot be reached" in message
    bare = refusal(lambda: load_tokenizer("w2s-weka"), PrerequisiteError)  # a typing error in a built-in name
    assert "'w2s-weka' is neither a folder nor a built-in model" in bare


def test_hub_in_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(loading, "cached_snapshot", lambda _: None)
    assert "cannot be reached" in refusal(lambda: load_model("nobody/nothing"), PrerequisiteError)


def test_an_earlier_download_needs_no_network(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    snapshot = cache / "models--owner--tiny" / "snapshots" / "abc"
    shutil.copytree(folder, snapshot)
    (cache / "models--owner--tiny" / "refs").mkdir()
    (cache / "models--owner--tiny" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(loading, "download_snapshot", lambda *_, **__: pytest.fail("asked the network"))
    assert hub.cached_snapshot("owner/tiny") == snapshot
    assert load_model("owner/tiny").config.hidden_size == 16
    (snapshot / "model.safetensors").unlink()  # a broken download is fetched again
    assert hub.cached_snapshot("owner/tiny") is None


def test_hub_listing_without_safetensors() -> None:
    hub.check_listing("a/b", ["config.json", "model.safetensors"])
    assert "only pickled weights" in refusal(lambda: hub.check_listing("a/b", ["config.json", "pytorch_model.bin"]))
    assert "has no weights" in refusal(lambda: hub.check_listing("a/b", ["README.md", "onnx/model.safetensors"]))


def test_saving_where_nothing_can_be_written(tiny_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refusal(lambda: save_model(tiny_model(), tokenizer(), tmp_path / "file" / "below"), CacheError)
    assert "cannot write" in message


def test_a_full_disk_is_named(tiny_model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def fail(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    model = tiny_model()
    monkeypatch.setattr(type(model), "save_pretrained", fail)
    assert "disk is full" in refusal(lambda: save_model(model, tokenizer(), tmp_path / "full"), CacheError)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real small models in ../shared/models")
@pytest.mark.parametrize("name", ["tinystories-llama-260k", "tinystories-bitnet-3m"])
def test_real_models_load(name: str) -> None:
    model, tokenizer = load_model(SHARED / name), load_tokenizer(SHARED / name)
    assert context_length(model) == 512
    ids = tokenizer("Once upon a time, there was a", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(int(model(ids).logits[0, -1].argmax())).strip() == "little"

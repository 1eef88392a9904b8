"""A live ensemble, written and read again; the hub."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ensemw2s.artifacts import verify_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.engine.bank import SideBySide
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import CacheError, ModelError
from ensemw2s.models.adapters import load_expert

ALPHAS = [1.25, 0.1 + 0.2, 2.0]
FORM = TaskFormat(max_new_tokens=5, template="what is {question} ?")
IDS = torch.tensor([[1, 3, 4, 5, 9], [1, 8, 2, 7, 6]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.mark.parametrize("engine", ["turns", "stacked"])
def test_full_ensembles_come_back(engine: str, full: Any, tmp_path: Path) -> None:
    before = full(1, 2, rule="product", engine=engine)
    before.save_pretrained(tmp_path / "saved")
    verify_checksums(tmp_path / "saved")
    after = Ensemble.from_pretrained(tmp_path / "saved", engine=engine)
    assert (after.alphas, after.rule, after.task_format) == (ALPHAS[:2], "product", FORM)
    assert after.meta["base"] == "any"
    assert after.meta["kind"] == "full"
    torch.testing.assert_close(logits(after), logits(before), atol=0, rtol=0)
    for one, other in zip(after.models, before.models, strict=True):
        torch.testing.assert_close(logits(one), logits(other), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_keep_every_bit(dtype: str, lora: Any, adapted: Any, tmp_path: Path, base: Path) -> None:
    before = lora(1, 2, dtype=dtype)
    assert isinstance(before.bank, SideBySide)
    before.save_pretrained(tmp_path / "saved")
    for number in (1, 2):
        own = load_file(adapted(number) / "adapter_model.safetensors")
        saved = load_file(tmp_path / "saved" / f"expert-{number}" / "adapter_model.safetensors")
        assert own.keys() == saved.keys()
        for name, value in own.items():
            assert value.dtype == saved[name].dtype == torch.float32
            assert torch.equal(value, saved[name]), name
    after = Ensemble.from_pretrained(tmp_path / "saved", dtype=dtype)
    assert torch.equal(logits(after), logits(before))
    assert (after.meta["base"], after.meta["rounds"], after.meta["kind"]) == (str(base), [1], "lora")


def test_live_peft_models_are_saved_as_adapters(tmp_path: Path, adapted: Any, base: Path, tokenizer: Any) -> None:
    models = [load_expert(adapted(seed)) for seed in (1, 2)]
    before = Ensemble.of(models, ALPHAS[:2], "mean", tokenizer, FORM, {"base": str(base)})
    assert before.bank.name == "turns"
    before.save_pretrained(tmp_path / "saved")
    after = Ensemble.from_pretrained(tmp_path / "saved")
    assert isinstance(after.bank, SideBySide)
    torch.testing.assert_close(logits(after), logits(before), atol=1e-5, rtol=1e-5)


def test_peft_and_transformers_open_the_experts(lora: Any, full: Any, base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ensemble = lora(1, 2)
    ensemble.save_pretrained(tmp_path / "saved")
    full(1, 2).save_pretrained(tmp_path / "full")
    for place, expert in enumerate(ensemble.models, start=1):
        opened = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), tmp_path / f"saved/expert-{place}"
        )
        torch.testing.assert_close(logits(opened.eval()), logits(expert), atol=1e-5, rtol=1e-5)
        by_itself = AutoModelForCausalLM.from_pretrained(tmp_path / f"saved/expert-{place}").eval()  # finds its base
        torch.testing.assert_close(logits(by_itself), logits(expert), atol=1e-5, rtol=1e-5)
    for place, expert in enumerate(full(1, 2).models, start=1):
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / f"full/expert-{place}").eval()
        torch.testing.assert_close(logits(opened), logits(expert), atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("one plus").input_ids == [1, 5, 9, 0]


def test_the_doorway_of_transformers(lora: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, pipeline

    direct = lora(1, 2)
    direct.save_pretrained(tmp_path / "saved")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert isinstance(opened, Ensemble)
    assert torch.equal(logits(opened), logits(direct))
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16, device_map="cpu")
    assert next(half.parameters()).dtype == torch.bfloat16
    ids = torch.tensor([direct.prompts(["what is two"])[0]])
    told = direct.generate(ids, max_new_tokens=4, do_sample=False)
    for model in (str(tmp_path / "saved"), direct):
        named = {} if isinstance(model, str) else {"tokenizer": direct.tokenizer}
        pipe = pipeline("text-generation", model=model, **named)
        (answer,) = pipe(
            "what is two", max_new_tokens=4, do_sample=False, add_special_tokens=False, return_tensors=True
        )
        given = direct.tokenizer("what is two", add_special_tokens=False).input_ids
        wanted = direct.generate(torch.tensor([given]), max_new_tokens=4, do_sample=False)[0].tolist()
        assert answer["generated_token_ids"] == wanted
    assert told.shape[0] == 1


def test_saving_again_over_the_folder_it_came_from(lora: Any, tmp_path: Path) -> None:
    ensemble = lora(1, 2)
    ensemble.reweight([1.0, 5.0])
    place = tmp_path / "lora-1-2mean"
    ensemble.save_pretrained(place)
    after = Ensemble.from_pretrained(place)
    assert after.alphas == [1.0, 5.0]
    assert torch.equal(logits(after), logits(ensemble))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def _dies_at_the_swap(ensemble: Ensemble, place: Path, renames: int) -> None:
    """In a process of its own: killed before the rename of that number, without a chance to tidy up."""
    own, done = Path.replace, [0]

    def replace(self: Path, target: Any) -> Any:
        if place in (self, Path(target)):
            if done[0] == renames:
                os._exit(9)
            done[0] += 1
        return own(self, target)

    Path.replace = replace  # type: ignore[method-assign,assignment]
    ensemble.save_pretrained(place)
    os._exit(0)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a process that can be forked")
def test_killed_before_the_rename_the_old_ensemble_is_whole(full: Any, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    full(1, 2).save_pretrained(place)
    worker = multiprocessing.get_context("fork").Process(target=_dies_at_the_swap, args=(full(3), place, 0))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 9
    verify_checksums(place)
    after = Ensemble.from_pretrained(place)
    assert torch.equal(logits(after), logits(full(1, 2)))
    full(3).save_pretrained(place)  # and what the killed one left is no hindrance
    assert torch.equal(logits(Ensemble.from_pretrained(place)), logits(full(3)))
    assert not (tmp_path / ".saved.new").exists()


def test_a_failed_write_leaves_the_old_ensemble(full: Any, tmp_path: Path, monkeypatch: Any) -> None:
    full(1).save_pretrained(tmp_path / "saved")
    later = full(2, 3, engine="turns")
    monkeypatch.setattr(
        type(later.models[0]), "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "x"))
    )
    with pytest.raises(CacheError, match="disk is full"):
        later.save_pretrained(tmp_path / "saved")
    with pytest.raises(CacheError, match="disk is full"):
        later.save_pretrained(tmp_path / "new")
    monkeypatch.undo()
    assert torch.equal(logits(Ensemble.from_pretrained(tmp_path / "saved")), logits(full(1)))
    assert sorted(path.name for path in tmp_path.iterdir() if "saved" in path.name or "new" in path.name) == ["saved"]


def test_mixed_kinds_cannot_be_saved(tmp_path: Path, make_expert: Any, adapted: Any, tokenizer: Any) -> None:
    mixed = Ensemble.of([make_expert(1), load_expert(adapted(1))], [1.0, 1.0], "mean", tokenizer, FORM)
    with pytest.raises(ModelError, match="some experts are adapters and some full models"):
        mixed.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    without = Ensemble.of([make_expert(1)], [1.0])
    with pytest.raises(ModelError, match="has no tokenizer"):
        without.save_pretrained(tmp_path / "saved")


# ---- the hub


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: Any) -> Callable[[str, Path], None]:
    """``cached(repository, folder)``: as if it had been downloaded once."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(repository: str, folder: Path) -> None:
        home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, home / "snapshots" / ("0" * 40))

    return put


def test_hub_ids_are_found_in_the_local_cache(cached: Any, full: Any, tmp_path: Path) -> None:
    full(1, 2).save_pretrained(tmp_path / "saved")
    cached("me/ensemble", tmp_path / "saved")
    assert torch.equal(logits(Ensemble.from_pretrained("me/ensemble")), logits(full(1, 2)))
    broken = tmp_path / "hub" / "models--me--ensemble" / "snapshots" / ("0" * 40) / "ensemble.json"
    broken.write_text(broken.read_text() + " ")
    with pytest.raises(ModelError, match=r"not whole.*ensemble.json is damaged"):
        Ensemble.from_pretrained("me/ensemble")

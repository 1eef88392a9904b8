"""A live ensemble: written and read again, changed without retraining, and what it refuses."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ensemw2s.artifacts import verify_checksums, write_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble import folder as folders
from ensemw2s.ensemble.engine.bank import SideBySide
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import CacheError, ConfigError, DataError, ModelError
from ensemw2s.models.adapters import LoraSettings, add_lora, load_expert, save_adapter
from ensemw2s.models.loading import save_model

ALPHAS = [1.25, 0.1 + 0.2, 2.0]
FORM = TaskFormat(max_new_tokens=5, template="what is {question} ?")
IDS = torch.tensor([[1, 3, 4, 5, 9], [1, 8, 2, 7, 6]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.fixture
def base(tmp_path: Path, make_expert: Any, tokenizer: Any) -> Path:
    save_model(make_expert(100), tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapted(tmp_path: Path, base: Path, make_expert: Any) -> Callable[[int], Path]:
    """``adapted(seed)``: the folder of an adapter on the base; ranks differ."""

    def make(seed: int) -> Path:
        place = tmp_path / f"adapter-{seed}"
        if not place.exists():
            model = add_lora(make_expert(100), LoraSettings(r=1 + seed), seed=seed)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
            save_adapter(model, place, base=str(base))
        return place

    return make


@pytest.fixture
def full(make_expert: Any, tokenizer: Any) -> Callable[..., Ensemble]:
    """``full(*seeds)``: an ensemble of full models."""

    def make(*seeds: int, rule: str = "mean", alphas: Any = None, **options: Any) -> Ensemble:
        models = [make_expert(seed) for seed in seeds]
        return Ensemble.of(models, alphas or ALPHAS[: len(seeds)], rule, tokenizer, FORM, {"base": "any"}, **options)

    return make


@pytest.fixture
def lora(tmp_path: Path, base: Path, adapted: Any, tokenizer: Any) -> Callable[..., Ensemble]:
    """``lora(*seeds)``: an ensemble of adapters on one base, loaded from its folder."""

    def make(*seeds: int, rule: str = "mean", alphas: Any = None, state: Any = None, **options: Any) -> Ensemble:
        place = tmp_path / ("lora-" + "-".join(map(str, seeds)) + rule)
        if not place.exists():
            folders.write_ensemble(
                place, [adapted(seed) for seed in seeds], alphas or ALPHAS[: len(seeds)], rule, tokenizer=tokenizer,
                task_format=FORM, base=str(base), kind="lora", meta={"rounds": [1]}, rule_state=state,
            )  # fmt: skip
        return Ensemble.from_pretrained(place, **options)

    return make


# ---- written and read again


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


class FakeHub:
    """What would have been uploaded: ``files`` by their names in the repository."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.calls: list[dict[str, Any]] = []

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        return SimpleNamespace(repo_id=repo_id)

    def create_commit(self, *, operations: Any, **named: Any) -> None:
        self.calls.append(named)
        self.files |= {one.path_in_repo: Path(one.path_or_fileobj).read_bytes() for one in operations}


@pytest.fixture
def hub(monkeypatch: Any) -> FakeHub:
    from huggingface_hub import ModelCard
    from transformers.utils import hub as upload

    fake = FakeHub()
    monkeypatch.setattr(upload, "hf_api", lambda: fake)
    monkeypatch.setattr(upload, "create_and_tag_model_card", lambda *_, **__: ModelCard("# an ensemble"))
    return fake


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_push_offers_every_file(way: str, hub: Any, lora: Any, tmp_path: Path) -> None:
    ensemble = lora(1, 2)
    ensemble.save_pretrained(tmp_path / "saved")
    if way == "push_to_hub":
        ensemble.push_to_hub("me/ensemble", commit_message="first")
    else:
        ensemble.save_pretrained(tmp_path / "again", push_to_hub=True, repo_id="me/ensemble", commit_message="first")
    wanted = {str(path.relative_to(tmp_path / "saved")) for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert "expert-2/adapter_model.safetensors" in wanted
    assert wanted <= set(hub.files)
    assert (hub.calls[-1]["commit_message"], hub.calls[-1]["repo_id"]) == ("first", "me/ensemble")
    place = tmp_path / "fetched"
    for name, content in hub.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    assert torch.equal(logits(Ensemble.from_pretrained(place)), logits(ensemble))


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


# ---- changed while it lives


def kinds(kind: str, request: Any) -> Callable[..., Ensemble]:
    return request.getfixturevalue(kind)  # type: ignore[no-any-return]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("given", ["folder", "live model"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_added_is_as_made_anew(
    kind: str, given: str, pack: bool, request: Any, adapted: Any, make_expert: Any, tokenizer: Any, tmp_path: Path
) -> None:
    options = {"pack": pack} if kind == "lora" else {"engine": "stacked" if pack else "turns"}
    ensemble = kinds(kind, request)(1, 2, **options)
    way = ensemble.bank.name
    if kind == "lora":
        new = adapted(3) if given == "folder" else load_expert(adapted(3))
    else:
        save_model(make_expert(3), tokenizer, tmp_path / "third")
        new = tmp_path / "third" if given == "folder" else make_expert(3)
    ensemble.add_expert(new, ALPHAS[2])
    fresh = kinds(kind, request)(1, 2, 3, **options)
    assert ensemble.alphas == fresh.alphas == ALPHAS
    assert (ensemble.bank.name, len(ensemble.models)) == (way, 3)
    torch.testing.assert_close(logits(ensemble), logits(fresh), atol=1e-5, rtol=1e-5)
    for one, other in zip(ensemble.models, fresh.models, strict=True):
        torch.testing.assert_close(logits(one), logits(other), atol=1e-5, rtol=1e-5)
    ensemble.save_pretrained(tmp_path / "grown")
    torch.testing.assert_close(
        logits(Ensemble.from_pretrained(tmp_path / "grown")), logits(fresh), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_removed_is_as_made_anew(kind: str, place: int, request: Any, tmp_path: Path) -> None:
    ensemble = kinds(kind, request)(1, 2, 3)
    ensemble.remove_expert(place)
    left = [1, 2, 3]
    left.pop(place)
    alphas = list(ALPHAS)
    alphas.pop(place)
    fresh = kinds(kind, request)(*left, alphas=alphas)
    assert ensemble.alphas == fresh.alphas
    torch.testing.assert_close(logits(ensemble), logits(fresh), atol=1e-5, rtol=1e-5)
    ensemble.remove_expert(0)
    torch.testing.assert_close(logits(ensemble), logits(fresh.models[1]).log_softmax(-1), atol=1e-5, rtol=1e-5)
    assert ensemble.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3).shape[0] == 2
    ensemble.save_pretrained(tmp_path / "smaller")
    assert len(Ensemble.from_pretrained(tmp_path / "smaller").models) == 1


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_there_and_back_again(kind: str, request: Any, adapted: Any, make_expert: Any) -> None:
    """Adding and removing, over and over, leaves nothing behind."""
    ensemble = kinds(kind, request)(1, 2)
    before, size = logits(ensemble), sum(p.numel() for p in ensemble.parameters())
    for _ in range(3):
        ensemble.add_expert(adapted(3) if kind == "lora" else make_expert(3), 1.0)
        assert not torch.allclose(logits(ensemble), before, atol=1e-3)
        ensemble.remove_expert(-1)
        torch.testing.assert_close(logits(ensemble), before, atol=1e-5, rtol=1e-5)
        assert sum(p.numel() for p in ensemble.parameters()) == size


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_reweighted_is_as_made_anew(kind: str, request: Any) -> None:
    ensemble = kinds(kind, request)(1, 2)
    ensemble.reweight([0.0, 3.0])
    torch.testing.assert_close(logits(ensemble), logits(ensemble.models[1]).log_softmax(-1), atol=1e-5, rtol=1e-5)
    for alphas, words in (([0.0, 0.0], "all zero"), ([1.0], "1 alphas for 2"), ([-1.0, 1.0], "negative"),
                          ([float("nan"), 1.0], "not all finite")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            ensemble.reweight(alphas)
        assert ensemble.alphas == [0.0, 3.0]


def test_fitted_rules_follow_the_experts(full: Any, make_expert: Any) -> None:
    best = full(1, 2, 3, rule="best", rule_state={"scores": [[1, -1.0], [5, -1.0], [3, -1.0]]})
    best.remove_expert(1)
    assert best.rule_state == {"scores": [[1, -1.0], [3, -1.0]]}
    torch.testing.assert_close(logits(best), logits(make_expert(3)).log_softmax(-1), atol=1e-5, rtol=1e-5)
    weights = full(1, 2, 3, rule="calibrated", rule_state={"weights": [0.2, 0.7, 0.1]})
    weights.remove_expert(1)
    mean = full(1, 3, alphas=[0.2, 0.1])
    torch.testing.assert_close(logits(weights), logits(mean), atol=1e-5, rtol=1e-5)
    for ensemble in (best, weights):
        before = logits(ensemble)
        with pytest.raises(ConfigError, match=f"rule '{ensemble.rule}' was fitted for 2 experts: fit it again for 3"):
            ensemble.add_expert(make_expert(4), 1.0)
        assert (len(ensemble.models), ensemble.alphas) == (2, [ALPHAS[0], ALPHAS[2]])
        assert torch.equal(logits(ensemble), before)
    prefix = full(1, 2, rule="prefix", rule_state={"beta": 0.25})
    prefix.add_expert(make_expert(3), ALPHAS[2])
    assert prefix.rule_state == {"beta": 0.25}
    torch.testing.assert_close(
        logits(prefix), logits(full(1, 2, 3, rule="prefix", rule_state={"beta": 0.25})), atol=1e-5, rtol=1e-5
    )


def test_a_refused_rule_leaves_the_stack_alone(lora: Any, adapted: Any) -> None:
    """Adapters are stacked in place, so every reason to refuse has to come first."""
    ensemble = lora(1, 2, rule="calibrated", state={"weights": [0.2, 0.8]})
    unchanged(ensemble, lambda: ensemble.add_expert(adapted(3), 1.0), ConfigError, "was fitted for 2 experts")
    for place, expert in enumerate(ensemble.models):
        torch.testing.assert_close(logits(expert), logits(load_expert(adapted(place + 1))), atol=1e-5, rtol=1e-5)


def test_a_wider_expert_comes_and_goes(full: Any, make_expert: Any, tmp_path: Path) -> None:
    """Output layers may be padded; saved again it is the model itself that is written."""
    ensemble = full(1, 2)
    before = logits(ensemble)
    ensemble.add_expert(make_expert(3, vocab_size=20), 1.0)
    assert logits(ensemble).shape[-1] == ensemble.bank.vocabulary == 20
    ensemble.save_pretrained(tmp_path / "wide")
    torch.testing.assert_close(
        logits(Ensemble.from_pretrained(tmp_path / "wide")), logits(ensemble), atol=1e-5, rtol=1e-5
    )
    found = ensemble.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3, do_sample=False)
    assert found.shape[0] == 2
    ensemble.remove_expert(2)
    torch.testing.assert_close(logits(ensemble), before, atol=1e-5, rtol=1e-5)


def unchanged(ensemble: Ensemble, change: Callable[[], None], error: type[Exception], words: str) -> None:
    before, bank, size = logits(ensemble), ensemble.bank, len(ensemble.models)
    with pytest.raises(error, match=words):
        change()
    assert torch.equal(logits(ensemble), before)
    assert (ensemble.bank is bank, len(ensemble.models), len(ensemble.alphas)) == (True, size, size)


def test_failed_changes_of_full_ensembles_change_nothing(full: Any, make_expert: Any, tmp_path: Path) -> None:
    ensemble = full(1, 2, engine="stacked")
    for alpha, words in ((-1.0, "negative"), (float("nan"), "not all finite"), (float("inf"), "not all finite")):
        unchanged(ensemble, lambda a=alpha: ensemble.add_expert(make_expert(3), a), ConfigError, words)
    unchanged(ensemble, lambda: ensemble.add_expert(7, 1.0), ConfigError, "a model or a folder, got int")
    unchanged(ensemble, lambda: ensemble.add_expert(tmp_path / "none", 1.0), ModelError, "none")
    unchanged(
        ensemble, lambda: ensemble.add_expert(make_expert(3, vocab_size=8), 1.0), ModelError, "the experts know 8"
    )
    unchanged(
        ensemble, lambda: ensemble.add_expert(make_expert(3, hidden_size=8), 1.0), ModelError, "of different sizes"
    )
    for place in (2, -3):
        unchanged(
            ensemble, lambda p=place: ensemble.remove_expert(p), ConfigError, f"cannot remove expert {place} of 2"
        )
    ensemble.reweight([0.0, 1.0])
    unchanged(ensemble, lambda: ensemble.remove_expert(1), ConfigError, "all zero")
    single = full(1)
    unchanged(single, lambda: single.remove_expert(0), ConfigError, "cannot remove expert 0 of 1")


@pytest.mark.parametrize("pack", [True, False])
def test_failed_changes_of_adapters_change_nothing(
    pack: bool, lora: Any, adapted: Any, make_expert: Any, tokenizer: Any, tmp_path: Path
) -> None:
    ensemble = lora(1, 2, pack=pack)
    unchanged(ensemble, lambda: ensemble.add_expert(make_expert(3), 1.0), ModelError, "LoRA adapters on one base")
    unchanged(ensemble, lambda: ensemble.add_expert(adapted(3), -1.0), ConfigError, "negative")
    save_model(make_expert(200), tokenizer, tmp_path / "other base")
    foreign = add_lora(make_expert(200), LoraSettings(r=2), seed=1)
    save_adapter(foreign, tmp_path / "foreign", base=str(tmp_path / "other base"))
    unchanged(ensemble, lambda: ensemble.add_expert(tmp_path / "foreign", 1.0), ModelError, "is for base .*other base")
    # One that says it is for this base and is not: only some of its layers are of another size.
    for name, changes in (("narrow", {"intermediate_size": 8}), ("deep", {"num_hidden_layers": 3})):
        odd = add_lora(make_expert(1, **changes), LoraSettings(r=2), seed=1)
        save_adapter(odd, tmp_path / name, base=str(tmp_path / "base"))
        unchanged(ensemble, lambda n=name: ensemble.add_expert(tmp_path / n, 1.0), ModelError, "layer")
    dora = adapted(3)
    config = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    unchanged(ensemble, lambda: ensemble.add_expert(dora, 1.0), ModelError, "cannot join.*use_dora")
    ensemble.reweight([0.0, 1.0])
    unchanged(ensemble, lambda: ensemble.remove_expert(1), ConfigError, "all zero")


def test_an_expert_kept_from_before_a_change_says_so(lora: Any) -> None:
    """Its number in the stack may be nobody's by then, or another's."""
    ensemble = lora(1, 2, 3)
    kept = ensemble.models[2]
    before = logits(kept)
    ensemble.remove_expert(0)
    with pytest.raises(ModelError, match="has changed since"):
        logits(kept)
    torch.testing.assert_close(logits(ensemble.models[1]), before, atol=1e-5, rtol=1e-5)


# ---- what it refuses


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

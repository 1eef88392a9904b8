"""A live ensemble, changed without retraining: as made anew, or not changed at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ensemw2s.artifacts import write_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.adapters import LoraSettings, add_lora, load_expert, save_adapter
from ensemw2s.models.loading import save_model

ALPHAS = [1.25, 0.1 + 0.2, 2.0]
FORM = TaskFormat(max_new_tokens=5, template="what is {question} ?")
IDS = torch.tensor([[1, 3, 4, 5, 9], [1, 8, 2, 7, 6]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


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
                          ([float("nan"), 1.0], "not all finite"), (["a", 1], "are no list of numbers"),
                          ([None, 1.0], "are no list of numbers"), ("ab", "are no list of numbers"),
                          ([10**400, 1.0], "are no list of numbers")):  # fmt: skip
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


def added(full: Any, *seeds: int, alphas: list[float], total: list[float] | None = None) -> Ensemble:
    made: Ensemble = full(*seeds, alphas=alphas, rule="additive", rule_state={"alphas": total or list(alphas)})
    return made


def the_sum(make_expert: Any, weights: dict[int, float]) -> Tensor:
    """softmax(Σ w log p), expert by expert."""
    parts = [w * logits(make_expert(seed)).log_softmax(-1) for seed, w in weights.items()]
    return torch.stack(parts).sum(dim=0).log_softmax(-1)


@pytest.mark.parametrize("wanted", [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.0, 0.5, 2.0], [1.0, 0.0, 0.0]], ids=str)
def test_the_weights_of_a_sum_are_what_was_set(
    wanted: list[float], full: Any, make_expert: Any, tmp_path: Path
) -> None:
    ensemble = added(full, 1, 2, 3, alphas=[1.0, 0.5, 0.5])
    ensemble.reweight(wanted)
    expected = the_sum(make_expert, dict(zip((1, 2, 3), wanted, strict=True)))
    torch.testing.assert_close(logits(ensemble), expected, atol=1e-5, rtol=1e-5)
    assert ensemble.alphas == ensemble.rule_state["alphas"] == wanted
    ensemble.save_pretrained(tmp_path / "saved")
    kept = json.loads((tmp_path / "saved" / "ensemble.json").read_text())
    assert kept["alphas"] == kept["rule_state"]["alphas"] == wanted
    again = Ensemble.from_pretrained(tmp_path / "saved")
    assert again.alphas == again.rule_state["alphas"] == wanted
    torch.testing.assert_close(logits(again), logits(ensemble), atol=1e-6, rtol=1e-6)
    before = logits(again)
    again.reweight(wanted)
    assert torch.equal(logits(again), before)


def test_a_sum_as_it_was_trained_is_no_change(full: Any) -> None:
    ensemble = added(full, 1, 2, 3, alphas=[1.0, 0.1, 0.1])
    before = logits(ensemble)
    ensemble.reweight([1.0, 0.1, 0.1])
    assert torch.equal(logits(ensemble), before)
    assert "changes" not in ensemble.meta
    ensemble.reweight([1.0, 1.0, 1.0])
    assert not torch.allclose(logits(ensemble), before, atol=1e-2)
    ensemble.reweight([1.0, 0.1, 0.1])
    assert torch.equal(logits(ensemble), before)
    ensemble.reweight([1.0, 1.0, 1.0])
    before = logits(ensemble)
    with pytest.raises(ConfigError, match="all zero"):
        ensemble.reweight([0.0, 0.0, 0.0])
    with pytest.raises(ConfigError, match="cannot use its stored state"):
        ensemble.reweight([1e308, 1e308, 1e308])
    assert torch.equal(logits(ensemble), before)
    assert ensemble.alphas == ensemble.rule_state["alphas"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("alphas", [[1.0, 0.5], [1.5, 0.5]], ids=str)
def test_no_weight_in_a_sum_is_as_good_as_gone(alphas: list[float], full: Any, make_expert: Any) -> None:
    for place, weights in enumerate(([0.0, alphas[1]], [alphas[0], 0.0])):
        weightless, removed = (added(full, 1, 2, alphas=alphas) for _ in range(2))
        weightless.reweight(weights)
        removed.remove_expert(place)
        torch.testing.assert_close(logits(weightless), logits(removed), atol=1e-5, rtol=1e-5)
        expected = the_sum(make_expert, {2 - place: alphas[1 - place]})
        torch.testing.assert_close(logits(removed), expected, atol=1e-5, rtol=1e-5)
        weightless.remove_expert(place)
        assert weightless.alphas == weightless.rule_state["alphas"] == removed.alphas == [alphas[1 - place]]


def test_a_sum_of_old_with_another_total_in_its_state(full: Any, make_expert: Any, tmp_path: Path) -> None:
    """Once only the alphas followed a change: such a folder answers as it did, and its alphas say so when opened."""
    added(full, 1, 2, 3, alphas=[1.0, 0.5, 0.5]).save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "ensemble.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alphas": [1, 1, 2]}))
    write_checksums(tmp_path / "old")
    ensemble = Ensemble.from_pretrained(tmp_path / "old")
    assert ensemble.alphas == ensemble.rule_state["alphas"] == [0.5, 0.5, 1.0]
    expected = the_sum(make_expert, {1: 0.5, 2: 0.5, 3: 1.0})
    torch.testing.assert_close(logits(ensemble), expected, atol=1e-5, rtol=1e-5)
    ensemble.remove_expert(2)
    torch.testing.assert_close(logits(ensemble), the_sum(make_expert, {1: 0.5, 2: 0.5}), atol=1e-5, rtol=1e-5)
    plain = full(1, 2, alphas=[3.0, 1.0], rule="additive")
    plain.reweight([2.0, 2.0])
    assert (plain.alphas, plain.rule_state) == ([2.0, 2.0], {})
    torch.testing.assert_close(logits(plain), the_sum(make_expert, {1: 0.5, 2: 0.5}), atol=1e-5, rtol=1e-5)


def test_an_expert_joins_a_sum(full: Any, make_expert: Any) -> None:
    ensemble = added(full, 1, 2, alphas=[1.0, 0.5])
    ensemble.add_expert(make_expert(3), 0.25)
    assert ensemble.alphas == ensemble.rule_state["alphas"] == [1.0, 0.5, 0.25]
    parts = [logits(make_expert(seed)).log_softmax(-1) for seed in (1, 2, 3)]
    expected = (parts[0] + 0.5 * parts[1] + 0.25 * parts[2]).log_softmax(-1)
    torch.testing.assert_close(logits(ensemble), expected, atol=1e-5, rtol=1e-5)
    ensemble.remove_expert(2)
    torch.testing.assert_close(logits(ensemble), (parts[0] + 0.5 * parts[1]).log_softmax(-1), atol=1e-5, rtol=1e-5)


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
    for alpha, words in ((-1.0, "negative"), (float("nan"), "not all finite"), (float("inf"), "not all finite"),
                         ("a", "are no list of numbers")):  # fmt: skip
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

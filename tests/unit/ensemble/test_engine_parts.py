"""The engine's parts: adapters that can be stacked and that cannot, caches, packed products, views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from enginekit import IDS, VOCAB, tiny
from torch import nn

from ensemw2s.ensemble.engine.adapters import Unstackable, parse_adapter, stack_layer
from ensemw2s.ensemble.engine.bank import ExpertView, Turns
from ensemw2s.ensemble.engine.cache import EnsembleCache
from ensemw2s.ensemble.engine.choose import make_bank, stack_on
from ensemw2s.ensemble.engine.packed import LEAST_WEIGHTS, PackedLinear, can_pack, pack_linears
from ensemw2s.ensemble.widths import Widened, widen
from ensemw2s.errors import ModelError

PACKS = pytest.mark.skipif(
    not can_pack(torch.float32, torch.device("cpu")), reason="this machine has no packed products"
)


# ---- adapters as tensors


def test_scaling_as_pefts() -> None:
    def scaled(rank: int, **config: Any) -> float:
        names = [f"base_model.model.layers.3.q.lora_{side}.weight" for side in "AB"]
        state = dict(zip(names, (torch.zeros(rank, 5), torch.zeros(4, rank)), strict=True))
        return parse_adapter({"lora_alpha": 8, **config}, state).scaling["layers.3.q"]

    assert scaled(4) == 2.0
    assert scaled(16, use_rslora=True) == 2.0
    assert scaled(4, alpha_pattern={"q": 2}) == 0.5
    assert scaled(4, alpha_pattern={"k": 2}) == 2.0
    assert scaled(4, alpha_pattern={"layers.3.q": 1, "k": 2}) == 0.25


def test_one_layers_stack() -> None:
    one = parse_adapter({"lora_alpha": 3}, {
        "base_model.model.x.lora_A.weight": torch.tensor([[1.0, 2.0]]), "base_model.model.x.lora_B.weight": torch.tensor([[5.0], [7.0]]),
    })  # fmt: skip
    none = parse_adapter({"lora_alpha": 1}, {})
    two = parse_adapter({"lora_alpha": 2}, {
        "base_model.model.x.lora_A.weight": torch.ones(2, 2), "base_model.model.x.lora_B.weight": 4 * torch.ones(2, 2),
    })  # fmt: skip
    a, b = stack_layer([one, none, two], "x", torch.empty(0))
    assert a.tolist() == [[[1, 0], [2, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    assert b.tolist() == [[[15, 21], [0, 0]], [[0, 0], [0, 0]], [[4, 4], [4, 4]]]


@pytest.mark.parametrize(
    ("config", "name", "words"),
    [
        ({"peft_type": "IA3"}, None, "is IA3, not LORA"),
        ({"use_dora": True}, None, "uses use_dora"),
        ({"layer_replication": [[0, 1]]}, None, "uses layer_replication"),
        ({"target_parameters": ["w"]}, None, "uses target_parameters"),
        ({}, "base_model.model.x.lora_embedding_A", "holds more than A and B"),
        ({}, "base_model.model.x.lora_B.bias", "holds more than A and B"),
        ({}, "base_model.model.head.weight", "holds more than A and B"),
    ],
)
def test_what_is_no_plain_adapter(config: Any, name: str | None, words: str) -> None:
    state = {} if name is None else {name: torch.zeros(1)}
    with pytest.raises(Unstackable, match=words):
        parse_adapter({"lora_alpha": 1, **config}, state)


def test_a_layer_that_is_not_linear_is_refused() -> None:
    base = tiny("llama", 1)
    for layer, words in (("model.norm", "is not linear"), ("model.nothing", "does not have")):
        names = [f"base_model.model.{layer}.lora_{side}.weight" for side in "AB"]
        odd = parse_adapter({"lora_alpha": 1}, dict(zip(names, (torch.zeros(1, 8), torch.zeros(8, 1)), strict=True)))
        with pytest.raises(ModelError, match=words):
            stack_on(base, [odd])


def test_a_pair_of_different_ranks_or_without_its_other_half() -> None:
    a, b = (f"base_model.model.lm_head.lora_{side}.weight" for side in "AB")
    base = tiny("llama", 1)
    for state in ({a: torch.zeros(2, 8), b: torch.zeros(VOCAB, 3)}, {a: torch.zeros(2, 8)}, {b: torch.zeros(VOCAB, 2)}):
        with pytest.raises(ModelError, match="lm_head"):
            stack_on(base, [parse_adapter({"lora_alpha": 1}, state)])


# ---- the cache


@pytest.mark.parametrize("engine", ["turns", "stacked"])
def test_the_cache_follows_its_rows(engine: str) -> None:
    """Reordered, repeated, fewer rows, cropped: as if the rows had been read anew."""
    bank = make_bank([tiny("gptneox", seed) for seed in (1, 2, 3)], engine)
    more = torch.tensor([[11], [12], [13], [14]])
    with torch.no_grad():
        cache = bank.new_cache()
        assert not cache.is_initialized or engine == "turns"
        bank(IDS, cache=cache)
        assert (cache.get_seq_length(), cache.batch_size, cache.is_compileable) == (5, 2, False)
        cache.batch_repeat_interleave(2)
        assert cache.batch_size == 4
        order = torch.tensor([3, 0, 0, 2])
        cache.reorder_cache(order)
        rows = IDS.repeat_interleave(2, dim=0)[order]
        wanted = bank(torch.cat([rows, more], dim=1))
        torch.testing.assert_close(bank(more, cache=cache)[:, :, -1], wanted[:, :, -1], atol=1e-5, rtol=1e-5)
        cache.crop(-3)
        assert cache.get_seq_length() == 3
        cache.batch_select_indices(torch.tensor([0, 2, 1]))
        cache.batch_select_indices(torch.tensor([1, 2]))  # twice, with nothing read in between
        wanted = bank(torch.cat([rows[[2, 1], :3], more[:2]], dim=1))
        torch.testing.assert_close(bank(more[:2], cache=cache)[:, :, -1], wanted[:, :, -1], atol=1e-5, rtol=1e-5)
        cache.crop(0)
        assert cache.get_seq_length() == 4
        cache.reset()
        assert cache.notes == {}


def test_notes_are_cropped_from_their_end() -> None:
    cache = EnsembleCache([])
    cache.notes = {"x": [torch.arange(1.0).view(1, 1, 1), torch.arange(1.0, 4.0).view(1, 1, 3)]}
    cache.crop(0)
    assert [piece.flatten().tolist() for piece in cache.notes["x"]] == [[0], [1, 2, 3]]
    cache.crop(-1)
    assert [piece.flatten().tolist() for piece in cache.notes["x"]] == [[0], [1, 2]]
    cache.crop(-2)
    assert [piece.flatten().tolist() for piece in cache.notes["x"]] == [[0]]
    cache.crop(-1)
    assert cache.notes == {}


def test_notes_go_with_their_rows() -> None:
    cache = EnsembleCache([])
    cache.notes = {"x": [torch.tensor([[[1.0], [2.0]]])]}
    cache.rows = 2
    cache.batch_repeat_interleave(2)
    assert cache.notes["x"][0].flatten().tolist() == [1, 1, 2, 2]
    cache.reorder_cache(torch.tensor([3, 0]))
    assert cache.notes["x"][0].flatten().tolist() == [2, 1]


# ---- packed products, other widths


@PACKS
def test_packed_products_are_the_products() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(40, 30)
    packed = PackedLinear(layer.weight, layer.bias)
    for shape in ((40,), (3, 40), (2, 5, 40), (1, 1, 40)):
        x = torch.randn(*shape)
        torch.testing.assert_close(packed(x.view(-1, 40)).view(*shape[:-1], 30), layer(x), atol=1e-5, rtol=1e-5)
    assert packed.weight.shape == layer.weight.shape
    assert packed.weight.device.type == "meta"
    with torch.no_grad():
        layer.weight.zero_()
    assert float(packed(torch.randn(4, 40)).detach().abs().max()) > 0.1  # a copy of its own


@PACKS
def test_what_is_worth_packing() -> None:
    size = int(LEAST_WEIGHTS**0.5)
    model = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 4), nn.Linear(4, size * size // 4))
    x = torch.randn(3, size)
    with torch.no_grad():
        wanted = model(x)
        assert pack_linears(model, keep=lambda layer: layer is model[3]) == 1
        assert [type(layer) for layer in model] == [PackedLinear, nn.ReLU, nn.Linear, nn.Linear]
        torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-5)
    assert not can_pack(torch.float64, torch.device("cpu"))
    assert not can_pack(torch.float32, torch.device("cuda"))


def test_narrow_models_are_filled_up() -> None:
    models = [tiny("llama", seed) for seed in (1, 2)]
    assert widen(models) == models
    assert widen([]) == []
    import transformers as tf

    torch.manual_seed(3)
    config = models[0].config.to_dict() | {"vocab_size": VOCAB + 4}
    wide = tf.LlamaForCausalLM(tf.LlamaConfig(**config)).eval()
    narrow, same = widen([models[0], wide])
    assert same is wide
    assert isinstance(narrow, Widened)
    with torch.no_grad():
        logits = narrow(IDS).logits
        torch.testing.assert_close(logits[..., :VOCAB], models[0](IDS).logits)
        assert bool(logits[..., VOCAB:].isneginf().all())
        bank = make_bank([narrow, wide])
        assert isinstance(bank, Turns)
        assert bank.vocabulary == VOCAB + 4
        cache = bank.new_cache()
        steps = torch.cat([bank(IDS[:, c : c + 1], cache=cache) for c in range(5)], dim=2)
        torch.testing.assert_close(steps, bank(IDS), atol=1e-5, rtol=1e-5)


def test_views_of_full_models_know_their_source() -> None:
    models = [tiny("gptneox", seed) for seed in (1, 2)]
    bank = make_bank(models, "stacked")
    for view, model in zip(bank.experts, models, strict=True):
        assert isinstance(view, ExpertView)
        assert view.source is model
        assert view.config.vocab_size == VOCAB
        assert view.get_output_embeddings().weight.shape == (VOCAB, 8)
        assert view.generation_config is not None

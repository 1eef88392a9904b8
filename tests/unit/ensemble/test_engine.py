"""The engine's parts: what can be stacked and what cannot, caches, views, and the invariants of every way."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ensemw2s.ensemble.engine import choose
from ensemw2s.ensemble.engine.adapters import Unstackable, parse_adapter, stack_layer
from ensemw2s.ensemble.engine.bank import ExpertView, SideBySide, Turns
from ensemw2s.ensemble.engine.cache import EnsembleCache
from ensemw2s.ensemble.engine.choose import make_bank, stack_on
from ensemw2s.ensemble.engine.full import stack_models
from ensemw2s.ensemble.engine.packed import LEAST_WEIGHTS, PackedLinear, can_pack, linear_parts, pack_linears
from ensemw2s.ensemble.engine.stacked import Switch
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.widths import Widened, widen
from ensemw2s.errors import ConfigError, ModelError

VOCAB = 23
PACKS = pytest.mark.skipif(
    not can_pack(torch.float32, torch.device("cpu")), reason="this machine has no packed products"
)
IDS = torch.tensor([[1, 3, 4, 5, 9], [1, 8, 2, 7, 6]])


def tiny(family: str, seed: int, *, layers: int = 1, heads: int = 2, width: int = 8, tied: bool = False) -> Any:
    """One of four families, drawn wide."""
    import transformers as tf

    torch.manual_seed(seed)
    common: dict[str, Any] = {
        "vocab_size": VOCAB, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 0, "tie_word_embeddings": tied,
    }  # fmt: skip
    if family == "gpt2":
        config: Any = tf.GPT2Config(n_embd=width, n_layer=layers, n_head=heads, n_positions=32, **common)
        return tf.GPT2LMHeadModel(config).eval()
    common |= {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 2 * width,
        "max_position_embeddings": 32, "pad_token_id": None,
    }  # fmt: skip
    if family == "gptneox":
        return tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**common)).eval()
    if family == "llama":
        return tf.LlamaForCausalLM(tf.LlamaConfig(num_key_value_heads=1, **common)).eval()
    return tf.Qwen2ForCausalLM(tf.Qwen2Config(num_key_value_heads=heads, **common)).eval()


def scatter(model: Any, seed: int) -> Any:
    """Norms and biases start equal; make them differ between experts."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
    return model


def adapter(base: Any, seed: int, rank: int) -> Any:
    """An adapter on some of the base's linear layers, drawn from the seed."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, layer in base.named_modules():
        parts = linear_parts(layer)
        if parts is not None and torch.rand((), generator=draw) < 0.7:
            out, inside = parts[0].shape
            state[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, inside, generator=draw) * 0.3
            state[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank, generator=draw) * 0.3
    return parse_adapter({"peft_type": "LORA", "lora_alpha": 2 * rank}, state)


def merged(base: Any, one: Any) -> Any:
    """A plain model with the adapter's product in its weights: an independent twin of a view."""
    model = copy.deepcopy(base)
    with torch.no_grad():
        for name in one.layers:
            layer, (a, b) = model.get_submodule(name), one.pair(name)
            layer.weight.add_((a @ b) if type(layer).__name__ == "Conv1D" else (a @ b).t())
    return model


# ---- invariants


@st.composite
def worlds(draw: Any) -> dict[str, Any]:
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    pads = [draw(st.integers(0, width - 1)) for _ in range(rows)]
    seed = draw(st.integers(0, 10**6))
    ids = torch.randint(0, VOCAB, (rows, width), generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    count = draw(st.integers(1, 4))
    return {
        "family": draw(st.sampled_from(["gptneox", "llama", "gpt2", "qwen2"])), "layers": draw(st.integers(1, 2)),
        "seed": seed, "ids": ids, "mask": mask, "count": count, "tied": draw(st.booleans()),
        "ranks": [draw(st.integers(1, 4)) for _ in range(count)],
        "alphas": [draw(st.floats(0.05, 5.0)) for _ in range(count)],
        "rule": draw(st.sampled_from(["mean", "product", "uniform", "vote", "prefix"])),
    }  # fmt: skip


def in_steps(bank: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Token by token with a cache, as decoding does."""
    places, cache = (mask.cumsum(-1) - 1).clamp(min=0), bank.new_cache()
    parts = [
        bank(ids[:, c : c + 1], attention_mask=mask[:, : c + 1], position_ids=places[:, c : c + 1], cache=cache)
        for c in range(ids.shape[1])
    ]
    return torch.cat(parts, dim=2)


def real(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities at real tokens, zero elsewhere; ``[..., batch, seq, vocab]``."""
    return logits.float().log_softmax(-1) * mask[..., None]


QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(worlds())
@QUICK
def test_stacked_weights_are_the_models_in_turn(world: dict[str, Any]) -> None:
    named = {"layers": world["layers"], "tied": world["tied"]}
    models = [scatter(tiny(world["family"], world["seed"] + t, **named), t) for t in range(max(2, world["count"]))]
    ids, mask = world["ids"], world["mask"]
    turns, stacked = make_bank(models, "turns"), make_bank(models, "stacked")
    assert isinstance(stacked, SideBySide)
    with torch.no_grad():
        wanted = real(turns(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)), mask)
        for bank in (turns, stacked):
            torch.testing.assert_close(real(in_steps(bank, ids, mask), mask), wanted, atol=2e-4, rtol=1e-4)
        for place, view in enumerate(stacked.experts):
            alone = view(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
            torch.testing.assert_close(real(alone, mask), wanted[place], atol=2e-4, rtol=1e-4)


@given(worlds(), st.booleans())
@QUICK
def test_stacked_adapters_are_the_merged_models(world: dict[str, Any], pack: bool) -> None:
    base = scatter(tiny(world["family"], world["seed"], layers=world["layers"]), 1)
    adapters = [adapter(base, world["seed"] + t, rank) for t, rank in enumerate(world["ranks"])]
    twins = make_bank([merged(base, one) for one in adapters], "turns")
    bank = make_bank(stack_on(base, adapters, pack=pack))
    ids, mask = world["ids"], world["mask"]
    assert bank.name == "stacked adapters"
    with torch.no_grad():
        wanted = real(in_steps(twins, ids, mask), mask)
        torch.testing.assert_close(real(in_steps(bank, ids, mask), mask), wanted, atol=2e-4, rtol=1e-4)


@given(worlds(), st.randoms(use_true_random=False), st.sampled_from(["turns", "stacked"]))
@QUICK
def test_order_and_idle_experts_change_nothing(world: dict[str, Any], random: Any, engine: str) -> None:
    count = world["count"] + 1
    models = [tiny(world["family"], world["seed"] + t, layers=world["layers"]) for t in range(count)]
    alphas, rule = [*world["alphas"], 0.7], world["rule"]
    order = list(range(count))
    random.shuffle(order)
    ids, mask = world["ids"], world["mask"]

    def mixture(some: list[Any], weights: list[float]) -> Tensor:
        with torch.no_grad():
            return real(Ensemble.of(some, weights, rule, engine=engine)(ids, attention_mask=mask).logits, mask)

    first = mixture(models, alphas)
    shuffled = mixture([models[t] for t in order], [alphas[t] for t in order])
    torch.testing.assert_close(shuffled, first, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(mixture(models, [a * 37 for a in alphas]), first, atol=2e-4, rtol=1e-4)
    if rule != "uniform":  # which counts all experts
        idle = tiny(world["family"], world["seed"] + 99, layers=world["layers"])
        torch.testing.assert_close(mixture([*models, idle], [*alphas, 0.0]), first, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(mixture([idle, *models], [0.0, *alphas]), first, atol=2e-4, rtol=1e-4)


# ---- which way is taken


def test_the_ways_and_their_reasons(monkeypatch: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ensemw2s.engine")
    same = [tiny("gptneox", seed) for seed in (1, 2)]
    reasons = {
        "of different architectures": [same[0], tiny("llama", 1)],
        "of different sizes": [same[0], tiny("gptneox", 1, layers=2)],
        "configurations differ": [same[0], tiny("gptneox", 1, heads=4)],
    }
    for words, models in reasons.items():
        bank = make_bank(models)
        assert (bank.name, bank.size) == ("turns", 2)
        assert words in bank.why
        assert words in caplog.text
        with pytest.raises(ModelError, match=f"engine 'stacked' cannot take these experts: .*{words}"):
            make_bank(models, "stacked")
    monkeypatch.setattr(choose, "_step_seconds", lambda bank, **_: 2.0 if isinstance(bank, Turns) else 1.0)
    monkeypatch.setattr(choose, "_MEASURED", {})
    assert make_bank(same).name == "stacked weights"
    assert make_bank(same).why == "a step takes 1000.0 ms side by side and 2000.0 ms in turn"
    monkeypatch.setattr(choose, "_step_seconds", lambda bank, **_: 1.0)
    monkeypatch.setattr(choose, "_MEASURED", {})
    assert make_bank(same).name == "turns"
    assert "1000.0 ms side by side and 1000.0 ms in turn" in make_bank(same).why
    monkeypatch.setattr(choose, "LARGEST_STACKED", 10)
    assert "parameters an expert" in make_bank(same).why
    assert make_bank(same, "stacked").name == "stacked weights"  # asked for
    with pytest.raises(ConfigError, match="unknown engine 'fast'"):
        make_bank(same, "fast")


class _Odd(nn.Linear):
    """A linear layer of a kind of its own: nobody can know what it does with its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_layers_that_nobody_knows_are_not_stacked() -> None:
    models = [tiny("llama", seed) for seed in (1, 2)]
    for model in models:
        odd = _Odd(8, VOCAB, bias=False)
        odd.load_state_dict(model.lm_head.state_dict())
        model.lm_head = odd
    with pytest.raises(Unstackable, match=r"lm_head is a _Odd"):
        stack_models(models, Switch())


def test_a_stack_that_computes_something_else_is_not_taken(monkeypatch: Any) -> None:
    """Code of a family between its layers may depend on weights in a way of its own; one comparison tells."""
    models = [tiny("llama", seed) for seed in (1, 2)]
    whole = choose.stack_models

    def wrong(some: Any, switch: Switch) -> nn.Module:
        stacked = whole(some, switch)
        with torch.no_grad():
            stacked.lm_head.stacked[1] *= 1.1
        return stacked

    monkeypatch.setattr(choose, "stack_models", wrong)
    assert "does not compute what the experts do" in make_bank(models).why


def test_the_models_stay_as_they_are_and_ties_are_kept() -> None:
    models = [tiny("llama", seed, tied=True) for seed in (1, 2)]
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    switch = Switch()
    stacked = stack_models(models, switch)
    for model, values in zip(models, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
        assert model.lm_head.weight is model.model.embed_tokens.weight
    head, table = stacked.lm_head.stacked, stacked.model.embed_tokens.stacked
    assert head.untyped_storage().data_ptr() == table.untyped_storage().data_ptr()
    assert stacked.lm_head.weight.shape == models[0].lm_head.weight.shape
    assert stacked.get_input_embeddings().weight.shape == models[0].lm_head.weight.shape


def test_some_views_of_a_stack_run_in_turn() -> None:
    base = tiny("llama", 1)
    adapters = [adapter(base, seed, 2) for seed in (1, 2, 3)]
    twins = [merged(base, one) for one in adapters]
    views = stack_on(base, adapters)
    for some in ([2, 0], [1], [0, 1, 2, 0]):
        bank = make_bank([views[place] for place in some])
        assert isinstance(bank, Turns)
        with torch.no_grad():
            wanted = torch.stack([twins[place](IDS).logits for place in some])
            torch.testing.assert_close(bank(IDS), wanted, atol=1e-5, rtol=1e-5)
    assert isinstance(make_bank(views), SideBySide)
    assert isinstance(make_bank(views, "turns"), Turns)


def test_layers_of_experts_that_left_are_plain_again() -> None:
    """Stacked anew with fewer experts, a layer that none of them adapts is the base's own."""
    base = tiny("llama", 1)
    plain = copy.deepcopy(base)
    adapters = [adapter(base, seed, 2) for seed in (1, 2)]
    only = set(adapters[0].layers) - set(adapters[1].layers)
    assert only
    ensemble = Ensemble.of(stack_on(base, adapters, pack=False), [1.0, 1.0])
    ensemble.remove_expert(0)
    for name in only:
        assert type(base.get_submodule(name)) is nn.Linear
    with torch.no_grad():
        found, wanted = ensemble(IDS).logits, merged(plain, adapters[1])(IDS).logits.log_softmax(-1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


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

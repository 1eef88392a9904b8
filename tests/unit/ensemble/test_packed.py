"""Packed weights and the attention of one new token: the same function, and nothing lost on the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ensemw2s.ensemble.engine import packed as packed_module
from ensemw2s.ensemble.engine.attention import NAME, decode_attention, use_decode_attention
from ensemw2s.ensemble.engine.choose import pack_model
from ensemw2s.ensemble.engine.packed import PackedLinear, can_pack, pack_linears, unpacked
from ensemw2s.ensemble.engine.stacked import JoinedLinear, StackedLinear, Switch
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ModelError

CPU = torch.device("cpu")
DTYPES = [d for d in (torch.float32, torch.bfloat16) if can_pack(d, CPU)]
pytestmark = pytest.mark.skipif(not DTYPES, reason="this build of torch has no packed products (oneDNN)")


@pytest.fixture
def everything(monkeypatch):
    """Pack small layers too."""
    monkeypatch.setattr(packed_module, "LEAST_WEIGHTS", 0)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), inside=st.integers(1, 70), outside=st.integers(1, 90), bias=st.booleans())
def test_the_product_and_the_weight_are_those_of_the_plain_layer(dtype, rows, inside, outside, bias) -> None:
    torch.manual_seed(rows * inside)
    plain = nn.Linear(inside, outside, bias=bias).to(dtype).requires_grad_(False)
    layer = PackedLinear(plain.weight, plain.bias)
    x = torch.randn(2, rows, inside, dtype=dtype)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    torch.testing.assert_close(layer(x), plain(x), **close)
    assert torch.equal(layer.unpacked(), plain.weight)
    assert (layer.weight.shape, layer.weight.dtype) == (plain.weight.shape, dtype)


@pytest.mark.parametrize("family", ["neox", "gpt2"])
def test_a_packed_model_computes_the_same_and_is_saved_as_it_was(family, make_expert, everything, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=24, initializer_range=0.3)
    model = make_expert(1) if family == "neox" else GPT2LMHeadModel(config).eval()
    before = copy.deepcopy(model)
    ids = torch.tensor([[1, 5, 9], [2, 2, 7]])
    assert pack_linears(model) >= 9
    torch.testing.assert_close(model(ids).logits, before(ids).logits, atol=1e-5, rtol=1e-5)
    with unpacked(model):
        model.save_pretrained(tmp_path / "saved")
    assert any(isinstance(layer, PackedLinear) for layer in model.modules())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    for name, value in before.state_dict().items():
        assert torch.equal(again[name], value), name


def test_a_packed_ensemble_round_trips_and_cannot_move(make_expert, tokenizer, everything, tmp_path) -> None:
    models = [make_expert(1), make_expert(2, hidden_size=32)]  # of two sizes, so they run in turn
    twins = copy.deepcopy(models)
    ensemble = Ensemble.of(models, [1.0, 0.5], "mean", tokenizer, pack=True)
    assert any(isinstance(layer, PackedLinear) for layer in ensemble.modules())
    ids = torch.tensor([[1, 5, 9]])
    torch.testing.assert_close(ensemble(ids).logits, Ensemble.of(twins, [1.0, 0.5])(ids).logits, atol=1e-5, rtol=1e-5)
    ensemble.save_pretrained(tmp_path / "e")
    loaded = Ensemble.from_pretrained(tmp_path / "e", pack=False)
    for model, twin in zip(loaded.models, twins, strict=True):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in twin.state_dict().items())
    with pytest.raises(ModelError, match="packed weights stay on the CPU"):
        ensemble.to(torch.bfloat16)
    with pytest.raises(ModelError, match="packed already"):
        Ensemble.of([ensemble.models[0]] * 2, [1, 1], engine="stacked")


def test_packed_experts_still_have_a_mean(make_expert, everything) -> None:
    from ensemw2s.ensemble.engine.merge import merged

    models = [make_expert(1), make_expert(2)]
    ids = torch.tensor([[1, 5, 9]])
    wanted = merged(copy.deepcopy(models), [1, 3])(ids).logits
    for model in models:
        pack_linears(model)
    torch.testing.assert_close(merged(models, [1, 3])(ids).logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["all", "one", "mean"])
@pytest.mark.parametrize("bias", [True, False])
def test_joined_and_stacked_layers_agree(way, bias) -> None:
    if torch.bfloat16 not in DTYPES:
        pytest.skip("no packed products in bfloat16 here")
    torch.manual_seed(1)
    plain = nn.Linear(24, 40, bias=bias).to(torch.bfloat16).requires_grad_(False)
    a, b = torch.randn(3, 24, 4).bfloat16(), torch.randn(3, 4, 40).bfloat16()
    switch = Switch()
    joined, stacked = JoinedLinear(plain.weight, plain.bias, a, b, switch), StackedLinear(plain, a, b, switch)
    x = torch.randn(6, 5, 24).bfloat16()
    if way == "all":
        one, other = joined(x), stacked(x)
    elif way == "one":
        with switch.at(1):
            one, other = joined(x), stacked(x)
    else:
        with switch.mean(torch.tensor([0.5, 0.3, 0.2])):
            one, other = joined(x), stacked(x)
    torch.testing.assert_close(one.float(), other.float(), atol=0.2, rtol=0.03)
    assert torch.equal(joined.base.weight, plain.weight)


# ---- attention of one token


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), share=st.integers(1, 3), keys=st.integers(1, 20),
    mask=st.sampled_from(["none", "bool", "float"]), queries=st.sampled_from([1, 1, 3]),
)  # fmt: skip
def test_it_is_the_fused_kernel_s_function(batch, groups, share, keys, mask, queries) -> None:
    torch.manual_seed(keys)
    heads, width = groups * share, 8
    query = torch.randn(batch, heads, queries, width).bfloat16()
    key, value = torch.randn(2, batch, groups, keys, width).bfloat16()
    seen = torch.rand(batch, 1, queries, keys) < 0.7
    seen[..., 0] = True
    given_mask = {"none": None, "bool": seen, "float": torch.zeros(seen.shape).masked_fill(~seen, -1e9).bfloat16()}[
        mask
    ]
    layer = nn.Module()
    layer.num_key_value_groups, layer.is_causal = share, False
    found, _ = decode_attention(layer, query, key, value, given_mask, scaling=0.3)
    wide = [t.float().repeat_interleave(share, dim=1) for t in (key, value)]
    exact = nn.functional.scaled_dot_product_attention(
        query.float(), *wide, attn_mask=None if given_mask is None else seen, scale=0.3
    ).transpose(1, 2)
    torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("padded", [False, True])
def test_a_bfloat16_model_decodes_as_before(make_expert, padded) -> None:
    model = make_expert(1, initializer_range=0.2).to(torch.bfloat16)
    ids = torch.tensor([[1, 5, 9, 3], [0, 0, 7, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]) if padded else torch.ones_like(ids)
    options = {"attention_mask": mask, "max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}

    def second_step() -> torch.Tensor:
        """Logits after one more token, with a cache: where the other attention works."""
        out = model(ids, attention_mask=mask, use_cache=True)
        wider = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
        return model(torch.tensor([[4], [4]]), attention_mask=wider, past_key_values=out.past_key_values).logits

    before, text = second_step(), model.generate(ids, **options).sequences
    assert use_decode_attention(model)
    assert model.config._attn_implementation == NAME
    torch.testing.assert_close(second_step().float(), before.float(), atol=0.06, rtol=0.06)
    assert torch.equal(model.generate(ids, **options).sequences, text)
    assert not use_decode_attention(make_expert(1))  # float32 has nothing to gain


def test_a_model_without_the_fused_kernel_is_left_alone(make_expert) -> None:
    model = make_expert(1).to(torch.bfloat16)
    model.set_attn_implementation("eager")
    pack_model(model)
    assert model.config._attn_implementation == "eager"


# ---- a quantised base


@pytest.mark.filterwarnings("ignore")
def test_adapters_stack_on_a_quantised_base(make_expert) -> None:
    """Any layer from [..., in] to [..., out] can carry a stack: here int8 ones, which have no weight to look at."""
    from ensemw2s.ensemble.engine.adapters import adapter_of
    from ensemw2s.ensemble.engine.choose import stack_on
    from ensemw2s.models.adapters import LoraSettings, add_lora

    if not torch.backends.quantized.supported_engines or torch.backends.quantized.engine == "none":
        pytest.skip("this build of torch has no int8 products")
    adapters = []
    for seed in (1, 2):
        model = add_lora(make_expert(1), LoraSettings(r=2 + seed), seed=seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
        adapters.append(adapter_of(model))
    quantised = torch.ao.quantization.quantize_dynamic(make_expert(1), {nn.Linear}, dtype=torch.qint8)
    ids = torch.tensor([[1, 5, 9], [2, 2, 7]])
    wanted = []
    for adapter in adapters:
        alone = copy.deepcopy(quantised)
        for layer in adapter.layers:
            a, b = adapter.pair(layer)
            alone.get_submodule(layer).register_forward_hook(lambda _, x, y, a=a, b=b: y + x[0] @ a @ b)
        with torch.inference_mode():
            wanted.append(alone(ids).logits)
    views = stack_on(quantised, adapters)
    ensemble = Ensemble.of(views, [1.0, 1.0])
    assert ensemble.bank.name == "stacked adapters"
    with torch.inference_mode():
        found = ensemble.bank(ids)
        for place, logits in enumerate(wanted):
            torch.testing.assert_close(views[place](input_ids=ids).logits, logits, atol=1e-3, rtol=1e-3)
            # Dynamic int8 takes one range for all rows of a product, the other experts' among them: coarser, not other.
            assert float((found[place] - logits).abs().max()) < 0.3
    apart = float((wanted[0] - wanted[1]).abs().max())
    assert apart > 1.0

"""LoRA experts on one base in one forward pass: each is what PEFT makes of it, to rounding."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as tf
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble.engine.bank import ExpertView, SideBySide, Turns
from ensemw2s.ensemble.engine.choose import load_experts, make_bank, stack_peft
from ensemw2s.ensemble.engine.packed import LEAST_WEIGHTS, PackedLinear, can_pack
from ensemw2s.ensemble.engine.stacked import JoinedLinear, StackedLinear
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.scoring import mixture_scores
from ensemw2s.errors import ModelError
from ensemw2s.models.adapters import save_adapter

VOCAB = 300  # with 256 hidden values every layer is large enough to be worth packing
# Largest difference of log-probabilities, about twice what was seen. float32: the order of sums. bfloat16 has 8 bits,
# and PEFT rounds x A B before it scales it while a stack rounds the scaled B. Experts differ by 4 times as much at least.
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 0.06}
IDS = torch.tensor([[5, 9, 200, 31, 7, 7], [1, 17, 250, 3, 88, 140]])
MASK = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])


def base_model(family: str, dtype: torch.dtype = torch.float32, *, tied: bool = False) -> Any:
    torch.manual_seed(7)
    shared: dict[str, Any] = {"vocab_size": VOCAB, "initializer_range": 0.05, "tie_word_embeddings": tied}
    if family == "gpt2":
        config: Any = tf.GPT2Config(n_embd=256, n_layer=2, n_head=4, n_positions=64, **shared)
        return tf.GPT2LMHeadModel(config).eval().to(dtype)
    shared |= {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "llama":
        return tf.LlamaForCausalLM(tf.LlamaConfig(num_key_value_heads=2, **shared)).eval().to(dtype)
    return tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**shared)).eval().to(dtype)


def expert(base: Any, seed: int, **settings: Any) -> Any:
    """A PEFT model of its own copy of the base, with A and B that say something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            **{"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM", "lora_dropout": 0.1, **settings}
        )
        model = peft.get_peft_model(copy.deepcopy(base), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
    return model.eval()


LLAMA, NEOX, GPT2 = ["q_proj", "v_proj"], ["query_key_value"], ["c_attn"]
CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "all linear layers": ("llama", [{"target_modules": "all-linear"}] * 3),
    "mixed ranks": ("gptneox", [{"r": r, "target_modules": NEOX} for r in (1, 8, 3)]),
    "different layers": ("llama", [{"target_modules": t} for t in (LLAMA, ["down_proj", "k_proj"], ["q_proj", "up_proj"])]),
    "one layer only": ("llama", [{"target_modules": LLAMA, "layers_to_transform": [k]} for k in (0, 1)]),
    "output layer": ("llama", [{"target_modules": [*LLAMA, "lm_head"]}, {"target_modules": LLAMA}]),
    "output layer of neox": ("gptneox", [{"target_modules": ["lm_head"]}, {"target_modules": NEOX}]),
    "rslora": ("gptneox", [{"target_modules": NEOX, "use_rslora": True, "r": r} for r in (2, 9)]),
    "patterns": ("llama", [
        {"target_modules": LLAMA, "rank_pattern": {"q_proj": 7, "layers.1.self_attn.v_proj": 2}, "alpha_pattern": {"v_proj": 64}},
        {"target_modules": LLAMA, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}, "use_rslora": True},
    ]),
    "gpt2": ("gpt2", [{"target_modules": GPT2, "fan_in_fan_out": True}, {"target_modules": [*GPT2, "c_proj", "c_fc"], "fan_in_fan_out": True}]),
    "one expert": ("llama", [{"target_modules": "all-linear"}]),
}  # fmt: skip


def check(view_bank: Any, models: list[Any], close: float) -> None:
    """Side by side, alone, and token by token with a cache: as each PEFT model."""
    with torch.no_grad():
        wanted = torch.stack([m(IDS, attention_mask=MASK, position_ids=positions(MASK)).logits for m in models])
        found = view_bank(IDS, attention_mask=MASK, position_ids=positions(MASK))
        near(found, wanted, close)
        assert difference(wanted[0], wanted[-1]) > 4 * close or len(models) == 1  # or the test could not fail
        for view, own in zip(view_bank.experts, wanted, strict=True):
            near(view(IDS, attention_mask=MASK, position_ids=positions(MASK)).logits, own, close)
        cache = view_bank.new_cache()
        steps = [
            view_bank(IDS[:, a:b], attention_mask=MASK[:, :b], position_ids=positions(MASK)[:, a:b], cache=cache)
            for a, b in ((0, 4), (4, 5), (5, 6))
        ]
        near(torch.cat(steps, dim=2), wanted, close)


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of log-probabilities at real tokens; both ``[..., batch, seq, vocab]``."""
    gap = (one.float().log_softmax(-1) - other.float().log_softmax(-1)).abs().amax(-1)
    return float((gap * MASK).max())


def near(one: Tensor, other: Tensor, close: float) -> None:
    assert one.shape == other.shape
    assert difference(one, other) < close


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_every_expert_is_pefts(case: str, dtype: torch.dtype, pack: bool) -> None:
    family, settings = CASES[case]
    base = base_model(family, dtype)
    models = [expert(base, seed, **own) for seed, own in enumerate(settings)]
    bank = make_bank(stack_peft(base, models, pack=pack))
    assert (type(bank), bank.name) == (SideBySide, "stacked adapters")
    layers = [type(layer) for layer in base.modules()]
    packs = pack and can_pack(dtype, torch.device("cpu"))
    assert (PackedLinear in layers) == packs
    assert (JoinedLinear in layers) == (packs and dtype == torch.bfloat16)
    assert (StackedLinear in layers) == (not packs or dtype == torch.float32)
    check(bank, models, CLOSE[dtype])


@pytest.mark.parametrize("pack", [True, False])
def test_a_tied_output_layer_leaves_the_embedding_alone(pack: bool) -> None:
    base = base_model("llama", tied=True)
    settings = [{"target_modules": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"], "r": 2}]
    models = [expert(base, seed, **own) for seed, own in enumerate(settings)]
    table = base.get_input_embeddings().weight
    before = table.clone()
    bank = make_bank(stack_peft(base, models, pack=pack))
    check(bank, models, CLOSE[torch.float32])
    assert torch.equal(base.get_input_embeddings().weight, before)
    assert base.get_input_embeddings().weight.data_ptr() == table.data_ptr()


def test_wide_ranks_are_not_joined() -> None:
    """Above a width the wasted arithmetic of joined products would cost; batched ones then."""
    base = base_model("gptneox", torch.bfloat16)
    models = [expert(base, seed, r=80, lora_alpha=600, target_modules=NEOX) for seed in (1, 2)]
    bank = make_bank(stack_peft(base, models))
    assert not any(isinstance(layer, JoinedLinear) for layer in base.modules())
    check(bank, models, CLOSE[torch.bfloat16])


@pytest.mark.skipif(not can_pack(torch.bfloat16, torch.device("cpu")), reason="no packed bfloat16 products here")
def test_joined_and_batched_products_are_the_same() -> None:
    torch.manual_seed(2)
    from ensemw2s.ensemble.engine.stacked import Switch

    switch = Switch()
    inner = torch.nn.Linear(64, 48, dtype=torch.bfloat16).requires_grad_(False)
    a, b = torch.randn(3, 64, 5).bfloat16() / 8, torch.randn(3, 5, 48).bfloat16() / 2
    x = torch.randn(6, 4, 64).bfloat16()
    joined, stacked = JoinedLinear(inner.weight, inner.bias, a, b, switch), StackedLinear(inner, a, b, switch)
    exact = x.double() @ inner.weight.double().t() + inner.bias.double()
    exact = (exact.view(3, 8, 48) + x.double().view(3, 8, 64) @ a.double() @ b.double()).view(6, 4, 48)
    for layer in (joined, stacked):
        torch.testing.assert_close(layer(x).double(), exact, atol=0.06, rtol=0.02)
        with switch.at(1):
            torch.testing.assert_close(layer(x[2:4]).double(), exact[2:4], atol=0.06, rtol=0.02)
        assert switch.expert is None
    with torch.inference_mode():
        torch.testing.assert_close(stacked(x).double(), exact, atol=0.06, rtol=0.02)


def test_the_switch_comes_back_after_a_failure() -> None:
    from ensemw2s.ensemble.engine.stacked import Switch

    switch = Switch()
    with pytest.raises(RuntimeError, match="inside"), switch.at(1):
        raise RuntimeError("inside")
    assert switch.expert is None


# ---- from folders


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[list[Path], list[Any], Path]]:
    """``written(settings)``: adapter folders, the PEFT models, the base's folder."""

    def make(settings: list[dict[str, Any]], family: str = "llama", kinds: Any = None) -> Any:
        base = base_model(family)
        home = tmp_path / "base"
        base.save_pretrained(home)
        models, folders = [], []
        for number, own in enumerate(settings):
            model = kinds(base, number) if kinds is not None else expert(base, number, **own)
            folders.append(tmp_path / f"adapter-{number}")
            save_adapter(model, folders[-1], base=str(home))
            models.append(model.eval())
        return folders, models, home

    return make


def test_folders_of_one_base_are_stacked_and_the_base_is_there_once(written: Any, caplog: Any) -> None:
    folders, models, _ = written([{"target_modules": LLAMA, "r": r} for r in (4, 2, 8, 4)])
    caplog.set_level(logging.INFO, "ensemw2s.engine")
    views = load_experts(folders, pack=False)
    bank = make_bank(views)
    assert "engine stacked adapters for 4 experts: LoRA experts share one base" in caplog.text
    check(bank, models, CLOSE[torch.float32])
    alone = sum(t.numel() * t.element_size() for t in base_model("llama").state_dict().values())
    blocks = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(bank)}
    adapters = 4 * 8 * sum(2 * (256 + out) for out in (256, 128)) * 4  # experts · largest rank · (in + out) a layer
    assert sum(blocks.values()) == alone + adapters
    assert all(view.model is views[0].model for view in views)
    for view in views[1:]:
        assert [p.data_ptr() for p in view.parameters()] == [p.data_ptr() for p in views[0].parameters()]


def tensors(module: torch.nn.Module) -> list[Tensor]:
    """Everything that takes memory, but for the rotary table (its two copies are no weights)."""
    every = [*module.named_parameters(), *module.named_buffers()]
    return [value for name, value in every if "inv_freq" not in name]


def test_packed_weights_are_not_kept_twice(written: Any) -> None:
    if not can_pack(torch.float32, torch.device("cpu")):
        pytest.skip("this machine has no packed products")
    folders, _, _ = written([{"target_modules": "all-linear"}] * 2)
    base = load_experts(folders)[0].model
    left = {name for name, parameter in base.named_parameters() if parameter.numel() >= LEAST_WEIGHTS}
    assert left == {"model.embed_tokens.weight"}


def test_views_alone_score_as_peft_does(written: Any) -> None:
    folders, models, _ = written([{"target_modules": LLAMA}, {"target_modules": ["up_proj"], "r": 2}])
    draw = torch.Generator().manual_seed(4)
    rows = [
        EncodedRow(f"row {n}", torch.randint(0, VOCAB, (n + 4,), generator=draw).tolist(), 1 + n // 2) for n in range(6)
    ]
    views = load_experts(folders)
    assert all(isinstance(view, ExpertView) for view in views)
    for some, others in ((views, models), (views[1:], models[1:]), (views[::-1], models[::-1])):
        alphas = [1.0, 3.0][: len(some)]
        found = mixture_scores(some, alphas, "mean", rows, pad_token_id=0, token_budget=30)
        wanted = mixture_scores(others, alphas, "mean", rows, pad_token_id=0, token_budget=30)
        assert torch.equal(found.top_id, wanted.top_id)
        torch.testing.assert_close(found.log_prob, wanted.log_prob, atol=1e-4, rtol=0)


def dora(base: Any, seed: int) -> Any:
    return expert(base, seed, target_modules=LLAMA, use_dora=True)


def retrained(base: Any, seed: int) -> Any:
    return expert(base, seed, target_modules=LLAMA, modules_to_save=["norm"])


def embedded(base: Any, seed: int) -> Any:
    return expert(base, seed, target_modules=["q_proj", "embed_tokens"])


def biased(base: Any, seed: int) -> Any:
    return expert(base, seed, target_modules=LLAMA, lora_bias=True)


def ia3(base: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    config = peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    model = peft.get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.normal_(1.0, 0.4)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (dora, "uses use_dora"),
        (retrained, "holds more than A and B"),
        (embedded, "holds more than A and B"),
        (biased, "holds more than A and B"),
        (ia3, "is IA3, not LORA"),
    ],
)
def test_other_adapters_run_in_turn_and_the_log_says_why(kind: Any, reason: str, written: Any, caplog: Any) -> None:
    folders, models, _ = written([{}, {}], kinds=kind)
    caplog.set_level(logging.INFO, "ensemw2s.engine")
    bank = make_bank(load_experts(folders))
    assert isinstance(bank, Turns)
    assert "engine turns for 2 experts" in caplog.text
    assert reason in caplog.text
    check(bank, models, CLOSE[torch.float32])
    with pytest.raises(ModelError, match=f"cannot share a forward pass.*{reason}"):
        stack_peft(base_model("llama"), models)


# ---- what does not fit


def test_adapters_of_different_bases_are_refused(written: Any, tmp_path: Path) -> None:
    folders, _, _ = written([{"target_modules": LLAMA}])
    other = tmp_path / "other base"
    base_model("llama").save_pretrained(other)
    model = expert(base_model("llama"), 3, target_modules=LLAMA)
    save_adapter(model, tmp_path / "foreign", base=str(other))
    with pytest.raises(ModelError, match=r"different bases.*other base"):
        load_experts([*folders, tmp_path / "foreign"])
    assert len(load_experts([*folders, tmp_path / "foreign"], other)) == 2  # said to be one base: believed


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers"])
def test_an_adapter_that_does_not_fit_its_base(field: str, written: Any, tmp_path: Path) -> None:
    folders, _, _ = written([{"target_modules": LLAMA}] * 2)
    config = base_model("llama").config
    setattr(config, field, {"hidden_size": 128, "num_hidden_layers": 1}[field])
    tf.LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
    words = {"hidden_size": "maps 256 to", "num_hidden_layers": "layers.1.self_attn.q_proj"}[field]
    with pytest.raises(ModelError, match=words):
        load_experts(folders, tmp_path / "small")


def test_broken_adapter_folders(written: Any) -> None:
    folders, _, _ = written([{"target_modules": LLAMA}] * 2)
    weights = folders[1] / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cannot read .*adapter_model.safetensors"):
        load_experts(folders)
    weights.unlink()
    with pytest.raises(ModelError, match="pickled weights are never read"):
        load_experts(folders)
    (folders[1] / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config.json"):
        load_experts(folders)


@pytest.mark.skipif(not can_pack(torch.float32, torch.device("cpu")), reason="this machine has no packed products")
def test_packed_models_stay_as_they_are(written: Any) -> None:
    folders, _, _ = written([{"target_modules": LLAMA}] * 2)
    ensemble = Ensemble.of(load_experts(folders), [1.0, 1.0])
    with torch.no_grad():
        before = ensemble(IDS).logits
        assert any(isinstance(layer, PackedLinear) for layer in ensemble.modules())
        for move in (lambda: ensemble.to(torch.bfloat16), ensemble.half, lambda: ensemble.to("meta")):
            with pytest.raises(ModelError, match=r"packed weights stay on the CPU as torch\.float32"):
                move()
        assert torch.equal(ensemble.to("cpu").float()(IDS).logits, before)

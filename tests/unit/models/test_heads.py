"""answer_logits: the same numbers and gradients as picking from all logits, without computing them all."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from ensemw2s.models.heads import answer_logits


def tiny(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=23, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()
    if family == "gemma2":  # caps its logits behind the output layer
        config = Gemma2Config(
            vocab_size=23, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.1, max_position_embeddings=32,
        )  # fmt: skip
        return Gemma2ForCausalLM(config).eval()
    config = GPTNeoXConfig(
        vocab_size=23, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    return GPTNeoXForCausalLM(config).eval()


@pytest.fixture
def batch():
    ids = torch.randint(0, 23, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask, torch.tensor([2, 3, 7 + 1, 14 + 6])


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gptneox"])
def test_same_logits_and_gradients_as_all_positions(family, batch):
    ids, mask, positions = batch
    model = tiny(family)
    expected = model(input_ids=ids, attention_mask=mask).logits.reshape(-1, 23)[positions]
    got = answer_logits(model, ids, mask, positions)
    torch.testing.assert_close(got, expected)
    got.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    expected.square().sum().backward()
    for mine, theirs in zip(gradients, [p.grad for p in model.parameters()], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_output_layer_sees_only_the_chosen_positions(batch):
    ids, mask, positions = batch
    model = tiny("gptneox")
    seen = []
    model.lm_head.register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape))
    answer_logits(model, ids, mask, positions)
    assert seen == [(1, 4, 16)]


def test_leaves_no_hook_behind_even_after_an_error(batch):
    ids, mask, positions = batch
    model = tiny("gptneox")
    with pytest.raises(IndexError):
        answer_logits(model, ids, mask, positions + 1000)
    assert not model.lm_head._forward_pre_hooks
    assert model(input_ids=ids).logits.shape == (3, 7, 23)


def test_model_without_a_known_output_layer_gives_the_same(batch):
    ids, mask, positions = batch
    model = tiny("gptneox")
    expected = answer_logits(model, ids, mask, positions)
    model.get_output_embeddings = lambda: None
    torch.testing.assert_close(answer_logits(model, ids, mask, positions), expected)


def test_works_through_an_adapter_on_the_output_layer(batch):
    peft = pytest.importorskip("peft")
    ids, mask, positions = batch
    model = peft.get_peft_model(
        tiny("gptneox"), peft.LoraConfig(r=2, target_modules=["lm_head", "query_key_value"], init_lora_weights=False)
    ).eval()
    expected = model(input_ids=ids, attention_mask=mask).logits.reshape(-1, 23)[positions]
    torch.testing.assert_close(answer_logits(model, ids, mask, positions), expected)

"""Small models of four families, adapters on them, and their merged twins."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ensemw2s.ensemble.engine.adapters import parse_adapter
from ensemw2s.ensemble.engine.packed import linear_parts

VOCAB = 23
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

"""Our loss is transformers' own loss with the labels masked to the answers, whatever a family does to its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.models.classes import ClassModel, ClassSpec
from ensemw2s.models.loading import load_model
from ensemw2s.training.batches import flatten_rows
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.forward import plain_logits, short_logits, shortcut_agrees
from ensemw2s.training.settings import TrainSettings

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "models"
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPTNeoX": ("GPTNeoX", SIZES),
    "Llama": ("Llama", {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "Qwen2": ("Qwen2", {**SIZES, "num_key_value_heads": 1}),
    "Mistral with a window": ("Mistral", {**SIZES, "num_key_value_heads": 1, "sliding_window": 3}),
    "Gemma2 with soft caps": (
        "Gemma2",
        {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 0.5},
    ),
    "Granite with scaled logits": ("Granite", {**SIZES, "num_key_value_heads": 1, "logits_scaling": 8.0}),
    "Bloom with linear biases": ("Bloom", {"vocab_size": 40, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "OPT with offset positions": (
        "OPT",
        {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 16, "do_layer_norm_before": True},
    ),
    "GPT2": ("GPT2", {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
}


ROWS = [
    EncodedRow("a", [5, 6, 7, 8, 9, 10, 11], 4),
    EncodedRow("b", [3, 0, 2], 1),
    EncodedRow("c", [1, 2, 3, 4, 5, 6, 7, 8, 9, 30, 31, 32], 9),
]


def build(family: str) -> Any:
    name, options = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options, bos_token_id=1, eos_token_id=2, pad_token_id=None)
    classes = {"GPT2": "GPT2LMHeadModel"}
    model = getattr(transformers, classes.get(name, f"{name}ForCausalLM"))(config)
    for module in model.modules():  # the comparison of losses has to see the same function
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for config_name in ("attention_dropout", "dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"):
        setattr(model.config, config_name, 0.0)
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_equals_transformers_own(family: str) -> None:
    model = build(family)
    longest = max(len(row.input_ids) for row in ROWS)
    ids = torch.tensor([row.input_ids + [0] * (longest - len(row.input_ids)) for row in ROWS])
    mask = torch.tensor([[1] * len(row.input_ids) + [0] * (longest - len(row.input_ids)) for row in ROWS])
    labels = torch.tensor(
        [
            [-100] * row.prompt_length + row.input_ids[row.prompt_length :] + [-100] * (longest - len(row.input_ids))
            for row in ROWS
        ]
    )
    with torch.no_grad():
        theirs = float(model(input_ids=ids, attention_mask=mask, labels=labels).loss)
    ours = fine_tune(model, ROWS, TrainSettings(max_steps=1, batch_size=3), seed=0, pad_token_id=0)
    assert ours.losses == [pytest.approx(theirs, abs=2e-5)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shortcut_is_taken_and_exact_with_its_gradient(family: str) -> None:
    model = build(family)
    batch = flatten_rows(ROWS, None, 0).micro_batch(np.arange(3))
    assert shortcut_agrees(model, batch)
    gradients = []
    for way in (plain_logits, short_logits):
        model.zero_grad()
        logits = way(model, batch)
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        gradients.append(
            (logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    (plain, plain_gradient), (short, short_gradient) = gradients
    torch.testing.assert_close(short, plain, atol=1e-4, rtol=1e-4)
    assert plain_gradient.keys() == short_gradient.keys()
    for name, gradient in plain_gradient.items():
        torch.testing.assert_close(short_gradient[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real small models in ../shared/models")
@pytest.mark.parametrize("name", ["tinystories-llama-260k", "tinystories-bitnet-3m"])
def test_the_shortcut_is_taken_on_real_models(name: str) -> None:
    batch = flatten_rows(ROWS, None, 0).micro_batch(np.arange(3))
    assert shortcut_agrees(load_model(SHARED / name), batch)


@pytest.mark.parametrize("family", ["GPTNeoX", "Llama", "GPT2"])
def test_a_classifiers_loss_and_gradient_equal_transformers_own(family: str) -> None:
    name, options = FAMILIES[family]
    pad = 39  # transformers finds a row's last token by it
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options, pad_token_id=pad, num_labels=2)
    inner = getattr(transformers, f"{name}ForSequenceClassification")(config)
    for module in inner.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = [EncodedRow("a", [5, 6, 7, 8, 1], 4), EncodedRow("b", [3, 0], 1), EncodedRow("c", [1, 2, 3, 4, 5, 6, 1], 6)]
    longest = max(row.prompt_length for row in rows)
    ids = torch.tensor([row.input_ids[:-1] + [pad] * (longest - row.prompt_length) for row in rows])
    theirs = inner(input_ids=ids, attention_mask=(ids != pad).long(), labels=torch.tensor([1, 0, 1])).loss
    theirs.backward()
    expected = {
        key: parameter.grad.clone() for key, parameter in inner.named_parameters() if parameter.grad is not None
    }
    inner.zero_grad()
    seen: dict[str, torch.Tensor] = {}

    def spy(*_: Any, **__: Any) -> None:
        seen.update({k: p.grad.clone() for k, p in inner.named_parameters() if p.grad is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        model = ClassModel(inner, ClassSpec(("no", "yes"), "classifier", None, pad))
        settings = TrainSettings(max_steps=1, batch_size=3, micro_batch_size=2, gradient_clip=None)
        ours = fine_tune(model, rows, settings, seed=0, pad_token_id=0)
    assert ours.losses == [pytest.approx(float(theirs.detach()), abs=2e-5)]
    assert seen.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(seen[key], gradient, atol=1e-5, rtol=1e-3)

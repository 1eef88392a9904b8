"""Class models: both heads, short and plain ways, transformers' own classifier, adapters, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.models.classes import (
    ClassModel,
    ClassSpec,
    add_class_lora,
    load_class_model,
    open_class_model,
    save_class_model,
)
from ensemw2s.models.heads import answer_logits

VOCAB = 40
TOKENS = ClassSpec(("no", "yes"), "tokens", (7, 11), 0)
CLASSIFIER = ClassSpec(("no", "yes"), "classifier", None, 0)
SPECS = {"tokens": TOKENS, "classifier": CLASSIFIER}
FAMILIES = ("gptneox", "llama", "gpt2", "qwen2", "opt")


def folder_of(family: str, tmp_path: Path) -> Path:
    import transformers as tf

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build(family)
    model.config.eos_token_id, model.config.bos_token_id = 2, None
    model.generation_config = tf.GenerationConfig(eos_token_id=2)
    model.save_pretrained(tmp_path / family)
    return tmp_path / family


def build(family: str) -> Any:
    import transformers as tf

    shared: dict[str, Any] = {"vocab_size": VOCAB, "initializer_range": 0.3}
    wide = shared | {"hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 32}
    made = {
        "gptneox": lambda: tf.GPTNeoXForCausalLM(
            tf.GPTNeoXConfig(num_attention_heads=2, intermediate_size=32, **wide)),
        "llama": lambda: tf.LlamaForCausalLM(
            tf.LlamaConfig(num_attention_heads=2, intermediate_size=32, bos_token_id=None, **wide)),
        "qwen2": lambda: tf.Qwen2ForCausalLM(
            tf.Qwen2Config(num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, **wide)),
        "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **shared)),
        "opt": lambda: tf.OPTForCausalLM(
            tf.OPTConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
                         max_position_embeddings=32, word_embed_proj_dim=16, init_std=0.3)),
    }  # fmt: skip
    return made[family]()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return folder_of(request.param, tmp_path)


def ragged() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two rows, the second padded on the right; positions of each row's last real token."""
    ids = torch.tensor([[5, 9, 3, 17], [8, 30, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return ids, mask, torch.tensor([3, 5])


@pytest.mark.parametrize("head", ["tokens", "classifier"])
def test_short_way_is_the_plain_way_and_padding_changes_nothing(head: str, family: Path) -> None:
    model = load_class_model(family, SPECS[head])
    ids, mask, positions = ragged()
    with torch.no_grad():
        plain = model(ids, mask).logits
        assert plain.shape == (2, 4, 2)
        short = answer_logits(model, ids, mask, positions)
        torch.testing.assert_close(short, plain.flatten(0, 1)[positions], atol=1e-5, rtol=1e-5)
        alone = answer_logits(model, ids[1:, :2], None, torch.tensor([1]))
        torch.testing.assert_close(alone[0], short[1], atol=1e-5, rtol=1e-5)


def test_tokens_are_columns_of_the_language_model(tmp_path: Path) -> None:
    from ensemw2s.models.loading import load_model

    folder = folder_of("gptneox", tmp_path)
    ids, mask, _ = ragged()
    with torch.no_grad():
        expected = load_model(folder)(input_ids=ids, attention_mask=mask).logits[..., [7, 11]]
        torch.testing.assert_close(load_class_model(folder, TOKENS)(ids, mask).logits, expected)


def test_transformers_own_classifier_reads_the_saved_folder(family: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = load_class_model(family, CLASSIFIER, seed=3)
    save_class_model(model, tmp_path / "saved", base="x")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    ids = torch.tensor([[5, 9, 3, 17]])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model(ids).logits[:, -1], atol=1e-5, rtol=1e-5)
    assert plain.config.id2label == {0: "no", 1: "yes"}
    assert {path.suffix for path in (tmp_path / "saved").iterdir()} <= {".json", ".safetensors"}
    again = open_class_model(tmp_path / "saved", "x", CLASSIFIER)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits)


def test_the_new_head_comes_from_the_seed_alone(tmp_path: Path) -> None:
    folder = folder_of("gptneox", tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (load_class_model(folder, CLASSIFIER, seed=seed).inner.score.weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("head", ["tokens", "classifier"])
def test_an_adapter_is_trained_saved_and_opened(head: str, tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    model = add_class_lora(load_class_model(folder, SPECS[head]), LoraSettings(r=2), seed=1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora" in name or "score" in name for name in trained)
    assert any("score" in name for name in trained) == (head == "classifier")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    save_class_model(model, tmp_path / "adapter", base=str(folder))
    again = open_class_model(tmp_path / "adapter", folder, SPECS[head])
    ids, mask, positions = ragged()
    with torch.no_grad():
        torch.testing.assert_close(
            answer_logits(again, ids, mask, positions), answer_logits(model.eval(), ids, mask, positions)
        )
    frozen = [p.requires_grad for p in again.parameters()]
    assert not any(frozen)
    assert any(
        p.requires_grad
        for p in open_class_model(tmp_path / "adapter", folder, SPECS[head], trainable=True).parameters()
    )


@pytest.mark.parametrize("head", ["tokens", "classifier"])
def test_training_learns_a_separable_task_without_reading_the_class_index(head: str, tmp_path: Path) -> None:
    from ensemw2s.data.encoding import EncodedRow
    from ensemw2s.ensemble.evidence import expert_tokens
    from ensemw2s.training.finetune import fine_tune
    from ensemw2s.training.settings import TrainSettings

    model = load_class_model(folder_of("gptneox", tmp_path), SPECS[head])
    draw = torch.Generator().manual_seed(4)
    prompts = torch.randint(3, VOCAB, (80, 4), generator=draw).tolist()
    rows = [EncodedRow(f"r{i}", [*p[:3], 5 + 20 * (i % 2), i % 2], 4) for i, p in enumerate(prompts)]
    seen: list[int] = []
    original = model.class_logits
    model.class_logits = lambda ids, *rest: seen.append(ids.shape[1]) or original(ids, *rest)  # type: ignore[method-assign]
    fine_tune(model, rows[:60], TrainSettings(epochs=25, learning_rate=5e-3, batch_size=20), seed=0, pad_token_id=0)
    assert set(seen) == {4}  # four prompt tokens, and never the class index behind them
    right = 1 - expert_tokens(model, rows[60:], pad_token_id=0).wrong.double().mean()
    assert right >= 0.85


def test_verbalisers_must_differ_and_heads_exist() -> None:
    with pytest.raises(ConfigError, match="use head=classifier"):
        ClassSpec(("no", "yes"), "tokens", (7, 7), 0)
    with pytest.raises(ConfigError, match="did you mean 'tokens'"):
        ClassSpec(("no", "yes"), "token", (7, 8), 0)


def test_a_family_without_a_classifier_says_what_to_do(tmp_path: Path) -> None:
    import transformers as tf

    torch.manual_seed(0)
    config = tf.BitNetConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                             num_key_value_heads=2, intermediate_size=16, max_position_embeddings=32)  # fmt: skip
    tf.BitNetForCausalLM(config).save_pretrained(tmp_path / "bitnet")
    with pytest.raises(ModelError, match="use head=tokens"):
        load_class_model(tmp_path / "bitnet", CLASSIFIER)
    assert isinstance(load_class_model(tmp_path / "bitnet", TOKENS), ClassModel)

"""Class models beyond the plain way: precision, adapters, gradients, sizes, foreign folders, the built-in model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.data.encoding import EncodedRow, encode_classes, first_answer_token, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.evidence import expert_tokens
from ensemw2s.errors import CacheError, ModelError
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.models.classes import (
    HEADS,
    ClassModel,
    ClassSpec,
    add_class_lora,
    load_class_model,
    open_class_model,
    save_class_model,
)
from ensemw2s.models.heads import answer_logits
from ensemw2s.models.loading import context_length, load_model, load_tokenizer, model_size
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.settings import TrainSettings

VOCAB, NO, YES = 40, 7, 11
SPECS = {
    "tokens": ClassSpec(("no", "yes"), "tokens", (NO, YES), 0),
    "classifier": ClassSpec(("no", "yes"), "classifier", None, 0),
}
IDS = torch.tensor([[5, 9, 3, 17], [8, 30, 0, 0]])  # the second row is padded
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
ENDS = torch.tensor([3, 5])  # each row's last real token


def causal(family: str) -> Any:
    import transformers as tf

    shared: dict[str, Any] = {"vocab_size": VOCAB, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 2}
    wide = shared | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if family == "gpt2":
            return tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **shared))
        if family == "opt":
            return tf.OPTForCausalLM(tf.OPTConfig(ffn_dim=32, word_embed_proj_dim=16, init_std=0.3, **wide))
        kinds = {"gptneox": "GPTNeoX", "llama": "Llama", "qwen2": "Qwen2"}
        more = {"num_key_value_heads": 2} if family == "qwen2" else {}
        config = getattr(tf, f"{kinds[family]}Config")(intermediate_size=32, **more, **wide)
        return getattr(tf, f"{kinds[family]}ForCausalLM")(config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One pretrained folder a family; no test writes into them."""
    base = tmp_path_factory.mktemp("families")
    for family in ("gptneox", "llama", "gpt2", "qwen2", "opt"):
        causal(family).save_pretrained(base / family)
    return {path.name: path for path in base.iterdir()}


def logits_at_ends(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return answer_logits(model, IDS, MASK, ENDS)


def separable(count: int) -> list[EncodedRow]:
    """The last prompt token alone tells the class; prompts of two lengths, so that batches are padded."""
    return [
        EncodedRow(f"r{i}", [*([6, 9] if i % 3 else [9]), 5 + 20 * (i % 2), i % 2], 3 if i % 3 else 2)
        for i in range(count)
    ]


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["gptneox", "llama", "gpt2", "qwen2", "opt"])
def test_trained_in_bfloat16_and_opened_again(
    family: str, head: str, tuning: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    base, spec, rows = folders[family], SPECS[head], separable(24)
    model = load_class_model(base, spec, dtype="bfloat16")
    if tuning == "lora":
        model = add_class_lora(model, LoraSettings(r=4, alpha=8), seed=1)
    settings = TrainSettings(epochs=10, learning_rate=5e-3, batch_size=8)
    fine_tune(model, rows, settings, seed=0, pad_token_id=0)
    assert int(expert_tokens(model, rows, pad_token_id=0).wrong.sum()) <= 2
    save_class_model(model, tmp_path / "saved", base=str(base))
    again = open_class_model(tmp_path / "saved", base, spec, dtype="bfloat16")
    assert not again.training
    torch.testing.assert_close(logits_at_ends(again), logits_at_ends(model), atol=0, rtol=0)
    with torch.no_grad():
        plain = again(IDS, MASK).logits.flatten(0, 1)[ENDS]
    torch.testing.assert_close(logits_at_ends(again), plain, atol=0.03, rtol=0.03)


def test_only_the_head_s_two_columns_get_a_gradient(folders: dict[str, Path]) -> None:
    model = load_class_model(folders["gptneox"], SPECS["tokens"])
    torch.nn.functional.cross_entropy(answer_logits(model, IDS, MASK, ENDS), torch.tensor([0, 1])).backward()
    rows = model.inner.get_output_embeddings().weight.grad.abs().sum(dim=1)
    assert rows.nonzero()[:, 0].tolist() == [NO, YES]
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_the_class_index_at_the_end_of_a_row_is_never_read(head: str, folders: dict[str, Path]) -> None:
    model = load_class_model(folders["llama"], SPECS[head])
    rows = [EncodedRow("a", [5, 9, 3, index], 3) for index in (0, 1)]
    no, yes = (expert_tokens(model, [row], pad_token_id=0) for row in rows)
    assert no.mean_log_prob == yes.mean_log_prob
    assert float(no.log_prob.exp() + yes.log_prob.exp()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_the_padding_token_inside_a_prompt_is_an_ordinary_token(head: str, folders: dict[str, Path]) -> None:
    spec = ClassSpec(("no", "yes"), head, (NO, YES) if head == "tokens" else None, pad_token_id=9)
    model = load_class_model(folders["llama"], spec)
    with torch.no_grad():
        hidden = load_model(folders["llama"]).base_model(IDS, attention_mask=MASK).last_hidden_state
        mine = model.inner.base_model(IDS, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(mine, hidden)


@pytest.mark.parametrize("head", HEADS)
def test_sizes_modes_precision_and_further_arguments(head: str, folders: dict[str, Path]) -> None:
    model = load_class_model(folders["gptneox"], SPECS[head])
    assert model.num_classes == 2
    assert context_length(model) == 32
    pretrained = model_size(load_model(folders["gptneox"]))
    assert model_size(model) == pretrained - (0 if head == "tokens" else (VOCAB - 2) * 16)
    assert not model.inner.training
    assert model.train().inner.training
    assert logits_at_ends(model.eval().double()).dtype == torch.float64
    assert model.device == torch.device("cpu")
    assert model.to("meta").device == torch.device("meta")


@pytest.mark.parametrize("head", HEADS)
def test_positions_are_passed_on_by_both_ways(head: str, folders: dict[str, Path]) -> None:
    model = load_class_model(folders["gpt2"], SPECS[head])
    places = torch.arange(4).expand(2, 4) + 9
    with torch.no_grad():
        plain = model(IDS, MASK, position_ids=places).logits.flatten(0, 1)[ENDS]
        short = answer_logits(model, IDS, MASK, ENDS, position_ids=places)
    torch.testing.assert_close(short, plain)
    assert not torch.allclose(short, logits_at_ends(model), atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_gradient_checkpointing_changes_no_gradient(head: str, folders: dict[str, Path]) -> None:
    found = []
    for checkpointing in (False, True):
        model = load_class_model(folders["llama"], SPECS[head]).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert checkpointed(model)
        answer_logits(model, IDS, MASK, ENDS).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
        model.gradient_checkpointing_disable()
        assert not checkpointed(model)
    torch.testing.assert_close(found[0], found[1])


def checkpointed(model: ClassModel) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_no_generator_but_a_copy_of_the_cpu_s_is_seeded(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("reset the accelerators' generators"))
    state = torch.get_rng_state()
    load_class_model(folders["gptneox"], SPECS["classifier"], seed=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_peft_itself_reads_a_classifier_s_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    model = add_class_lora(load_class_model(folders["llama"], SPECS["classifier"]), LoraSettings(r=2), seed=1)
    fine_tune(model, separable(12), TrainSettings(learning_rate=1e-2, batch_size=4), seed=0, pad_token_id=0)
    save_class_model(model, tmp_path / "adapter", base=str(folders["llama"]))
    plain = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=IDS[:1]).logits, model(IDS[:1]).logits[:, -1])


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("head", HEADS)
def test_a_folder_of_the_other_head_is_refused(
    head: str, tuning: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = load_class_model(folders["llama"], SPECS[head])
    if tuning == "lora":
        model = add_class_lora(model, LoraSettings(r=2), seed=1)
    save_class_model(model, tmp_path / "saved", base=str(folders["llama"]))
    other = next(name for name in HEADS if name != head)
    with pytest.raises(ModelError, match=f"was not trained with head={other}: use head={head}"):
        open_class_model(tmp_path / "saved", folders["llama"], SPECS[other])


@pytest.mark.parametrize("names", [("yes", "no"), ("no", "yes", "maybe")])
def test_other_classes_than_the_stored_ones_are_refused(
    names: tuple[str, ...], folders: dict[str, Path], tmp_path: Path
) -> None:
    save_class_model(load_class_model(folders["opt"], SPECS["classifier"]), tmp_path / "saved", base="x")
    with pytest.raises(ModelError, match="has the classes no, yes, in this order"):
        open_class_model(tmp_path / "saved", "x", ClassSpec(names, "classifier", None, 0))


def test_folders_that_hold_no_class_model(folders: dict[str, Path], tmp_path: Path) -> None:
    save_class_model(load_class_model(folders["opt"], SPECS["classifier"]), tmp_path / "saved", base="x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is no model folder"):
        open_class_model(tmp_path / "empty", "x", SPECS["classifier"])
    with pytest.raises(ModelError, match="is a OPTForSequenceClassification, not a causal language model"):
        load_class_model(tmp_path / "saved", SPECS["classifier"])
    (tmp_path / "saved" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        open_class_model(tmp_path / "saved", "x", SPECS["classifier"])


@pytest.mark.parametrize("head", HEADS)
def test_models_that_see_what_follows_are_refused(head: str, tmp_path: Path) -> None:
    """The class index stands at the end of a row: a model that looks both ways would read it."""
    import transformers as tf

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    bert = tf.BertConfig(vocab_size=VOCAB, **sizes)
    tf.BertLMHeadModel(bert).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="is a bert model that looks both ways"):
        load_class_model(tmp_path / "bert", SPECS[head])
    tf.BertForMaskedLM(bert).save_pretrained(tmp_path / "masked")
    with pytest.raises(ModelError, match="is a BertForMaskedLM, not a causal language model"):
        load_class_model(tmp_path / "masked", SPECS[head])
    t5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    (tmp_path / "masked" / "config.json").write_text(json.dumps(t5))
    with pytest.raises(ModelError, match="not a causal language model"):
        load_class_model(tmp_path / "masked", SPECS[head])


def test_a_bert_made_into_a_decoder_is_a_language_model(tmp_path: Path) -> None:
    import transformers as tf

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    tf.BertLMHeadModel(tf.BertConfig(vocab_size=VOCAB, is_decoder=True, **sizes)).save_pretrained(tmp_path / "bert")
    model = load_class_model(tmp_path / "bert", SPECS["tokens"])
    with torch.no_grad():
        first, second = (model(torch.tensor([[5, 9, 3, index]])).logits[:, :3] for index in (0, 1))
    torch.testing.assert_close(first, second)


def test_a_refused_write_is_one_clear_line(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot write"):
        save_class_model(load_class_model(folders["opt"], SPECS["tokens"]), tmp_path / "file" / "below", base="x")


@pytest.mark.parametrize("head", HEADS)
def test_the_built_in_model_learns_from_rows_of_text(head: str) -> None:
    tokenizer, form = load_tokenizer("w2s-weak"), TaskFormat()
    verbs = tuple(first_answer_token(name, tokenizer, form) for name in ("no", "yes"))
    spec = ClassSpec(("no", "yes"), head, verbs if head == "tokens" else None, padding_token(tokenizer))
    model = load_class_model("w2s-weak", spec)
    rows = [
        Row(
            f"r{i}",
            f"{i // 9 % 9} {i % 7} {i % 5} {9 if i % 2 else i // 2 % 9}: does it end in 9?",
            ("no", "yes")[i % 2],
        )
        for i in range(120)
    ]
    encoded = encode_classes(rows, tokenizer, form, context_length(model)).rows
    before = right(model, encoded[90:])
    settings = TrainSettings(epochs=8, learning_rate=3e-3, batch_size=16)
    fine_tune(model, encoded[:90], settings, seed=0, pad_token_id=padding_token(tokenizer))
    assert before <= 0.7
    assert right(model, encoded[90:]) >= 0.95


def right(model: ClassModel, encoded: list[EncodedRow]) -> float:
    return 1 - float(expert_tokens(model, encoded, pad_token_id=0).wrong.double().mean())

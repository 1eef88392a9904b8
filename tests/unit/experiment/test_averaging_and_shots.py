"""Weights averaged into one model; few-shot prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.experiment.averaging import average_models
from ensemw2s.experiment.opening import Machine
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.methods.baselines import few_shot
from ensemw2s.models.adapters import LoraSettings, add_lora, merge_adapter
from ensemw2s.models.loading import load_model


def tiny(seed: int) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    config = GPTNeoXConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                           max_position_embeddings=16, bos_token_id=None, eos_token_id=0)  # fmt: skip
    return GPTNeoXForCausalLM(config).eval()


def test_every_weight_is_the_alpha_weighted_mean(tmp_path: Path) -> None:
    average_models([tiny(1), tiny(2)], [3.0, 1.0], tmp_path / "mean")
    found = load_model(tmp_path / "mean").state_dict()
    one, other = tiny(1).state_dict(), tiny(2).state_dict()
    for name in found:
        torch.testing.assert_close(found[name], 0.75 * one[name] + 0.25 * other[name])


def test_adapters_are_merged_before_they_are_averaged(tmp_path: Path) -> None:
    def adapted(seed: int) -> Any:
        model = add_lora(tiny(1), LoraSettings(r=2), seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.1 * seed)
        return model

    expected = [merge_adapter(adapted(seed)).state_dict() for seed in (1, 2)]
    average_models([adapted(1), adapted(2)], [1.0, 1.0], tmp_path / "mean")
    found = load_model(tmp_path / "mean").state_dict()
    for name in found:
        torch.testing.assert_close(found[name], (expected[0][name] + expected[1][name]) / 2)


def test_a_few_shot_prompt_holds_examples_then_the_question() -> None:
    form = TaskFormat()
    shots = "\n\n".join(form.example(Row(f"r{i}", f"q{i}", f"a{i}")) for i in range(2))
    assert shots == "Question: q0\nAnswer: a0\n\nQuestion: q1\nAnswer: a1"
    prompt = TaskFormat(preamble=shots).prompt(Row("x", "asked"))
    assert prompt == f"{shots}\n\nQuestion: asked\nAnswer:"
    own = TaskFormat(template="Q {question} A ", preamble="Be brief.")
    assert own.prompt(Row("x", "asked")) == "Be brief.\n\nQ asked A "
    assert own.example(Row("x", "asked", "yes")) == "Q asked A yes"


def test_few_shot_answers_come_from_the_whole_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemw2s.ensemble import decoding

    bench = Machine(device="cpu", store=tmp_path).bench(
        "w2s-weak", "w2s-strong", TaskFormat(max_new_tokens=2), Reporter()
    )
    labelled = [Row(f"r{i}", f"what is {i}?", f"{i}") for i in range(6)]
    members = few_shot(bench, labelled, 3, seed=1)
    seen: list[str] = []
    original = decoding.generate

    def watched(models: Any, alphas: Any, rule: Any, prompts: Any, **options: Any) -> Any:
        seen.extend(bench.tokenizer("strong").decode(prompt) for prompt in prompts)
        return original(models, alphas, rule, prompts, **options)

    monkeypatch.setattr(decoding, "generate", watched)
    bench.answer(members, [Row("x", "what is 9?")], purpose="test")
    assert seen[0].count("Answer:") == 4
    assert seen[0].endswith("Question: what is 9?\nAnswer:")
    plain = bench.answer(members.single(bench.pretrained("strong")), [Row("x", "what is 9?")], purpose="test")
    assert len(seen) == 2, "another prompt is another stage"
    assert plain

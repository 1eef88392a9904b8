"""Tiny random experts, a word tokenizer for them, and live ensembles of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble import folder as folders
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.models.adapters import LoraSettings, add_lora, save_adapter
from ensemw2s.models.loading import save_model

sys.path.insert(0, str(Path(__file__).parent))  # enginekit

WORDS = ["</s>", "<s>", "<unk>", "what", "is", "one", "two", "three", "four", "plus", "?", "a", "b", "c"]
VOCAB = 16  # two more than words: output layers are often padded
ALPHAS = [1.25, 0.1 + 0.2, 2.0]
FORM = TaskFormat(max_new_tokens=5, template="what is {question} ?")


@pytest.fixture
def make_expert() -> Callable[..., Any]:
    """``make_expert(seed, **config)``: a GPT-NeoX with weights drawn wide, so that experts differ."""

    def make(seed: int, **changes: Any) -> Any:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        torch.manual_seed(seed)
        settings = {
            "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "max_position_embeddings": 24, "initializer_range": 0.4, "bos_token_id": 1, "eos_token_id": 0,
        }  # fmt: skip
        return GPTNeoXForCausalLM(GPTNeoXConfig(**settings | changes)).eval()

    return make


@pytest.fixture
def tokenizer() -> Any:
    """Words as tokens; a start token before every text and, as a trap, an end token after it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


@pytest.fixture
def base(tmp_path: Path, make_expert: Any, tokenizer: Any) -> Path:
    save_model(make_expert(100), tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapted(tmp_path: Path, base: Path, make_expert: Any) -> Callable[[int], Path]:
    """``adapted(seed)``: the folder of an adapter on the base; ranks differ."""

    def make(seed: int) -> Path:
        place = tmp_path / f"adapter-{seed}"
        if not place.exists():
            model = add_lora(make_expert(100), LoraSettings(r=1 + seed), seed=seed)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
            save_adapter(model, place, base=str(base))
        return place

    return make


@pytest.fixture
def full(make_expert: Any, tokenizer: Any) -> Callable[..., Ensemble]:
    """``full(*seeds)``: an ensemble of full models."""

    def make(*seeds: int, rule: str = "mean", alphas: Any = None, **options: Any) -> Ensemble:
        models = [make_expert(seed) for seed in seeds]
        return Ensemble.of(models, alphas or ALPHAS[: len(seeds)], rule, tokenizer, FORM, {"base": "any"}, **options)

    return make


@pytest.fixture
def lora(tmp_path: Path, base: Path, adapted: Any, tokenizer: Any) -> Callable[..., Ensemble]:
    """``lora(*seeds)``: an ensemble of adapters on one base, loaded from its folder."""

    def make(*seeds: int, rule: str = "mean", alphas: Any = None, state: Any = None, **options: Any) -> Ensemble:
        place = tmp_path / ("lora-" + "-".join(map(str, seeds)) + rule)
        if not place.exists():
            folders.write_ensemble(
                place, [adapted(seed) for seed in seeds], alphas or ALPHAS[: len(seeds)], rule, tokenizer=tokenizer,
                task_format=FORM, base=str(base), kind="lora", meta={"rounds": [1]}, rule_state=state,
            )  # fmt: skip
        return Ensemble.from_pretrained(place, **options)

    return make

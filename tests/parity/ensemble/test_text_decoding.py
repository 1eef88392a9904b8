"""Ensembles over text against what else knows the answer: token decoding, transformers, a reading without a cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.experts import end_tokens, vocabulary_size
from ensemw2s.ensemble.text.marginal import ByteModel, Covers
from ensemw2s.ensemble.text.mixed import TextEnsemble
from ensemw2s.ensemble.text.reading import Reader
from ensemw2s.ensemble.text.vocabulary import ByteVocabulary
from ensemw2s.models.loading import load_model, load_tokenizer

PROMPTS = ["Question: What is 3 plus 4? Answer:", "Sam has 5 apples and", "Once upon a time, é", "The answer"]


def letters(count: int) -> Any:
    """Byte-level vocabulary of single letters: every token is one byte. ``<s>`` 0 first, ``</s>`` 1 the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE({"<s>": 0, "</s>": 1} | {chr(97 + n): n + 2 for n in range(count)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def without_start(model: Any) -> Any:
    """Output weights that give the start token no probability, as the text ensembles do by definition."""
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    head.bias.data[0] = -1e9
    model.generation_config.eos_token_id = 1
    return model.double()


@pytest.mark.parametrize("mode", ["union", "bytes"])
@pytest.mark.parametrize("rule", ["mean", "product", "vote", "prefix"])
def test_tokens_of_one_byte_each_are_decoded_as_tokens(family: str, mode: str, rule: str, make_experts: Any) -> None:
    tokenizer = letters(26)
    models = [without_start(model) for model in make_experts(family, 3, seed=2)]
    for model in models:  # the output layer is wider than the tokenizer: ids from 28 on do not exist
        model.get_output_embeddings().bias.data[28:] = -1e9
    alphas = [1.0, 0.5, 2.0]
    prompts = ["what", "a", "zebra"]
    ids = [tokenizer(prompt).input_ids for prompt in prompts]
    by_token = generate(
        models, alphas, rule, ids, max_new_tokens=8, eos_token_ids=1, pad_token_id=0, dtype=torch.float64
    )
    by_text = TextEnsemble(models, [tokenizer] * 3, alphas, rule, mode, top_k=26).generate(prompts, max_new_bytes=8)
    for tokens, text in zip(by_token, by_text, strict=True):
        assert text.text == tokenizer.decode(tokens.token_ids)
        assert text.finished == tokens.finished
        assert text.steps == len(tokens.token_ids) + tokens.finished
        if mode == "bytes":
            assert text.log_prob == pytest.approx(tokens.log_prob, abs=1e-6)


def test_such_answers_differ_and_some_end_early(family: str, make_experts: Any) -> None:
    said = []
    for seed in range(2, 6):
        models = [without_start(model) for model in make_experts(family, 3, seed=seed)]
        ensemble = TextEnsemble(models, [letters(26)] * 3, [1.0, 0.5, 2.0], top_k=5)
        said += ensemble.generate(["what", "a", "zebra", "b", "c", "d"], max_new_bytes=16)
    assert {answer.finished for answer in said} == {True, False}
    assert len({answer.text for answer in said}) > 4


def covers_of(model: ByteModel, prompt: str) -> Covers:
    with torch.inference_mode():
        return model.start(prompt)


def test_a_cache_changes_nothing(family: str, make_experts: Any) -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", "a", "b", "ab", "ba", "aba", "bb"]
    inner = Tokenizer(models.Unigram([(name, -1.0) for name in names], unk_id=0, byte_fallback=False))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    expert = make_experts(family, 1, seed=3)[0].double()
    vocabulary = ByteVocabulary(tokenizer, vocabulary_size(expert), [1])
    readers = [Reader(expert), Reader(expert, cached=False)]
    assert [reader.cached for reader in readers] == [True, False]
    for epsilon in (0.0, 0.1):
        fast, slow = (ByteModel(reader, vocabulary, epsilon) for reader in readers)
        for prompt in ("abab", "bbabba", "aababb"):
            one, other = covers_of(fast, prompt), covers_of(slow, prompt)
            assert one.sequences.tokens == other.sequences.tokens
            np.testing.assert_allclose(fast.next(one), slow.next(other), rtol=1e-9)


def test_sliding_windows_are_read_without_a_cache() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=28, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=3, initializer_range=0.5, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model, tokenizer = MistralForCausalLM(config).double().eval(), letters(26)
    assert not Reader(model).cached
    ids = tokenizer("abcdefg").input_ids
    (tokens,) = generate(
        [without_start(model)], [1.0], "mean", [ids], max_new_tokens=6, eos_token_ids=1, pad_token_id=0
    )
    for mode in ("union", "bytes"):
        (text,) = TextEnsemble([model], [tokenizer], [1.0], mode=mode).generate(["abcdefg"], max_new_bytes=6)
        assert text.text == tokenizer.decode(tokens.token_ids)


def own_text(model: Any, tokenizer: Any, prompt: str, limit: int) -> tuple[str, int]:
    """What transformers' own greedy search says, and how many tokens that is."""
    ids = torch.tensor([tokenizer(prompt).input_ids])
    ends = end_tokens(model, tokenizer)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=ends
    )
    whole = [token for token in out[0].tolist() if token not in ends]
    start = len(tokenizer.decode(ids[0], skip_special_tokens=True))
    return tokenizer.decode(whole, skip_special_tokens=True)[start:], out.shape[1] - ids.shape[1]


def check_own_text(name: str, prompts: list[str], limit: int) -> None:
    model, tokenizer = load_model(name), load_tokenizer(name)
    for top_k in (1, 10):
        ensemble = TextEnsemble([model], [tokenizer], [1.0], top_k=top_k)
        for prompt in prompts:
            text, tokens = own_text(model, tokenizer, prompt, limit)
            (said,) = ensemble.generate([prompt], max_new_bytes=len(text.encode()) + 1)
            assert said.text.startswith(text)
            assert said.steps >= tokens > 0


def test_union_of_one_is_the_built_in_models_own_greedy_text() -> None:
    check_own_text("w2s-weak", PROMPTS, 12)


def test_union_of_one_is_a_sentencepiece_models_own_greedy_text(shared: Path) -> None:
    check_own_text(
        str(shared / "models" / "tinystories-llama-260k"), ["Once upon a time", 'Lily said: "é', "The dog"], 20
    )


@pytest.fixture(scope="module")
def real_pair(shared: Path) -> Any:
    names = ["w2s-weak", str(shared / "models" / "tinystories-llama-260k")]
    return [load_model(name) for name in names], [load_tokenizer(name) for name in names]


@pytest.mark.parametrize("mode", ["union", "bytes"])
def test_two_real_models_without_a_common_tokenizer(mode: str, real_pair: Any) -> None:
    ensemble = TextEnsemble(*real_pair, [1.0, 1.0], mode=mode, epsilon=1e-3)
    answers = ensemble.generate(["Once upon a time", "Tom has a red"], max_new_bytes=30)
    for answer in answers:
        assert len(answer.text) > 3
        assert math.isfinite(answer.log_prob)
        assert answer.text.isascii()
        assert answer.text.isprintable()
    first = TextEnsemble(*real_pair, [1.0, 0.0], mode="bytes", epsilon=1e-3)
    alone = TextEnsemble(real_pair[0][:1], real_pair[1][:1], [1.0], mode="bytes", epsilon=1e-3)
    assert first.log_prob("Tom has", " a red box") == pytest.approx(alone.log_prob("Tom has", " a red box"), abs=1e-9)


def test_text_probability_is_at_least_that_of_the_tokenizers_own_cut(real_pair: Any) -> None:
    text = "Tom has a red box"
    for model, tokenizer in zip(*real_pair, strict=True):
        vocabulary = ByteVocabulary(tokenizer, vocabulary_size(model), end_tokens(model, tokenizer))
        bytes_model = ByteModel(Reader(model), vocabulary, 1e-4)
        covers = covers_of(bytes_model, text)
        middle, high = bytes_model.trie.middle[covers.node], bytes_model.trie.high[covers.node]
        share = bytes_model.trie.masses(covers.probs, middle, high) + (covers.node == 0) * np.exp(covers.end)
        whole = math.log((np.exp(covers.log_p) * share).sum())
        ids = vocabulary.encode(text).ids
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].double()
        hidden = torch.tensor([not token and n not in vocabulary.end_ids for n, token in enumerate(vocabulary.tokens)])
        steps = torch.log_softmax(logits.masked_fill(hidden, -math.inf), dim=-1)
        own_cut = sum(float(steps[place, token]) for place, token in enumerate(ids[1:]))
        assert own_cut - 1e-4 <= whole <= own_cut + 3.0  # the other ways to cut it add little, not orders of magnitude


def test_pruning_hardly_moves_real_models(real_pair: Any) -> None:
    """On texts that an expert finds likely; what it finds very unlikely may hang on what was pruned."""
    models, tokenizers = real_pair
    for place, prompt in enumerate(["Sam has", "Once upon"]):
        own = TextEnsemble(models[place : place + 1], tokenizers[place : place + 1], [1.0], top_k=1)
        text = own.generate([prompt], max_new_bytes=20)[0].text
        assert len(text) > 9
        values = []
        for epsilon in (1e-2, 1e-4, 1e-8):
            ensemble = TextEnsemble(
                models[place : place + 1], tokenizers[place : place + 1], [1.0], mode="bytes", epsilon=epsilon
            )
            values.append(ensemble.log_prob(prompt, text))
        assert values[0] == pytest.approx(values[2], abs=0.1)
        assert values[1] == pytest.approx(values[2], abs=0.002)

"""The ensemble over text: what it says, with which probability, and what it refuses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats

from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.text import mixed
from ensemw2s.ensemble.text.mixed import TextEnsemble
from ensemw2s.ensemble.text.saying import Progress, TextDecoded
from ensemw2s.errors import ConfigError, DataError, EnsemW2SError, ModelError

FIRST = ["a", "b", "ab", "ba", "aa"]
SECOND = ["a", "b", "abb", "bab", "<0x61>"]


@pytest.fixture(scope="module")
def pair(make_tokenizer: Callable[..., Any], make_model: Callable[..., Any], make_llama: Callable[..., Any]) -> Any:
    """Two experts of two families with different vocabularies over a and b."""
    models = [make_model(len(FIRST) + 2, seed=1), make_llama(len(SECOND) + 2, seed=2)]
    return models, [make_tokenizer(FIRST), make_tokenizer(SECOND)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("top_k", [1, 3, 4])
def test_union_of_one_expert_is_its_own_greedy_text(
    seed: int, top_k: int, make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer([*FIRST, "<0x61>"], start=False)
    model = make_model(8, seed=seed + 20)
    ensemble = TextEnsemble([model], [tokenizer], [1.0], top_k=top_k)
    for prompt in ("a", "bab", "abba"):
        ids = tokenizer(prompt).input_ids
        (own,) = generate([model], [1.0], "mean", [ids], max_new_tokens=12, eos_token_ids=[1], pad_token_id=0)
        if 0 in own.token_ids:
            continue  # it said its own start token, which is no text
        text = tokenizer.decode(own.token_ids)
        (said,) = ensemble.generate([prompt], max_new_bytes=len(text) + own.finished)
        assert (said.text, said.finished) == (text, own.finished)
        assert said.steps == len(own.token_ids) + own.finished
        if top_k == 1:
            assert said.log_prob == 0.0


def test_the_cases_of_own_greedy_text_are_many(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer([*FIRST, "<0x61>"], start=False)
    said = []
    for seed in range(6):
        (own,) = generate([make_model(8, seed=seed + 20)], [1.0], "mean", [tokenizer("bab").input_ids], max_new_tokens=12, eos_token_ids=[1], pad_token_id=0)  # fmt: skip
        said.append(own)
    assert sum(0 not in own.token_ids and len(own.token_ids) > 2 for own in said) >= 2


@pytest.mark.parametrize("mode", ["union", "bytes"])
@pytest.mark.parametrize("rule", ["mean", "product", "uniform", "vote", "prefix"])
def test_two_equal_experts_say_what_one_says(mode: str, rule: str, pair: Any) -> None:
    (model, _), (tokenizer, _) = pair
    one = TextEnsemble([model], [tokenizer], [2.0], rule, mode, top_k=3)
    two = TextEnsemble([model, model], [tokenizer, tokenizer], [3.0, 1.0], rule, mode, top_k=3)
    for mine, theirs in zip(*(e.generate(["a", "bb"], max_new_bytes=5) for e in (one, two)), strict=True):
        assert (mine.text, mine.finished, mine.steps) == (theirs.text, theirs.finished, theirs.steps)
        assert mine.log_prob == pytest.approx(theirs.log_prob, abs=1e-9)
    if mode == "bytes" and rule != "vote":
        assert two.log_prob("a", "bba") == pytest.approx(one.log_prob("a", "bba"), abs=1e-9)


def test_text_probability_is_the_mixture_of_the_enumerated_ones(pair: Any, oracle: Any) -> None:
    models, tokenizers = pair
    ensemble = TextEnsemble(models, tokenizers, [1.0, 3.0], mode="bytes")
    spelled = [{n: t for n, t in enumerate(v.tokens) if t} for v in ensemble.vocabularies]
    truths = [oracle(model, tokens, [0]) for model, tokens in zip(models, spelled, strict=True)]
    expected = 0.0
    for place in range(1, 4):
        before, now = b"abab"[:place], b"abab"[: place + 1]
        first, second = (truth.prefix(now) / truth.prefix(before) for truth in truths)
        expected += math.log(0.25 * first + 0.75 * second)
    assert ensemble.log_prob("a", "bab") == pytest.approx(expected, rel=1e-10)
    assert ensemble.log_prob("a", "") == 0.0


@pytest.mark.parametrize("rule", ["mean", "product", "uniform", "vote"])
def test_chain_rule(rule: str, pair: Any) -> None:
    ensemble = TextEnsemble(*pair, [1.0, 2.0], rule, "bytes")
    whole = ensemble.log_prob("ab", "babba")
    for cut in range(1, 5):
        first, second = "babba"[:cut], "babba"[cut:]
        assert ensemble.log_prob("ab", first) + ensemble.log_prob("ab" + first, second) == pytest.approx(
            whole, abs=1e-10
        )


def test_prefix_posterior_is_the_mixture_of_texts(pair: Any) -> None:
    models, tokenizers = pair
    alone = [
        TextEnsemble([m], [t], [1.0], mode="bytes").log_prob("b", "abaa")
        for m, t in zip(models, tokenizers, strict=True)
    ]
    both = TextEnsemble(models, tokenizers, [1.0, 3.0], "prefix", "bytes").log_prob("b", "abaa")
    assert both == pytest.approx(math.log(0.25 * math.exp(alone[0]) + 0.75 * math.exp(alone[1])), abs=1e-10)


def test_sampled_bytes_follow_the_exact_mixture(pair: Any) -> None:
    ensemble = TextEnsemble(*pair, [1.0, 1.0], mode="bytes")
    draws = 600
    said = Counter(
        (d.text, d.finished) for d in ensemble.generate(["a"] * draws, max_new_bytes=2, do_sample=True, seed=3)
    )
    exact = {text: math.exp(ensemble.log_prob("a", text)) for text in ("a", "b", "aa", "ab", "ba", "bb")}
    chances = {(text, False): exact[text] for text in ("aa", "ab", "ba", "bb")}
    chances |= {(t, True): exact[t] - exact[t + "a"] - exact[t + "b"] for t in ("a", "b")}
    chances["", True] = 1 - exact["a"] - exact["b"]
    assert set(said) <= set(chances)
    common = [outcome for outcome, chance in chances.items() if chance * draws >= 5]
    counts = [said[outcome] for outcome in common]
    expected = [chances[outcome] * draws for outcome in common]
    rest = draws - sum(expected)
    assert len(common) >= 5
    test = scipy.stats.chisquare([*counts, draws - sum(counts)], [*expected, rest]) if rest > 1e-6 else scipy.stats.chisquare(counts, expected)  # fmt: skip
    assert test.pvalue > 0.01


def test_sampling_depends_on_seed_and_place_alone(pair: Any) -> None:
    for mode in ("union", "bytes"):
        ensemble = TextEnsemble(*pair, [1.0, 1.0], mode=mode, top_k=3)
        options = {"max_new_bytes": 5, "do_sample": True}
        first = ensemble.generate(["a", "b", "a"], seed=1, **options)
        assert first == ensemble.generate(["a", "b", "a"], seed=1, **options)
        assert first[:1] == ensemble.generate(["a"], seed=1, **options)
        assert first != ensemble.generate(["a", "b", "a"], seed=2, **options)
        cold = ensemble.generate(["a", "b"], max_new_bytes=5, do_sample=True, temperature=1e-6)
        greedy = ensemble.generate(["a", "b"], max_new_bytes=5)
        assert [answer.text for answer in cold] == [answer.text for answer in greedy]
        narrow = ensemble.generate(["a", "b"], max_new_bytes=5, do_sample=True, top_p=1e-9)
        assert narrow == greedy


def test_choices_are_candidates_and_their_log_probs_add_up(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unions: list[list[bytes]] = []
    original = mixed.union_of

    def spy(experts: Any, k: int, state: int) -> Any:
        found = original(experts, k, state)
        assert {e.text for e in experts} == {experts[0].text}  # all experts stand at the same byte
        unions.append(found[0])
        return found

    monkeypatch.setattr(mixed, "union_of", spy)
    (said,) = TextEnsemble(*pair, [1.0, 1.0], top_k=2).generate(
        ["ab"], max_new_bytes=9, do_sample=True, temperature=5.0, seed=6
    )
    assert said.steps == len(unions) > 2
    left = {said.text.encode()}
    for candidates in unions:  # some way through the candidates spells what was said
        assert 1 <= len(candidates) <= 4
        left = {text[len(c) :] for text in left for c in candidates if text.startswith(c) or c.startswith(text)}
    assert b"" in left


@pytest.fixture(scope="module")
def characters(make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]) -> Any:
    """Two experts whose tokens are parts of characters: of é, of an emoji, and the whole ones."""
    first = ["a", "é", "<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    second = ["a", "b", "🙂", "<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    models = [make_model(len(first) + 2, seed=8), make_model(len(second) + 2, seed=9)]
    return models, [make_tokenizer(first), make_tokenizer(second)]


@pytest.mark.parametrize("mode", ["union", "bytes"])
def test_characters_are_never_split(mode: str, characters: Any) -> None:
    ensemble = TextEnsemble(*characters, [1.0, 1.0], mode=mode, top_k=5)
    seen: Counter[str] = Counter()
    for limit in (1, 2, 3, 4, 6):
        said = ensemble.generate(["é", "a"] * 8, max_new_bytes=limit, do_sample=True, temperature=2.0, seed=1)
        for answer in said:
            assert len(answer.text.encode("utf-8")) <= limit
            assert "\ufffd" not in answer.text
            seen.update(answer.text)
    assert {"é", "a"} <= set(seen)
    assert any(len(character.encode()) == 4 for character in seen)


@pytest.mark.parametrize("mode", ["union", "bytes"])
def test_a_higher_limit_only_adds(mode: str, characters: Any) -> None:
    ensemble = TextEnsemble(*characters, [1.0, 1.0], mode=mode, top_k=5)
    before = ""
    for limit in range(1, 9):
        (said,) = ensemble.generate(["a"], max_new_bytes=limit)
        assert said.text.startswith(before)
        before = said.text
    assert before


@pytest.mark.parametrize("mode", ["union", "bytes"])
def test_stop_strings_end_the_text_and_are_cut_off(mode: str, pair: Any) -> None:
    ensemble = TextEnsemble(*pair, [1.0, 1.0], mode=mode, top_k=3)
    options = {"max_new_bytes": 9, "do_sample": True, "seed": 4}
    free = ensemble.generate(["a"] * 6, **options)
    stopped = ensemble.generate(["a"] * 6, stop=["bb", "ba"], **options)
    some = 0
    for open_end, cut in zip(free, stopped, strict=True):
        places = [place for place in (open_end.text.find("bb"), open_end.text.find("ba")) if place >= 0]
        assert cut.text == (open_end.text[: min(places)] if places else open_end.text)
        assert cut.finished or not places
        some += bool(places)
    assert some > 0


def test_a_context_that_is_full_ends_the_text(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    for mode in ("union", "bytes"):
        ensemble = TextEnsemble([make_model(3, seed=1, context=6)], [make_tokenizer(["a"])], [1.0], mode=mode, top_k=1)
        said = ensemble.generate(["aa"], max_new_bytes=50, do_sample=True, seed=1, temperature=50.0)
        assert len(said[0].text) <= 4


def test_texts_nobody_or_not_everybody_can_say(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    models = [make_model(4, seed=1), make_model(4, seed=2)]
    ensemble = TextEnsemble(
        models, [make_tokenizer(["a", "b"]), make_tokenizer(["a", "c"])], [1.0, 1.0], mode="bytes", top_k=2
    )
    assert ensemble.log_prob("a", "d") == -math.inf
    assert ensemble.log_prob("a", "da") == -math.inf
    assert math.isfinite(ensemble.log_prob("a", "ab"))
    with pytest.raises(DataError, match="impossible for 'toy'"):
        ensemble.log_prob("a", "ba")
    for mode in ("union", "bytes"):
        ensemble.mode = mode  # type: ignore[assignment]
        for answer in ensemble.generate(["a"] * 5, max_new_bytes=4, do_sample=True, seed=2):
            assert set(answer.text) <= {"a"}


@pytest.mark.parametrize("mode", ["union", "bytes"])
def test_dropout_is_off_and_the_training_mode_put_back(
    mode: str, make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    models = [make_model(7, seed=seed, hidden_dropout=0.5, attention_dropout=0.5) for seed in (1, 2)]
    ensemble = TextEnsemble(models, [make_tokenizer(FIRST)] * 2, [1.0, 1.0], mode=mode, top_k=3)
    options = {"max_new_bytes": 4, "do_sample": True}
    before = ensemble.generate(["a", "b"], **options)
    models[0].train()
    assert ensemble.generate(["a", "b"], **options) == before
    assert models[0].training
    assert not models[1].training
    if mode == "bytes":
        noisy = ensemble.log_prob("a", "bab")
        models[0].eval()
        assert ensemble.log_prob("a", "bab") == noisy


@pytest.mark.parametrize("mode", ["union", "bytes"])
def test_repeated_prompts_get_each_their_own_answer(mode: str, pair: Any) -> None:
    ensemble = TextEnsemble(*pair, [1.0, 1.0], mode=mode, top_k=3)
    prompts = ["bb", "a", "bb", "ab", "a"]
    together = ensemble.generate(prompts, max_new_bytes=5)
    assert together == [ensemble.generate([prompt], max_new_bytes=5)[0] for prompt in prompts]
    assert len({answer.log_prob for answer in together}) == 3


def test_a_stop_string_beyond_the_limit_does_not_count() -> None:
    said = Progress()
    said.add(b"abcd", -1.0)
    assert not said.stopped([b"cd"], limit=3)
    assert said.result(limit=3) == TextDecoded("abc", False, -1.0, 1)
    assert said.stopped([b"cd", b"b"], limit=4)
    assert said.result(limit=4) == TextDecoded("a", True, -1.0, 1)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"mode": "byte"}, ConfigError, "unknown mode 'byte': did you mean 'bytes'"),
        ({"rule": "men"}, ConfigError, "mean"),
        ({"alphas": [1.0]}, ConfigError, "1 alphas for 2 experts"),
        ({"alphas": [1.0, -1.0]}, ConfigError, "negative"),
        ({"alphas": [1.0, math.nan]}, ConfigError, "not all finite"),
        ({"alphas": [0.0, 0.0]}, ConfigError, "all zero"),
        ({"top_k": 0}, ConfigError, "top_k is 0: allowed are 1 to 5"),
        ({"top_k": 6}, ConfigError, "top_k is 6: allowed are 1 to 5"),
        ({"epsilon": -0.1}, ConfigError, "epsilon is -0.1"),
        ({"epsilon": 1.0}, ConfigError, "epsilon is 1.0"),
        ({"epsilon": math.nan}, ConfigError, "epsilon is nan"),
        ({"tokenizers": []}, ConfigError, "2 models and 0 tokenizers"),
        ({"models": [], "tokenizers": []}, ModelError, "without experts"),
    ],
)
def test_bad_settings(changes: dict[str, Any], error: type[EnsemW2SError], match: str, pair: Any) -> None:
    models, tokenizers = pair
    with pytest.raises(error, match=match):
        TextEnsemble(**{"models": models, "tokenizers": tokenizers, "alphas": [1.0, 1.0], "top_k": 2} | changes)


@pytest.mark.parametrize("mode", ["union", "bytes"])
@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"prompts": ["a", ""]}, DataError, "empty prompt"),
        ({"prompts": "ab"}, DataError, "prompts is the text 'ab'"),
        ({"prompts": ["a" * 90]}, DataError, "the prompt 'aaa.*at most 32 fit the model"),
        ({"prompts": ["a\ud800"]}, DataError, "surrogate"),
        ({"prompts": ["az"]}, ModelError, "does not spell the text back"),
        ({"max_new_bytes": 0}, ConfigError, "max_new_bytes is 0"),
        ({"stop": [""]}, ConfigError, "stop is"),
        ({"stop": "ab"}, ConfigError, "stop is 'ab'"),
        ({"temperature": 0.0, "do_sample": True}, ConfigError, "temperature"),
        ({"top_p": 0.0, "do_sample": True}, ConfigError, "top_p"),
    ],
)
def test_bad_requests(mode: str, changes: dict[str, Any], error: type[EnsemW2SError], match: str, pair: Any) -> None:
    ensemble = TextEnsemble(*pair, [1.0, 1.0], mode=mode, top_k=2)
    with pytest.raises(error, match=match):
        ensemble.generate(**{"prompts": ["a"], "max_new_bytes": 3} | changes)


def test_probabilities_of_texts_need_the_exact_mode(pair: Any) -> None:
    with pytest.raises(ConfigError, match="log_prob in mode 'union'"):
        TextEnsemble(*pair, [1.0, 1.0], top_k=2).log_prob("a", "b")
    ensemble = TextEnsemble(*pair, [1.0, 1.0], mode="bytes", top_k=2)
    with pytest.raises(DataError, match="empty prompt"):
        ensemble.log_prob("", "b")
    with pytest.raises(DataError, match="surrogate"):
        ensemble.log_prob("a", "\ud800")

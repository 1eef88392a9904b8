"""Single requests: boundaries of tokens, empty contexts, cuts, windows, rules that look back, settings of decoding.

One expert is compared with lm-eval's own ``hf`` model on the wrapped model, several with the slow twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'ensemw2s[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.naive import naive_scores
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.harness.model import EnsembleLM
from ensemw2s.harness.scoring import Continuation, continuation_scores, fit
from ensemw2s.harness.writing import Settings, StopTexts, before_end, before_stop, write
from ensemw2s.models.loading import load_tokenizer

LONG = "How often is the 5 in 5 5 3 5 5 3 3 ? " * 40
PAIRS = [
    ("Question: What is 5?\nAnswer:", " 5"),
    ("Question: What is 5?\nAnswer: ", "5 3"),  # the space moves to the continuation
    ("Question: Which of Girus and Nilan is old", "est?"),  # the boundary falls into a word
    ("", "Nilan is 5"),  # empty context
    ("", "<|end|>Nilan"),  # ... and the continuation begins with what would stand for it
    ("<|end|>Question: a", " b"),
    ("Question: What is 5?\nAnswer:", " 3"),
    ("Question: What is 5?\nAnswer:", " 5"),  # the same again
    (LONG, " 5 3 5"),  # cut from the left
    ("a", " 5" * 256),  # as long as the context: one token is left of what went before
]


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]  # type: ignore[arg-type]


TEXTS = [LONG, "Question: What is 5 and 3?", "5", "", "Girus " * 128]
PROMPTS = [
    "Question: How often is the 5 in 5 5 3 5 5 3 3?\nAnswer:",
    "Question: What is 5 3 1 put from small to large?\nAnswer:",
    "Question: Which of 52 and 7 is the largest?\nAnswer:",
    "Question:",
    "",
]


@pytest.fixture(scope="module")
def one(make_ensemble: Callable[..., Ensemble]) -> Ensemble:
    """One expert."""
    return make_ensemble(1)


@pytest.fixture(scope="module")
def wrapped(one: Ensemble) -> HFLM:
    return HFLM(pretrained=one.models[0], tokenizer=one.tokenizer, batch_size=4)


@pytest.mark.parametrize("batch_size", ["auto", 3, 1])
def test_one_expert_scores_as_hf_does(one: Ensemble, wrapped: HFLM, batch_size: int | str) -> None:
    there = wrapped.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    here = EnsembleLM(one, batch_size=batch_size).loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    assert [score for score, _ in here] == pytest.approx([score for score, _ in there], rel=1e-5, abs=1e-4)
    assert [greedy for _, greedy in here] == [greedy for _, greedy in there]
    assert here[0] == here[7]
    assert {True, False} <= {greedy for _, greedy in here}
    assert here[0] != here[6]


@pytest.mark.parametrize("max_length", [None, 32, 7])
def test_one_expert_rolls_as_hf_does(one: Ensemble, max_length: int | None) -> None:
    wrapped = HFLM(pretrained=one.models[0], tokenizer=one.tokenizer, batch_size=4, max_length=max_length)
    requests = asked("loglikelihood_rolling", *[(text,) for text in TEXTS])
    there = wrapped.loglikelihood_rolling(requests, disable_tqdm=True)
    here = EnsembleLM(one, max_length=max_length).loglikelihood_rolling(requests, disable_tqdm=True)
    assert here == pytest.approx(there, rel=1e-5, abs=1e-4)
    assert here[3] == 0.0
    assert min(here[:3]) < -1


def test_a_shorter_context_cuts_as_hf_does(one: Ensemble) -> None:
    wrapped = HFLM(pretrained=one.models[0], tokenizer=one.tokenizer, batch_size=4, max_length=9)
    pairs = asked("loglikelihood", *PAIRS[:9])
    there = wrapped.loglikelihood(pairs, disable_tqdm=True)
    here = EnsembleLM(one, max_length=9).loglikelihood(pairs, disable_tqdm=True)
    assert [score for score, _ in here] == pytest.approx([score for score, _ in there], rel=1e-5, abs=1e-4)
    whole = EnsembleLM(one).loglikelihood(pairs, disable_tqdm=True)
    assert max(abs(a - b) for (a, _), (b, _) in zip(here, whole, strict=True)) > 0.1


@pytest.mark.parametrize("engine", ["turns", "stacked"])
@pytest.mark.parametrize("rule", ["mean", "product", "prefix"])
def test_several_experts_score_as_the_slow_twin(make_ensemble: Any, rule: str, engine: str) -> None:
    ensemble = make_ensemble(3, rule, engine)
    model = EnsembleLM(ensemble)
    pairs = [pair for pair in PAIRS[:7] if pair[0]]
    here = model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    for (context, continuation), (score, greedy) in zip(pairs, here, strict=True):
        before, tokens = model._encode_pair(context, continuation)
        twin = naive_scores(ensemble.models, ensemble.alphas, rule, [*before, *tokens], len(before))
        assert score == pytest.approx(sum(log_prob for *_, log_prob, _ in twin), rel=1e-5, abs=1e-4)
        assert greedy == all(label == top for label, top, *_ in twin)


def test_a_rule_that_looks_back_counts_the_continuation_alone(make_ensemble: Any) -> None:
    model = EnsembleLM(make_ensemble(2, "prefix"))
    text = " 5 3 5 5"
    ids = model.tok_encode("Question:" + text)
    whole, split = ([Continuation(ids[:start], ids[start:])] for start in (1, 3))
    (_, first), (_, second) = *continuation_scores(model.ensemble, whole), *continuation_scores(model.ensemble, split)
    middle = next(continuation_scores(model.ensemble, [Continuation(ids[:1], ids[1:3])]))[1]
    assert first.log_prob != pytest.approx(middle.log_prob + second.log_prob, abs=1e-6)
    mean = EnsembleLM(make_ensemble(2, "mean")).ensemble  # ... where a rule that does not look back adds up
    parts = [
        next(continuation_scores(mean, [c]))[1].log_prob for c in (*whole, Continuation(ids[:1], ids[1:3]), *split)
    ]
    assert parts[0] == pytest.approx(parts[1] + parts[2], abs=1e-5)


def test_options_that_differ_in_the_last_token_share_one_pass(make_ensemble: Any) -> None:
    ensemble = make_ensemble(2, engine="turns")
    model, seen = EnsembleLM(ensemble), []
    hook = ensemble.models[0].register_forward_pre_hook(
        lambda _module, _args, options: seen.append(options["input_ids"].shape), with_kwargs=True
    )
    pairs = [("Question: What is 5?\nAnswer:", f" {digit}") for digit in "0123"]
    scores = model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    hook.remove()
    assert [shape[0] for shape in seen] == [1]
    alone = [model.loglikelihood(asked("loglikelihood", pair), disable_tqdm=True)[0] for pair in pairs]
    assert [score for score, _ in scores] == pytest.approx([score for score, _ in alone], abs=1e-6)
    assert len({score for score, _ in scores}) == 4


def test_what_fits() -> None:
    assert fit([1, 2, 3], [4, 5], 4) == ([1, 2, 3], [4, 5])  # the last token is never read
    assert fit([1, 2, 3], [4, 5], 3) == ([2, 3], [4, 5])
    assert fit([1, 2, 3], [4, 5], 2) == ([3], [4, 5])


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("a", ""), "nothing to score after the context 'a'"),
        (("", ""), "nothing to score"),
        (("", "<|end|>"), "has 0 tokens of its own"),
        (("a", " 5" * 257), "has 257 tokens of its own: 1 to 256"),
    ],
)
def test_what_cannot_be_scored_is_refused(one: Ensemble, pair: tuple[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        EnsembleLM(one).loglikelihood(asked("loglikelihood", pair), disable_tqdm=True)


# ---- writing


@pytest.mark.parametrize(
    "settings",
    [
        {"until": ["\n"], "max_gen_toks": 16},
        {"until": [" 3", "oo"], "max_gen_toks": 20, "do_sample": False},
        {"until": "5", "max_new_tokens": 9, "temperature": 0.0},
        {"max_gen_toks": 12, "repetition_penalty": 1.3},
        {"max_gen_toks": 12, "do_sample": True, "top_k": 1, "temperature": 0.7},
        {"max_gen_toks": 250},
    ],
)
def test_one_expert_writes_as_hf_does(one: Ensemble, wrapped: HFLM, settings: dict[str, Any]) -> None:
    requests = asked("generate_until", *[(prompt, settings) for prompt in [*PROMPTS[:4], LONG]])
    there = wrapped.generate_until(requests, disable_tqdm=True)
    assert EnsembleLM(one, batch_size=2).generate_until(requests, disable_tqdm=True) == there
    assert len(set(there)) > 1


def test_beams_are_those_of_the_wrapped_model(one: Ensemble) -> None:
    """Compared with generate itself: lm-eval's stop criterion mixes up the rows of beams."""
    requests = asked("generate_until", *[(prompt, {"max_gen_toks": 12, "num_beams": 3}) for prompt in PROMPTS[:4]])
    written = EnsembleLM(one).generate_until(requests, disable_tqdm=True)
    for prompt, text in zip(PROMPTS, written, strict=False):
        ids = torch.tensor(one.prompts([prompt]))
        output = one.models[0].generate(ids, max_new_tokens=12, num_beams=3, do_sample=False)
        assert text == one.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("rule", ["mean", "prefix"])
def test_several_experts_write_as_our_own_decoding(make_ensemble: Any, rule: str) -> None:
    ensemble = make_ensemble(3, rule)
    ours = [ensemble.tokenizer.decode(d.token_ids) for d in ensemble.decode(PROMPTS[:4], max_new_tokens=20)]
    model = EnsembleLM(ensemble)
    requests = asked("generate_until", *[(prompt, {"until": [], "max_gen_toks": 20}) for prompt in PROMPTS[:4]])
    assert model.generate_until(requests, disable_tqdm=True) == ours
    stop = max(ours, key=len)[2:5]  # in the middle of the longest answer
    requests = asked("generate_until", *[(prompt, {"until": [stop], "max_gen_toks": 20}) for prompt in PROMPTS[:4]])
    assert model.generate_until(requests, disable_tqdm=True) == [text.split(stop)[0] for text in ours]


def test_an_empty_prompt_begins_with_the_prefix(make_ensemble: Any) -> None:
    model = EnsembleLM(make_ensemble(2))
    empty, spelled = asked("generate_until", ("", {"max_gen_toks": 5}), ("<|end|>", {"max_gen_toks": 5}))
    first, second = model.generate_until([empty, spelled], disable_tqdm=True)
    assert first == second


def test_decoding_ends_with_the_last_stop_string(make_ensemble: Any) -> None:
    ensemble = make_ensemble(2)
    calls = []
    hook = ensemble.register_forward_pre_hook(lambda *_: calls.append(1))
    settings = Settings(60, ("w", "e"), {"suppress_tokens": [ensemble.tokenizer.eos_token_id]})
    written = dict(write(ensemble, ensemble.prompts(["Question: What are door and milk"] * 2), settings))
    hook.remove()
    assert written[0] == written[1]
    assert "e" not in written[0]
    assert len(calls) < 30


def test_the_stop_strings_are_seen_across_tokens(one: Ensemble) -> None:
    tokenizer = one.tokenizer
    ids = torch.tensor(tokenizer(["door 5 3", "door 3 5"], add_special_tokens=False)["input_ids"])
    assert StopTexts(tokenizer, ["5 3"], 0)(ids, None).tolist() == [True, False]
    assert StopTexts(tokenizer, ["oor 5 3", "5"], 0)(ids, None).tolist() == [True, True]
    assert StopTexts(tokenizer, ["5 3"], ids.shape[1] - 1)(ids, None).tolist() == [False, False]  # 5 is prompt
    assert StopTexts(tokenizer, [""], 0)(ids, None).tolist() == [False, False]


def test_answers_end_before_the_first_stop() -> None:
    assert before_stop("one two three", ["three", "two", ""]) == "one "
    assert before_stop("one two", ["six"]) == "one two"
    assert before_stop("one two", []) == "one two"
    assert before_end([4, 5, 1, 0, 1], {1, 9}) == [4, 5]
    assert before_end([4, 0], {1}) == [4, 0]


def test_sampling_follows_the_seed_and_the_temperature(make_ensemble: Any) -> None:
    model = EnsembleLM(make_ensemble(2))

    def sampled(seed: int, **options: Any) -> list[str]:
        torch.manual_seed(seed)
        given = {"until": [], "max_gen_toks": 12, "do_sample": True, **options}
        return model.generate_until(asked("generate_until", *[(p, given) for p in PROMPTS[:3]]), disable_tqdm=True)

    assert sampled(1, temperature=1.5) == sampled(1, temperature=1.5)
    assert len({tuple(sampled(seed, temperature=1.5)) for seed in range(4)}) > 1
    assert sampled(1, temperature=1e-4) == sampled(2, temperature=1.0, top_k=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temprature": 1}, "unknown generation setting 'temprature': did you mean 'temperature'"),
        ({"max_length": 9}, "'max_length' cannot be given here: use max_gen_toks"),
        ({"num_return_sequences": 2}, "'num_return_sequences' cannot be given"),
        ({"do_sample": True, "temperature": 0.0}, "do_sample with temperature 0"),
        ({"max_gen_toks": 256}, "max_gen_toks is 256: at most 255 fit"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0"),
        ({"until": [5]}, "until is"),
    ],
)
def test_unusable_settings_are_refused(one: Ensemble, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EnsembleLM(one).generate_until(asked("generate_until", ("a", settings)), disable_tqdm=True)


# ---- tokens


@pytest.fixture
def with_start(one: Ensemble) -> Iterator[EnsembleLM]:
    """A tokenizer that puts a start token first and an end token last."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer("w2s-weak")
    tokenizer.bos_token = "<|pad|>"
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|pad|> $A <|end|>", special_tokens=[("<|pad|>", pad), ("<|end|>", end)]
    )
    before, one.tokenizer = one.tokenizer, tokenizer
    yield EnsembleLM(one)
    one.tokenizer = before


def test_the_start_token_goes_first_once_and_the_end_token_never_last(with_start: EnsembleLM) -> None:
    start, bare = with_start.tokenizer.bos_token_id, with_start._plain("door milk")
    assert with_start.tok_encode("door milk") == [start, *bare]
    assert with_start.tok_encode("<|pad|>door milk") == [start, *bare]
    assert with_start.tok_encode("door milk", add_special_tokens=False) == bare
    assert with_start.prefix_token_id == start
    assert with_start._encode_pair("door", " milk")[1] == with_start._plain(" milk")
    assert EnsembleLM(with_start.ensemble, add_bos_token=False).tok_encode("door milk") == bare
    assert EnsembleLM(with_start.ensemble, prefix_token_id=7).prefix_token_id == 7


def test_a_start_token_can_be_asked_for(one: Ensemble) -> None:
    tokenizer, before = load_tokenizer("w2s-weak"), one.tokenizer
    tokenizer.bos_token = "<|pad|>"
    one.tokenizer = tokenizer
    try:
        bare = EnsembleLM(one)
        assert bare.tok_encode("door") == bare._plain("door")
        assert EnsembleLM(one, add_bos_token=True).tok_encode("door") == [tokenizer.bos_token_id, *bare._plain("door")]
    finally:
        one.tokenizer = before


def test_chat_templates(one: Ensemble) -> None:
    tokenizer, before = load_tokenizer("w2s-weak"), one.tokenizer
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    one.tokenizer = tokenizer
    try:
        model = EnsembleLM(one, chat_template_args={"shout": "!"})
        with pytest.raises(ConfigError, match="no chat template"):
            model.apply_chat_template(chat)
        tokenizer.chat_template = (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "<{{ m.role }}>{{ m.content }}{{ shout }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
        )
        assert model.apply_chat_template(chat) == "<user>Hello!<assistant>"
        assert model.chat_template(True) == tokenizer.chat_template
        tokenizer.chat_template = "{{ raise_exception('never') }}"
        with pytest.raises(ConfigError, match="refuses this conversation: never"):
            model.apply_chat_template(chat[1:])
    finally:
        one.tokenizer = before


# ---- arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs an ensemble"),
        ({"pretrained": "x", "dtyp": "float32"}, "no argument 'dtyp': did you mean 'dtype'"),
        ({"pretrained": "x", "dtype": "int7"}, "unknown dtype 'int7'"),
        ({"pretrained": "x", "device": "tpu"}, "unknown device 'tpu'"),
        ({"pretrained": "x", "batch_size": 0}, "batch_size is 0"),
        ({"pretrained": "x", "batch_size": "many"}, "batch_size is 'many'"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EnsembleLM.create_from_arg_obj(arguments, {"batch_size": None, "device": None})


def test_arguments_of_the_model_go_before_general_ones(folder: Path) -> None:
    general = {"batch_size": 1, "device": "cuda:7", "max_batch_size": None}
    model = EnsembleLM.create_from_arg_string(f"pretrained={folder},batch_size=5,device=cpu,engine=turns", general)
    assert model.rows == 5
    assert str(model.device) == "cpu"
    assert model.get_model_info()["ensemble_engine"] == "turns"
    assert EnsembleLM(model.ensemble, max_batch_size=3).rows == 3
    assert EnsembleLM(model.ensemble).rows is None
    with pytest.raises(ConfigError, match="max_length is 257: give 2 to 256"):
        EnsembleLM(model.ensemble, max_length=257)


def test_an_ensemble_without_a_tokenizer_is_refused(one: Ensemble) -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        EnsembleLM(Ensemble.of(one.models, [1.0]))

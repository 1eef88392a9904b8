"""``generate`` in every mode: one expert is the model itself, several are the same under every engine and as the twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from ensemw2s.ensemble.combine import RULES
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.naive import naive_distributions, naive_generate, naive_rule, naive_scores
from ensemw2s.errors import ModelError

VOCAB, NEW = 37, 7
ALPHAS = [0.5, 2.0, 1.0]
FAMILIES = ("gptneox", "llama", "gpt2", "qwen2", "qwen2-sliding", "opt")
PROMPT = torch.tensor([[3, 14, 5, 3, 14, 6, 3, 14]])  # says things twice, so that prompt lookup finds some
STATES: dict[str, Any] = {
    "best": {"scores": [[1, -2.0], [0, -1.0], [3, -9.0]]},
    "calibrated": {"weights": [0.2, 0.7, 0.1]},
    "prefix": {"beta": 0.5},
    "gate": {
        "mean": [1.0, -1.0, 0.5], "std": [0.7, 0.6, 0.3], "bias": [0.1, -0.2, 0.0, 0.3, -0.5, 0.2, 0.4, -0.1],
        "inner": [[0.5, -0.9, 0.2, 0.4, -0.3, 0.8, 0.1, -0.7], [1.1, 0.3, -0.6, 0.2, 0.9, -0.4, 0.5, 0.1],
                  [-0.4, 0.8, 0.3, -0.2, 0.6, 0.1, -0.9, 0.7]],
        "outer": [0.9, -1.3, 0.4, 0.8, -0.6, 0.5, -0.2, 0.7],
    },
}  # fmt: skip


def tiny(family: str, seed: int, context: int = 64) -> Any:
    """A random model, drawn wide so that distributions are far from flat and experts differ."""
    torch.manual_seed(seed)
    if family == "gpt2":
        config: Any = tf.GPT2Config(
            vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=context, initializer_range=0.3,
            bos_token_id=1, eos_token_id=0,
        )  # fmt: skip
        return tf.GPT2LMHeadModel(config).eval()
    common: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": context, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": None,
    }  # fmt: skip
    if family == "opt":
        model: Any = tf.OPTForCausalLM(
            tf.OPTConfig(ffn_dim=32, word_embed_proj_dim=16, init_std=0.3, dropout=0.0, **common | {"pad_token_id": 2})
        )
        return model.eval()
    common |= {"intermediate_size": 32, "initializer_range": 0.3}
    if family == "gptneox":
        return tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(rotary_pct=0.5, **common)).eval()
    if family == "llama":
        return tf.LlamaForCausalLM(tf.LlamaConfig(num_key_value_heads=2, **common)).eval()
    slides = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1} if "sliding" in family else {}
    return tf.Qwen2ForCausalLM(tf.Qwen2Config(num_key_value_heads=2, **common, **slides)).eval()


@pytest.fixture(scope="module")
def words() -> Any:
    """One character a token."""
    from tokenizers import Tokenizer, decoders, models

    letters = ["\n", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    inner.decoder = decoders.Fuse()
    return tf.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="\n", pad_token="\n")


@pytest.fixture(scope="module")
def zoo() -> Callable[[str, int], list[Any]]:
    """``zoo(family, count)``; made once."""
    made: dict[tuple[str, int], Any] = {}

    def get(family: str, count: int) -> list[Any]:
        for number in range(count):
            if (family, number) not in made:
                model = made[family, number] = tiny(family, 10 * FAMILIES.index(family) + number)
                model.generation_config.pad_token_id = 0
        return [made[family, number] for number in range(count)]

    return get


class Favour(tf.LogitsProcessor):
    """A user's own processor: its sum depends on the logits' constant as little as on their dtype."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Five tokens after the last one are likelier."""
        liked = (input_ids[:, -1:] + torch.arange(1, 6)) % VOCAB
        return scores.scatter_add(1, liked, torch.full_like(scores, 1.5))


PADDED = torch.tensor([[0, 0, 0, 7, 9], [4, 5, 6, 7, 8], [0, 0, 0, 0, 3]])
MASK = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.9},
    "min-p": {"do_sample": True, "min_p": 0.05, "temperature": 1.3, "top_k": 0},
    "repetition penalty": {"repetition_penalty": 1.7},
    "own processor": {"logits_processor": [Favour()]},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "beams and sampling": {"num_beams": 3, "do_sample": True, "top_k": 20},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "no repeats": {"no_repeat_ngram_size": 2, "bad_words_ids": [[5], [7]], "min_new_tokens": 3},
    "padded": {"input_ids": PADDED, "attention_mask": MASK},
    "padded beams": {"input_ids": PADDED, "attention_mask": MASK, "num_beams": 3},
    "padded sampling": {"input_ids": PADDED, "attention_mask": MASK, "do_sample": True, "num_return_sequences": 2},
    "dynamic cache": {"cache_implementation": "dynamic"},
    "static cache": {"cache_implementation": "static", "input_ids": PADDED, "attention_mask": MASK},
    "static cache, beams": {"cache_implementation": "static", "num_beams": 2},
    "no cache": {"use_cache": False, "input_ids": PADDED, "attention_mask": MASK},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "assisted": {"assistant_model": True},
    "assisted sampling": {"assistant_model": True, "do_sample": True},
}


def decode(model: Any, helper: Any, **mode: Any) -> Any:
    """One call of ``generate`` with its logits; random numbers from the same start."""
    options: dict[str, Any] = {"input_ids": PROMPT, "attention_mask": torch.ones_like(PROMPT), **mode}
    if options.get("assistant_model"):
        options["assistant_model"] = helper
    options["logits_processor"] = tf.LogitsProcessorList(options.get("logits_processor", []))
    torch.manual_seed(5)
    return model.generate(**{"max_new_tokens": NEW, "return_dict_in_generate": True, "output_logits": True, **options})


def same(one: Any, other: Any, *, exact: bool) -> None:
    """The same tokens, and logits that give the same probabilities (the very same logits where ``exact``)."""
    assert torch.equal(one.sequences, other.sequences)
    assert len(one.logits) == len(other.logits) > 0
    for step, other_step in zip(one.logits, other.logits, strict=True):
        if exact:
            torch.testing.assert_close(step, other_step, atol=1e-5, rtol=1e-5)
        else:
            torch.testing.assert_close(step.log_softmax(-1), other_step.log_softmax(-1), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_expert_is_the_model(family: str, mode: str, zoo: Any, words: Any) -> None:
    model, helper = zoo(family, 2)
    ensemble = Ensemble.of([model], [0.3], "mean", words)
    same(decode(ensemble, helper, **MODES[mode]), decode(model, helper, **MODES[mode]), exact=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES[:-1])
def test_engines_agree(family: str, mode: str, zoo: Any, words: Any) -> None:
    models = zoo(family, 3)
    helper = models[1]
    found = []
    for engine in ("turns", "stacked"):
        ensemble = Ensemble.of(models, ALPHAS, "mean", words, engine=engine)
        assert ensemble.bank.name == ("turns" if engine == "turns" else "stacked weights")
        found.append(decode(ensemble, helper, **MODES[mode]))
    same(*found, exact=False)


def test_a_family_that_cannot_be_stacked_runs_in_turn(zoo: Any, words: Any) -> None:
    """OPT looks its positions up in a way of its own."""
    models = zoo("opt", 3)
    with pytest.raises(ModelError, match="OPTLearnedPositionalEmbedding"):
        Ensemble.of(models, ALPHAS, "mean", words, engine="stacked")
    ensemble = Ensemble.of(models, ALPHAS, "mean", words)
    assert ensemble.bank.name == "turns"
    found = decode(ensemble, None).sequences[0].tolist()
    slow = naive_generate(models, ALPHAS, "mean", PROMPT[0].tolist(), max_new_tokens=NEW, eos_token_ids=[0])
    assert found[PROMPT.shape[1] :] == slow.token_ids


def test_modes_differ_where_they_should(zoo: Any, words: Any) -> None:
    """Were an option lost on the way, two modes would give one text; and three experts are not one."""
    models = zoo("llama", 3)
    ensemble = Ensemble.of(models, ALPHAS, "mean", words, engine="stacked")
    texts = {
        mode: tuple(decode(ensemble, models[1], **MODES[mode]).sequences[0].tolist())
        for mode in ("greedy", "sampling", "min-p", "repetition penalty", "own processor", "beams")
    }
    assert len(set(texts.values())) == len(texts)
    assert all(tuple(decode(m, m).sequences[0].tolist()) != texts["greedy"] for m in models[::2])


# ---- stop strings, streamers


@pytest.mark.parametrize("experts", [1, 3])
def test_stop_strings(experts: int, zoo: Any, words: Any) -> None:
    models = zoo("gpt2", experts)
    ensemble = Ensemble.of(models, ALPHAS[:experts], "mean", words, engine="turns" if experts == 1 else "stacked")
    start = PROMPT.shape[1]
    free = decode(ensemble, None, min_new_tokens=NEW).sequences[0].tolist()
    text = words.decode(free)
    stop = text[start + 2 : start + 4]
    end = text.index(stop, start - 1) + 2  # the first time, maybe with the prompt's last letter
    assert start < end < len(text)
    stopped = decode(ensemble, None, stop_strings=[stop], tokenizer=words, min_new_tokens=NEW)
    assert stopped.sequences[0].tolist() == free[:end]
    if experts == 1:
        same(stopped, decode(models[0], None, stop_strings=[stop], tokenizer=words, min_new_tokens=NEW), exact=True)


class Pieces(tf.TextStreamer):
    """Keeps what would be printed."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True)
        self.pieces: list[str] = []

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with every piece."""
        self.pieces.append(text)


@pytest.mark.parametrize("experts", [1, 3])
def test_streamers_say_what_was_decoded(experts: int, zoo: Any, words: Any) -> None:
    models = zoo("gpt2", experts)
    ensemble = Ensemble.of(models, ALPHAS[:experts], "mean", words, engine="turns" if experts == 1 else "stacked")
    pieces, plain = Pieces(words), Pieces(words)
    found = decode(ensemble, None, streamer=pieces).sequences[0, PROMPT.shape[1] :]
    assert len(pieces.pieces) > 2
    assert "".join(pieces.pieces) == words.decode(found)
    iterated = tf.TextIteratorStreamer(words, skip_prompt=True, timeout=10)
    decode(ensemble, None, streamer=iterated)
    assert "".join(iterated) == words.decode(found)
    if experts == 1:
        decode(models[0], None, streamer=plain)
        assert pieces.pieces == plain.pieces


def test_an_ensemble_drafts_for_another_model(zoo: Any, words: Any) -> None:
    models = zoo("gptneox", 3)
    for engine in ("turns", "stacked"):
        drafts = Ensemble.of(models, ALPHAS, "mean", words, engine=engine)
        assert torch.equal(decode(models[0], drafts, assistant_model=True).sequences, decode(models[0], None).sequences)


# ---- every rule against the naive twin


def twin(models: list[Any], rule: str, tokens: list[int], prompt: int) -> Tensor:
    """The naive mixture before every token of the answer: float64 ``[answer, vocab]``."""
    prefix, found = [0.0] * len(models), []
    for column in range(prompt, len(tokens)):
        probs = naive_distributions(models, tokens[:column])
        found.append(naive_rule(probs, ALPHAS, rule, STATES.get(rule), prefix))
        prefix = [past + math.log(float(p[tokens[column]])) for past, p in zip(prefix, probs, strict=True)]
    return torch.stack(found)


def of_rule(models: list[Any], rule: str, engine: str) -> Ensemble:
    ensemble = Ensemble.of(models, ALPHAS, rule, rule_state=STATES.get(rule), engine=engine)
    ensemble.generation_config.pad_token_id = 0
    ensemble.generation_config.eos_token_id = None
    return ensemble


def test_every_rule_is_here() -> None:
    assert {"mean", "uniform", "product", "vote", *STATES} <= set(RULES)


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "static": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "assisted": {"assistant_model": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", ["turns", "stacked"])
@pytest.mark.parametrize("rule", ["mean", "uniform", "product", "vote", *STATES])
def test_greedy_is_the_twins(rule: str, engine: str, way: str, zoo: Any) -> None:
    models = zoo("gptneox", 3)
    found = decode(of_rule(models, rule, engine), models[2], **WAYS[way])
    slow = naive_generate(
        models, ALPHAS, rule, PROMPT[0].tolist(), max_new_tokens=NEW, eos_token_ids=[], state=STATES.get(rule)
    )
    said = found.sequences[0].tolist()
    assert said[PROMPT.shape[1] :] == slow.token_ids
    probs = torch.cat(found.logits).double().softmax(-1)
    torch.testing.assert_close(probs, twin(models, rule, said, PROMPT.shape[1]), atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("engine", ["turns", "stacked"])
@pytest.mark.parametrize("rule", ["mean", "product", "prefix", "gate"])
def test_beams_are_scored_as_the_twin_does(rule: str, engine: str, zoo: Any) -> None:
    """What a rule remembers goes with its beam: the sums of log-probabilities would tell."""
    models = zoo("gptneox", 3)
    found = decode(
        of_rule(models, rule, engine), None, num_beams=5, num_return_sequences=5, length_penalty=0.0, output_scores=True
    )
    assert any(len(set(beams[:NEW].tolist())) > 1 for beams in found.beam_indices)  # beams did change places
    for row, score in zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        naive = naive_scores(models, ALPHAS, rule, row, PROMPT.shape[1], STATES.get(rule))
        assert score == pytest.approx(math.fsum(value for _, _, value, _ in naive), abs=1e-3)


@pytest.mark.parametrize("engine", ["turns", "stacked"])
def test_sampled_answers_remember_their_own_past(engine: str, zoo: Any) -> None:
    models = zoo("llama", 3)
    found = decode(
        of_rule(models, "prefix", engine), None, input_ids=PADDED, attention_mask=MASK, do_sample=True,
        num_return_sequences=2,
    )  # fmt: skip
    logits = torch.stack(found.logits, dim=1).double()
    for place, row in enumerate(found.sequences.tolist()):
        pads = int((MASK[place // 2] == 0).sum())
        expected = twin(models, "prefix", row[pads:], PADDED.shape[1] - pads)
        torch.testing.assert_close(logits[place].softmax(-1), expected, atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("engine", ["turns", "stacked"])
@pytest.mark.parametrize("rule", ["mean", "vote", *STATES])
def test_teacher_forced_is_the_twins(rule: str, engine: str, zoo: Any) -> None:
    models = zoo("llama", 3)
    draw = torch.Generator().manual_seed(3)
    rows, lengths, width = [], [5, 9, 7], 9
    for length in lengths:
        rows.append(torch.randint(1, VOCAB, (length,), generator=draw).tolist())
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    prompts = torch.tensor([6, 4, 3])  # columns before the answer, padding included
    ensemble = of_rule(models, rule, engine)
    with torch.no_grad():
        logits = ensemble(ids, attention_mask=mask, prompt_lengths=prompts).logits
        last = ensemble(ids, attention_mask=mask, prompt_lengths=prompts, logits_to_keep=2).logits
        picked = ensemble(ids, attention_mask=mask, prompt_lengths=prompts, logits_to_keep=torch.tensor([4, 7])).logits
    torch.testing.assert_close(last, logits[:, -2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(picked, logits[:, [4, 7]], atol=1e-5, rtol=1e-5)
    for place, row in enumerate(rows):
        pads, start = width - len(row), int(prompts[place])
        expected = twin(models, rule, row, start - pads)
        found = logits[place, start - 1 : -1].double()
        torch.testing.assert_close(found.exp(), expected, atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("engine", ["turns", "stacked"])
def test_answers_in_pieces_are_remembered(engine: str, zoo: Any) -> None:
    """Prompt, then two tokens, then one taken back and another two: as if all had been read at once."""
    models = zoo("gptneox", 3)
    ensemble = of_rule(models, "prefix", engine)
    row, prompt = [3, 14, 5, 6, 8, 9, 11, 2], 3
    with torch.no_grad():
        first = ensemble(torch.tensor([row[:prompt]]), use_cache=True, logits_to_keep=1)
        cache = first.past_key_values
        parts = [first.logits, ensemble(torch.tensor([row[prompt : prompt + 2]]), past_key_values=cache).logits]
        ensemble(torch.tensor([[30, 31, 32]]), past_key_values=cache)  # a draft that is thrown away
        cache.crop(-3)
        parts.append(ensemble(torch.tensor([[*row[prompt + 2 : prompt + 4], 33]]), past_key_values=cache).logits[:, :2])
        cache.crop(-1)
        parts.append(ensemble(torch.tensor([row[prompt + 4 :]]), past_key_values=cache).logits)
    found = torch.cat(parts, dim=1)[0, :-1].double().exp()
    torch.testing.assert_close(found, twin(models, "prefix", row, prompt), atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("engine", ["turns", "stacked"])
def test_a_first_call_with_a_draft(engine: str, zoo: Any) -> None:
    """Two prompts in pieces, each piece with some of the answer behind it, only the needed logits asked for."""
    models = zoo("gptneox", 3)
    ensemble = of_rule(models, "prefix", engine)
    rows, prompts = [[3, 14, 5, 6, 8, 9, 11, 2], [4, 4, 7, 1, 30, 22, 9, 5]], [4, 3]
    ids, lengths = torch.tensor(rows), torch.tensor(prompts)
    with torch.no_grad():
        first = ensemble(ids[:, :2], use_cache=True, prompt_lengths=lengths, logits_to_keep=1)
        cache = first.past_key_values
        drafted = torch.cat([ids[:, 2:5], torch.tensor([[33], [34]])], dim=1)
        second = ensemble(drafted, past_key_values=cache, prompt_lengths=lengths, logits_to_keep=3).logits
        cache.crop(-1)
        last = ensemble(ids[:, 5:], past_key_values=cache, prompt_lengths=lengths).logits
        # the same with the whole prompt in the first call
        at_once = ensemble(ids[:, :6], use_cache=True, prompt_lengths=lengths, logits_to_keep=4)
        at_once.past_key_values.crop(-1)
        rest = ensemble(ids[:, 5:], past_key_values=at_once.past_key_values, prompt_lengths=lengths).logits
    found = torch.cat([second[:, :2], last], dim=1).double().exp()  # of columns 3 to 7
    again = torch.cat([at_once.logits[:, 1:3], rest], dim=1).double().exp()
    for place, row in enumerate(rows):
        wanted = twin(models, "prefix", [*row, 0], prompts[place])[-5:]
        for one in (found, again):
            torch.testing.assert_close(one[place, -len(wanted) :], wanted, atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("engine", ["turns", "stacked"])
def test_chosen_columns_of_a_prompt_do_not_mislead_what_follows(engine: str, zoo: Any) -> None:
    models = zoo("gptneox", 3)
    ensemble = of_rule(models, "prefix", engine)
    row = torch.tensor([[3, 14, 5, 6, 8]])
    with torch.no_grad():
        first = ensemble(row[:, :3], use_cache=True, logits_to_keep=torch.tensor([1, 0]))
        later = ensemble(row[:, 3:], past_key_values=first.past_key_values).logits
        every = ensemble(row[:, :3]).logits
    torch.testing.assert_close(first.logits, every[:, [1, 0]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        later[0].double().exp(), twin(models, "prefix", [*row[0].tolist(), 0], 3)[1:], atol=2e-5, rtol=2e-3
    )

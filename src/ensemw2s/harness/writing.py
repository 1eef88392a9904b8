"""Answers to ready prompts with stop strings and every setting that ``generate`` of transformers knows."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ensemw2s.data.encoding import pad_batch, padding_token
from ensemw2s.ensemble.experts import context_limit, end_tokens
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ConfigError, nearest

log = logging.getLogger("ensemw2s.harness")

ROWS = 128  # decoded together where nobody says otherwise ...
TOKENS = 65536  # ... and no more than keep so many tokens in the cache
# Settings of generate that say how long an answer is, or what comes back: said by `Request`, or not ours to give.
_OURS = ("max_length", "max_new_tokens", "num_return_sequences", "return_dict_in_generate", "eos_token_id",
         "pad_token_id", "use_cache", "stop_strings")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """How answers are written.

    Attributes:
        max_new_tokens: longest answer, its end token included.
        until: texts that end an answer, which keeps nothing from the first of them on.
        options: of transformers' ``generate`` (``do_sample``, ``temperature``, ``top_p``, ``num_beams`` ...); what they
            leave open is as the first expert's own generation settings say.
    """

    max_new_tokens: int
    until: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_gen_toks is {self.max_new_tokens}: give at least 1")
        if not all(isinstance(text, str) for text in self.until):
            raise ConfigError(f"until is {list(self.until)}: give texts")
        known = sorted(set(GenerationConfig().to_dict()) - set(_OURS))
        for name in self.options:
            if name in _OURS:
                raise ConfigError(f"generation setting '{name}' cannot be given here: use max_gen_toks and until")
            if name not in known:
                raise ConfigError(f"unknown generation setting '{name}': {nearest(name, known)}")
        temperature = self.options.get("temperature")
        if self.options.get("do_sample") and temperature is not None and not float(temperature) > 0:
            raise ConfigError(
                f"do_sample with temperature {temperature}: give a temperature above 0, or leave do_sample out"
            )


def write(
    ensemble: Ensemble,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    *,
    rows: int | None = None,
    context: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Answers as their batches are done, each with its prompt's number; long prompts come first.

    A prompt is cut from its beginning where it leaves no room for the longest answer in the context.

    Args:
        ensemble: with its tokenizer.
        prompts: token ids, at least one each.
        settings: the same for all.
        rows: decoded together; None: as many as a bounded cache holds.
        context: tokens of prompt and answer together, where it is to be less than the experts take.

    Raises:
        ConfigError: an answer as long as the context, or ``rows`` below 1.
    """
    context = min(context or sys.maxsize, context_limit(ensemble.models))
    room = context - settings.max_new_tokens
    if room < 1:
        raise ConfigError(
            f"max_gen_toks is {settings.max_new_tokens}: at most {context - 1} fit the context of {context} tokens"
        )
    if rows is not None and rows < 1:
        raise ConfigError(f"batch_size is {rows}: give 'auto' or at least 1")
    cut = sum(len(prompt) > room for prompt in prompts)
    if cut:
        log.warning("%d prompts are cut from their beginning: %d tokens leave room for the answer", cut, room)
    kept = [list(prompt)[-room:] for prompt in prompts]
    order = sorted(range(len(kept)), key=lambda number: -len(kept[number]))
    first = 0
    while first < len(order):
        fitting = max(1, TOKENS // (len(kept[order[first]]) + settings.max_new_tokens))
        chosen = order[first : first + (min(ROWS, fitting) if rows is None else rows)]
        yield from zip(chosen, _write_batch(ensemble, [kept[number] for number in chosen], settings), strict=True)
        first += len(chosen)


@torch.inference_mode()
def _write_batch(ensemble: Ensemble, prompts: Sequence[Sequence[int]], settings: Settings) -> list[str]:
    tokenizer = ensemble.tokenizer
    input_ids, mask = pad_batch(prompts, padding_token(tokenizer), side="left")
    width = input_ids.shape[1]
    stopping = StoppingCriteriaList([StopTexts(tokenizer, settings.until, width)] if settings.until else [])
    output = ensemble.generate(
        input_ids=input_ids.to(ensemble.bank.device), attention_mask=mask.to(ensemble.bank.device),
        max_new_tokens=settings.max_new_tokens, stopping_criteria=stopping, **settings.options,
    )  # fmt: skip
    ends = set(end_tokens(ensemble.models[0], tokenizer))
    answers = [before_end(answer, ends) for answer in output[:, width:].tolist()]
    return [before_stop(text, settings.until) for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def before_end(tokens: Sequence[int], ends: set[int]) -> list[int]:
    """Tokens up to the first end token; what follows it is padding."""
    place = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:place])


def before_stop(text: str, until: Sequence[str]) -> str:
    """The text up to the first of the stop strings; an empty one stops nothing."""
    return text[: min((text.find(stop) for stop in until if stop and stop in text), default=len(text))]


class StopTexts(StoppingCriteria):
    """Ends the rows whose answer holds a stop string.

    Args:
        tokenizer: decodes answers.
        until: the stop strings.
        width: columns of the prompt, padding included.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], width: int) -> None:
        self.tokenizer, self.until, self.width = tokenizer, [stop for stop in until if stop], width
        # A new stop string ends at the last token, and a token is a byte at least: no need to look further back.
        self.reach = max((len(stop.encode()) for stop in self.until), default=0) + 1

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Any:
        """Bool ``[row]``: which rows are done."""
        answers = input_ids[:, max(self.width, input_ids.shape[1] - self.reach) :].tolist()
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        done = [any(stop in text for stop in self.until) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

"""An ensemble of language models that need not share a tokenizer, as one thing: prompts in, text out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ensemw2s.ensemble.combine import MixRule, check_alphas, open_rule
from ensemw2s.ensemble.experts import end_tokens, evaluating, vocabulary_size
from ensemw2s.ensemble.sampling import check_sampling, row_uniforms
from ensemw2s.ensemble.text import utf8
from ensemw2s.ensemble.text.marginal import END as END_BYTE
from ensemw2s.ensemble.text.marginal import ByteModel, Covers
from ensemw2s.ensemble.text.reading import Reader
from ensemw2s.ensemble.text.saying import Choice, Progress, TextDecoded
from ensemw2s.ensemble.text.union import END, UnionExpert, union_of
from ensemw2s.ensemble.text.vocabulary import ByteVocabulary
from ensemw2s.errors import ConfigError, DataError, ModelError, nearest

__all__ = ["Mode", "TextDecoded", "TextEnsemble"]

Mode = Literal["union", "bytes"]


class TextEnsemble:
    """Experts with tokenizers of their own, mixed over text.

    Mode "union" (fast, approximate) mixes at byte boundaries over the union of the experts' likeliest next tokens, see
    ``union``. Mode "bytes" (slow) mixes the experts' exact next-byte distributions, see ``marginal``. In both the
    output is whole UTF-8 characters: bytes that cannot continue the text are never chosen.

    Args:
        models: one causal language model an expert.
        tokenizers: one fast tokenizer an expert; equal ones may appear.
        alphas: ``[expert]``, any scale.
        rule: a name in :data:`~ensemw2s.ensemble.combine.RULES`, or an opened rule; used on log-probabilities
            ``[expert, 1, candidate]`` or ``[expert, 1, 257]``.
        mode: "union" or "bytes".
        top_k: proposals an expert and step; mode "bytes" has no use for it.
        epsilon: share of each byte's probability that may be pruned, mode "bytes" only; 0 is exact, and grows
            exponentially with the text. See :class:`~ensemw2s.ensemble.text.marginal.ByteModel`.

    Raises:
        ConfigError: unknown mode or rule, unusable alphas, another number of models than of tokenizers, ``top_k`` below
            1 or above the smallest vocabulary, ``epsilon`` outside [0, 1).
        ModelError: no expert, or a tokenizer whose tokens cannot be told as bytes.
    """

    def __init__(
        self,
        models: Sequence[Any],
        tokenizers: Sequence[Any],
        alphas: Tensor | Sequence[float],
        rule: str | MixRule = "mean",
        mode: Mode = "union",
        top_k: int = 10,
        epsilon: float = 0.0,
    ) -> None:
        if not models:
            raise ModelError("an ensemble without experts: give at least one model")
        if len(models) != len(tokenizers):
            raise ConfigError(f"{len(models)} models and {len(tokenizers)} tokenizers: give one tokenizer a model")
        if mode not in get_args(Mode):
            raise ConfigError(f"unknown mode {mode!r}: {nearest(str(mode), get_args(Mode))}")
        if not 0 <= epsilon < 1:
            raise ConfigError(f"epsilon is {epsilon}: allowed are 0 (exact) and numbers below 1")
        self.models, self.mode, self.top_k, self.epsilon = list(models), mode, top_k, epsilon
        self.alphas = check_alphas(alphas, len(models))
        self.rule = open_rule(rule)
        self.vocabularies = [
            ByteVocabulary(tokenizer, vocabulary_size(model), end_tokens(model, tokenizer))
            for model, tokenizer in zip(models, tokenizers, strict=True)
        ]
        smallest = min(len(vocabulary.order) for vocabulary in self.vocabularies)
        if top_k < 1 or (mode == "union" and top_k > smallest):
            raise ConfigError(f"top_k is {top_k}: allowed are 1 to {smallest}, the tokens of the smallest vocabulary")
        self._readers = [Reader(model) for model in models]

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_bytes: int,
        stop: Sequence[str] = (),
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[TextDecoded]:
        """Answers in the order of the prompts.

        Args:
            prompts: none empty.
            max_new_bytes: limit of an answer in bytes of UTF-8; a character that it would split is left out.
            stop: texts that end an answer; they are not part of it.
            do_sample: draw from the mixture; otherwise the likeliest is taken.
            temperature: for sampling, above 0.
            top_p: for sampling, in (0, 1].
            seed: for sampling; every prompt draws from a stream of its own, by its place.

        Raises:
            ConfigError: a setting out of range, an empty stop text, or ``epsilon`` too small for the text's length.
            DataError: one text for prompts, an empty prompt, one longer than a context or impossible for an expert.
            ModelError: a tokenizer that does not spell a prompt.
        """
        if max_new_bytes < 1:
            raise ConfigError(f"max_new_bytes is {max_new_bytes}: it must be at least 1")
        if isinstance(stop, str) or not all(stop):
            raise ConfigError(f"stop is {stop!r}: give a list of texts that are not empty, or leave it out")
        check_sampling(temperature, top_p)
        if isinstance(prompts, str):
            raise DataError(f"prompts is the text {prompts[:40]!r}: give a list of texts")
        for prompt in prompts:
            _check_prompt(prompt)
        stops = tuple(word.encode("utf-8") for word in stop)
        repeated = {prompt for prompt, count in Counter(prompts).items() if count > 1}
        read: dict[str, list[Covers]] = {}  # covers never change, so equal prompts are read once
        answers = []
        with evaluating(self.models):
            for row, prompt in enumerate(prompts):
                uniforms = row_uniforms(seed, [str(row)], max_new_bytes)[0] if do_sample else None
                choice = Choice(max_new_bytes, stops, uniforms, temperature, top_p)
                if self.mode == "union":
                    answers.append(self._generate_union(prompt, choice))
                    continue
                covers = read.get(prompt) or [model.start(prompt) for model in self._byte_models()]
                if prompt in repeated:
                    read[prompt] = covers
                answers.append(self._generate_bytes(covers, choice))
        return answers

    @torch.inference_mode()
    def log_prob(self, prompt: str, continuation: str) -> float:
        """Log-probability (nats) that the text after the prompt begins with a continuation, by the mixture.

        Exact for ``epsilon`` 0. Bytes that are not valid text count as possible here: the number is the experts' own.
        For rules that look at one position at a time, log_prob(p, a + b) = log_prob(p, a) + log_prob(p + a, b) (where a
        tokenizer has no start token: if it cuts the same first token from both prompts).

        Raises:
            ConfigError: the mode is not "bytes", or ``epsilon`` too small for the text's length.
            DataError: an empty prompt, one longer than a context, or a text that leaves an expert without any token
                sequence while others have some.
            ModelError: a tokenizer that does not spell the prompt.
        """
        if self.mode != "bytes":
            raise ConfigError(f"log_prob in mode '{self.mode}': only mode 'bytes' knows probabilities of texts")
        _check_prompt(prompt)
        total = 0.0
        wanted = _utf8(continuation)
        with evaluating(self.models):
            models = self._byte_models()
            covers = [model.start(prompt) for model in models]
            prefix = torch.zeros((len(models), 1), dtype=torch.float64)
            for place, byte in enumerate(wanted):
                log_probs = self._next_bytes(models, covers)
                total += float(self.rule(log_probs, self.alphas, prefix)[0, byte])
                if total == -math.inf or place == len(wanted) - 1:
                    return total
                prefix = prefix + log_probs[:, :, byte]
                covers = self._advance(models, covers, byte, (prompt + continuation)[:40])
        return total

    def _byte_models(self) -> list[ByteModel]:
        pairs = zip(self._readers, self.vocabularies, strict=True)
        return [ByteModel(reader, vocabulary, self.epsilon) for reader, vocabulary in pairs]

    @staticmethod
    def _next_bytes(models: Sequence[ByteModel], covers: Sequence[Covers]) -> Tensor:
        """Every expert's next-byte distribution: float64 ``[expert, 1, 257]``."""
        rows = [torch.from_numpy(model.next(cover)) for model, cover in zip(models, covers, strict=True)]
        return torch.stack(rows)[:, None]

    @staticmethod
    def _advance(models: Sequence[ByteModel], covers: Sequence[Covers], byte: int, text: str) -> list[Covers]:
        after = [model.advance(cover, byte) for model, cover in zip(models, covers, strict=True)]
        for model, cover in zip(models, after, strict=True):
            if cover is None:
                raise DataError(
                    f"the text {text!r} is impossible for '{model.vocabulary.name}', which cannot spell it or has no "
                    "room for it in its context: leave the text or the expert out"
                )
        return [cover for cover in after if cover is not None]

    def _generate_bytes(self, covers: list[Covers], choice: Choice) -> TextDecoded:
        models, said = self._byte_models(), Progress()
        prefix = torch.zeros((len(models), 1), dtype=torch.float64)
        for step in range(choice.limit):
            log_probs = self._next_bytes(models, covers)
            mixed = self.rule(log_probs, self.alphas, prefix)[0]
            # Only what every expert can go on from, and what is text.
            possible = torch.isfinite(log_probs).all(dim=0)[0] & _text_bytes(said.state)
            if not bool((possible & torch.isfinite(mixed)).any()):
                break
            chosen = choice.pick(mixed.masked_fill(~possible, -math.inf), step)
            if chosen == END_BYTE:
                said.add(b"", float(mixed[chosen]))
                said.finished = True
                break
            said.add(bytes([chosen]), float(mixed[chosen]))
            if said.stopped(choice.stop, choice.limit) or step == choice.limit - 1:
                break
            prefix = prefix + log_probs[:, :, chosen]
            after = [model.advance(cover, chosen) for model, cover in zip(models, covers, strict=True)]
            covers = [cover for cover in after if cover is not None]
            if len(covers) < len(models):
                break  # the end of a context
        return said.result(choice.limit)

    def _generate_union(self, prompt: str, choice: Choice) -> TextDecoded:
        pairs = zip(self._readers, self.vocabularies, strict=True)
        experts = [UnionExpert(reader, vocabulary, prompt) for reader, vocabulary in pairs]
        said = Progress()
        prefix = torch.zeros((len(experts), 1), dtype=torch.float64)
        while len(said.data) < choice.limit and not any(expert.full for expert in experts):
            candidates, runs = union_of(experts, self.top_k, said.state)
            if not candidates:
                break
            scores = [expert.score(spelled) for expert, spelled in zip(experts, runs, strict=True)]
            mixed = self.rule(torch.stack([q for _, q in scores])[:, None], self.alphas, prefix)[0]
            place = choice.pick(mixed, said.steps)
            said.add(candidates[place], float(mixed[place]))
            said.finished = candidates[place] == END
            if said.finished or said.stopped(choice.stop, choice.limit) or len(said.data) >= choice.limit:
                break
            prefix = prefix + torch.stack([joint[place] for joint, _ in scores])[:, None]
            for expert, spelled in zip(experts, runs, strict=True):
                expert.append(candidates[place], spelled[place])
        return said.result(choice.limit)


def _text_bytes(state: int) -> Tensor:
    """Which of the 256 bytes and the end may follow in a text: bool ``[257]``."""
    possible = torch.from_numpy(utf8.STEP[state] != utf8.INVALID)
    return torch.cat([possible, torch.tensor([state == utf8.BETWEEN])])


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"the text {text[:40]!r} has a lone surrogate and is no Unicode text: mend it") from error


def _check_prompt(prompt: str) -> None:
    if not prompt:
        raise DataError("an empty prompt: give at least one character to go on from")
    _utf8(prompt)

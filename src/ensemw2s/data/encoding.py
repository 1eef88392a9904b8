"""Rows as token ids. The answer's tokens, its end token among them, make the flat token axis (see `shapes`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor


class EncodedRow(NamedTuple):
    """One row as tokens.

    Attributes:
        id: the row's id.
        input_ids: prompt then answer; the last one is the end token where there is an answer.
        prompt_length: ``input_ids[prompt_length:]`` are the answer's tokens.
    """

    id: str
    input_ids: list[int]
    prompt_length: int


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoded rows, and what the length limit did to them.

    Attributes:
        rows: in the order of the input, dropped rows missing.
        cut: ids of the rows whose prompt was shortened from its beginning.
        dropped: ids of the rows left out.
    """

    rows: list[EncodedRow]
    cut: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def encode_rows(rows: Sequence[Row], tokenizer: Any, task_format: TaskFormat, context_length: int | None) -> Encoded:
    """Prompt, answer and end token of labelled rows.

    A row whose answer alone leaves no room for one prompt token (beside the start token) is dropped, whatever
    ``too_long`` says.

    Raises:
        DataError: a row without an answer or without answer tokens, a tokenizer without an end token, or no row left.
    """
    prompts = _prompt_ids(rows, tokenizer, task_format)
    answers = _answer_ids([task_format.answer_text(row) for row in rows], rows, tokenizer)
    return _fit(rows, prompts, answers, task_format, context_length)


def encode_prompts(rows: Sequence[Row], tokenizer: Any, task_format: TaskFormat, context_length: int | None) -> Encoded:
    """Prompts only, with room left for ``max_new_tokens``.

    Raises:
        ConfigError: ``max_new_tokens`` leaves no room for a prompt.
        DataError: no row left.
    """
    limit = _limit(task_format, context_length)
    room = None if limit is None else limit - task_format.max_new_tokens
    if room is not None and room < 1:
        raise ConfigError(
            f"format.max_new_tokens {task_format.max_new_tokens} leaves no room for a prompt in {limit}: lower it"
        )
    prompts = _prompt_ids(rows, tokenizer, task_format)
    return _fit(rows, prompts, [[]] * len(rows), dataclasses.replace(task_format, max_length=room), context_length)


def encode_options(
    rows: Sequence[Row], tokenizer: Any, task_format: TaskFormat, context_length: int | None
) -> list[list[EncodedRow]]:
    """Every option of every row as a candidate answer; ids are ``row id`` + ``/`` + option index.

    Too long prompts are cut from their beginning (a dropped option could not be compared), to the room the row's
    longest option leaves, so that all options of a row follow the same prompt.

    Raises:
        DataError: a row without choices, or an option longer than the context.
    """
    cutting = dataclasses.replace(task_format, too_long="cut")
    prompts = _prompt_ids(rows, tokenizer, task_format)
    for row in rows:
        if not row.choices:
            raise DataError(f"row '{row.id}' has no choices to compare: leave it out")
    options = [
        dataclasses.replace(row, id=f"{row.id}/{number}", answer=choice)
        for row in rows
        for number, choice in enumerate(row.choices or ())
    ]
    texts = [task_format.option_text(option.answer or "") for option in options]
    answers = _answer_ids(texts, options, tokenizer)
    limit = _limit(task_format, context_length)
    repeated: list[list[int]] = []
    for row, prompt in zip(rows, prompts.ids, strict=True):
        count = len(row.choices or ())
        longest = max(map(len, answers[len(repeated) : len(repeated) + count]))
        repeated += [prompt if limit is None else _cut_prompt(prompt, prompts.start, limit - longest)] * count
    fitted = _fit(options, _Prompts(repeated, prompts.start), answers, cutting, context_length)
    if fitted.dropped:
        raise DataError(f"option '{fitted.dropped[0]}' alone is longer than the model's context: leave the row out")
    remaining = iter(fitted.rows)
    return [[next(remaining) for _ in row.choices or ()] for row in rows]


def encode_classes(
    rows: Sequence[Row],
    tokenizer: Any,
    task_format: TaskFormat,
    context_length: int | None,
    classes: Sequence[str] = ("no", "yes"),
) -> Encoded:
    """Prompts, each followed by one "answer token" that is the index of the row's class.

    A model that gives logits over classes (``models.classes``) is so trained, scored and mixed by what does it for
    tokens: one sample a row, a vocabulary of classes. The index is never fed as an input whose output is looked at.
    Rows without an answer get index 0: they are only scored.

    Raises:
        DataError: an answer that is none of the classes, or no row left.
    """
    prompts = _prompt_ids(rows, tokenizer, task_format)
    answers = []
    for row in rows:
        if row.answer is not None and row.answer not in classes:
            raise DataError(
                f"row '{row.id}' has the answer {row.answer!r}: a binary task knows {' and '.join(classes)}"
            )
        answers.append([0 if row.answer is None else list(classes).index(row.answer)])
    return _fit(rows, prompts, answers, task_format, context_length)


def first_answer_token(text: str, tokenizer: Any, task_format: TaskFormat) -> int:
    """Id of the first token of an answer as ``encode_rows`` spells it: a class's verbaliser.

    Raises:
        DataError: a text of which this tokenizer knows nothing.
    """
    return _answer_ids([task_format.option_text(text)], [Row("verbaliser", text)], tokenizer)[0][0]


def token_offsets(encoded: Sequence[EncodedRow]) -> Tensor:
    """int64 ``[row + 1]``: row i owns the answer tokens ``offsets[i]:offsets[i + 1]`` of the flat token axis."""
    import torch

    lengths = torch.tensor([0, *(len(row.input_ids) - row.prompt_length for row in encoded)], dtype=torch.int64)
    return lengths.cumsum(0)


def end_token(tokenizer: Any) -> int:
    """Id of the token that ends an answer.

    Raises:
        DataError: the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            "this tokenizer has no end token (eos_token), so an answer could never end: set one and save it"
        )
    return int(tokenizer.eos_token_id)


def padding_token(tokenizer: Any) -> int:
    """Id that fills padding; the end token where there is no padding token. The mask decides, never the id."""
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else end_token(tokenizer)


def pad_batch(sequences: Sequence[Sequence[int]], pad_token_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """(input ids, attention mask), int64 ``[batch, seq]``, padded on ``side`` ("left" or "right").

    The mask alone tells padding from tokens: ``pad_token_id`` may well be an ordinary token (0 is "!" in GPT-2).
    """
    import torch

    if side not in ("left", "right"):
        raise ConfigError(f"side must be 'left' or 'right', got '{side}'")
    width = max(map(len, sequences), default=0)
    left = side == "left"
    ids = [
        ([pad_token_id] * (width - len(s)) + [*s]) if left else [*s, *[pad_token_id] * (width - len(s))]
        for s in sequences
    ]
    mask = [
        ([0] * (width - len(s)) + [1] * len(s)) if left else ([1] * len(s) + [0] * (width - len(s))) for s in sequences
    ]
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)


def _limit(task_format: TaskFormat, context_length: int | None) -> int | None:
    limits = [limit for limit in (task_format.max_length, context_length) if limit is not None]
    return min(limits) if limits else None


class _Prompts(NamedTuple):
    """Prompt tokens, and how many of the first ones are the tokenizer's own and must survive a cut."""

    ids: list[list[int]]
    start: int


def _plain_ids(texts: Sequence[str], tokenizer: Any, *, literal: bool = False) -> list[list[int]]:
    """Tokens without those the tokenizer adds; ``literal`` spells out special tokens that stand in the text."""
    if not texts:
        return []
    # verbose=False: length is our business here, and the tokenizer's warning would be printed before the cut.
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    return tokenizer(list(texts), split_special_tokens=literal, **options)["input_ids"]


def _prompt_ids(rows: Sequence[Row], tokenizer: Any, task_format: TaskFormat) -> _Prompts:
    """Prompt tokens with the special tokens the tokenizer itself puts first (never those it puts last)."""
    # A chat template, or one of the user's own, may write special tokens; the plain one has none.
    literal = task_format.template == "plain"
    ids = _plain_ids([task_format.prompt(row, tokenizer) for row in rows], tokenizer, literal=literal)
    start = [] if task_format.template == "chat" else _start_tokens(tokenizer)
    return _Prompts([[*start, *prompt] for prompt in ids] if start else ids, len(start))


def _answer_ids(texts: Sequence[str], rows: Sequence[Row], tokenizer: Any) -> list[list[int]]:
    """Answer tokens with the end token.

    Raises:
        DataError: a text of which this tokenizer knows nothing.
    """
    end = end_token(tokenizer)
    if _adds_space(tokenizer):
        texts = [text.removeprefix(" ") for text in texts]
    answers = _plain_ids(texts, tokenizer, literal=True)  # "</s>" in an answer is text, and must not end it
    for row, text, ids in zip(rows, texts, answers, strict=True):
        if not ids:
            raise DataError(f"row '{row.id}': the tokenizer has no token for answer {text!r}; leave the row out")
    return [[*ids, end] for ids in answers]


def _adds_space(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a space before every text (SentencePiece's dummy prefix).

    A text of ours that begins with a space would then begin with two, which the model has hardly seen.
    """
    joint, spaced, bare = _plain_ids(["b: a", " a", "a"], tokenizer)
    return joint[-len(spaced) :] != spaced and joint[-len(bare) :] == bare


def _start_tokens(tokenizer: Any) -> list[int]:
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return list(full[:start])
    return []


def _cut_prompt(prompt: list[int], start: int, room: int) -> list[int]:
    """The first ``start`` tokens and the latest of the others; as it is where it fits, or nothing would be left."""
    if len(prompt) <= room or room <= start:
        return prompt
    return [*prompt[:start], *prompt[start - room :]]


def _fit(
    rows: Sequence[Row],
    prompts: _Prompts,
    answers: Sequence[list[int]],
    task_format: TaskFormat,
    context_length: int | None,
) -> Encoded:
    limit = _limit(task_format, context_length)
    kept: list[EncodedRow] = []
    cut: list[str] = []
    dropped: list[str] = []
    for row, prompt, answer in zip(rows, prompts.ids, answers, strict=True):
        room = len(prompt) if limit is None else limit - len(answer)
        if room <= prompts.start or (len(prompt) > room and task_format.too_long == "drop"):
            dropped.append(row.id)
            continue
        if len(prompt) > room:
            cut.append(row.id)
            prompt = _cut_prompt(prompt, prompts.start, room)
        kept.append(EncodedRow(row.id, [*prompt, *answer], len(prompt)))
    if rows and not kept:
        raise DataError(f"all {len(rows)} rows are over {limit} tokens: raise format.max_length or shorten the rows")
    return Encoded(kept, tuple(cut), tuple(dropped))

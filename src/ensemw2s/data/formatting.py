"""How a row becomes a prompt and how an answer is compared: saved with every ensemble and student."""

from __future__ import annotations

import dataclasses
import re
import string
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError, nearest

Normalisation = Literal["default", "exact", "number", "choice"]
TooLong = Literal["cut", "drop"]
_FIELDS = ("question", "context", "choices")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclasses.dataclass(frozen=True)
class TaskFormat:
    """Prompt template, answer normalisation and length limits of a task.

    The prompt and the answer are tokenised on their own and joined, so that the prompt's tokens are the same in
    training and in decoding; the space between them belongs to the answer.

    Attributes:
        template: "plain", "chat" (the tokenizer's own chat template), or a text of your own that contains
            ``{question}`` and may contain ``{context}`` and ``{choices}``.
        show_choices: list the options, lettered, in the prompt of a row that has some.
        normalisation: "default" (NFKC, lower case, no punctuation at the ends, single spaces), "exact" (ends
            stripped), "number" (the last number, without thousands commas) or "choice" (a letter or a text
            becomes the option it names).
        max_new_tokens: longest answer that is decoded, in tokens, the end token included.
        max_length: longest prompt plus answer in tokens; None takes the model's context.
        too_long: "cut" drops the oldest prompt tokens, "drop" leaves the row out. Both are counted.
    """

    template: str = "plain"
    show_choices: bool = False
    normalisation: Normalisation = "default"
    max_new_tokens: int = 32
    max_length: int | None = None
    too_long: TooLong = "cut"

    def __post_init__(self) -> None:
        if self.template not in ("plain", "chat") and "{question}" not in self.template:
            raise ConfigError(
                f"format.template {self.template!r} is neither 'plain' nor 'chat', and a template of your own must "
                "contain {question}"
            )
        for name in re.findall(r"{(\w*)}", self.template):
            if name not in _FIELDS:
                raise ConfigError(f"unknown field '{{{name}}}' in format.template: {nearest(name, _FIELDS)}")
        for name, kind in (("normalisation", Normalisation), ("too_long", TooLong)):
            if getattr(self, name) not in get_args(kind):
                value = str(getattr(self, name))
                raise ConfigError(f"unknown format.{name} '{value}': {nearest(value, get_args(kind))}")
        if self.max_new_tokens < 1:
            raise ConfigError(f"format.max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.max_length is not None and self.max_length < 2:
            raise ConfigError(f"format.max_length must be at least 2 (or null), got {self.max_length}")

    def prompt(self, row: Row, tokenizer: Any = None) -> str:
        """The prompt's text, up to where the answer begins.

        Raises:
            DataError: template "chat" and a tokenizer without a chat template.
        """
        if self.template == "plain":
            return self._plain(row) + "\nAnswer:"
        if self.template != "chat":
            text = self.template
            values = {"question": row.question, "context": row.context or "", "choices": _lettered(row)}
            return re.sub(r"{(\w+)}", lambda match: values[match[1]], text)
        if not getattr(tokenizer, "chat_template", None):
            raise DataError(
                "format.template is 'chat', but this tokenizer has no chat template: use 'plain', "
                "or a tokenizer that has one"
            )
        message = [{"role": "user", "content": self._plain(row)}]
        return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def answer_text(self, row: Row) -> str:
        """What follows the prompt in training: the answer with its leading space (none after a chat template)."""
        if row.answer is None or not row.answer.strip():
            raise DataError(f"row '{row.id}' has no answer to train on: give one, or leave the row out")
        return row.answer.strip() if self.template == "chat" else f" {row.answer.strip()}"

    def option_text(self, option: str) -> str:
        """An option as a candidate answer, spaced like ``answer_text``."""
        return option.strip() if self.template == "chat" else f" {option.strip()}"

    def normalise(self, text: str, row: Row | None = None) -> str:
        """The form in which answers are compared."""
        if self.normalisation == "exact":
            return text.strip()
        plain = _squeezed(text)
        if self.normalisation == "number":
            numbers = _NUMBER.findall(text)
            return _plain_number(numbers[-1]) if numbers else plain
        if self.normalisation == "choice" and row is not None and row.choices:
            options = [_squeezed(choice) for choice in row.choices]
            if plain not in options and re.fullmatch(r"[a-z]", plain) and ord(plain) - ord("a") < len(options):
                return options[ord(plain) - ord("a")]
        return plain

    def same_answer(self, one: str, other: str, row: Row | None = None) -> bool:
        """Whether two answers are the same after normalisation."""
        return self.normalise(one, row) == self.normalise(other, row)

    def to_dict(self) -> dict[str, Any]:
        """JSON data; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskFormat:
        """Read what ``to_dict`` wrote.

        Raises:
            ConfigError: an unknown key, or a value out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown format setting '{key}': {nearest(str(key), known)}")
        return cls(**values)

    def _plain(self, row: Row) -> str:
        lines = [row.context] if row.context else []
        lines.append(f"Question: {row.question}")
        if self.show_choices and row.choices:
            lines.append(_lettered(row))
        return "\n".join(lines)


def _squeezed(text: str) -> str:
    """NFKC, lower case, single spaces, no punctuation at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).strip(string.punctuation + " ")


def _lettered(row: Row) -> str:
    return "\n".join(f"{string.ascii_uppercase[i % 26]}. {choice}" for i, choice in enumerate(row.choices or ()))


def _plain_number(text: str) -> str:
    number = text.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number

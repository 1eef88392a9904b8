"""How a row becomes a prompt and how an answer is compared: saved with every ensemble and student."""

from __future__ import annotations

import dataclasses
import re
import string
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal, get_args

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError, nearest, shown

Normalisation = Literal["default", "exact", "number", "choice"]
TooLong = Literal["cut", "drop"]
_KIND_NAMES = {
    "template": "a text",
    "max_new_tokens": "a whole number",
    "max_length": "a whole number or null",
    "show_choices": "true or false",
    "preamble": "a text",
}
_FIELDS = ("question", "context", "choices")
# A sign only where no word or number goes before it: "7-5" ends in 5. Commas only between groups of three digits.
_NUMBER = re.compile(r"(?:(?<![\w.)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))")
# Punctuation and quotes of other scripts too, and the ASCII signs ($, %, +) that `string.punctuation` counts.
_ENDS = string.punctuation + " ¡¿«»‹›‘’‚‛“”„‟…·•、。「」『』–—―"
_MINUS = str.maketrans("\u2212\u2012\u2013", "---")


@dataclasses.dataclass(frozen=True)
class TaskFormat:
    """Prompt template, answer normalisation and length limits of a task.

    The prompt and the answer are tokenised on their own and joined, so that the prompt's tokens are the same in
    training and in decoding; the space between them belongs to the answer.

    Attributes:
        template: "plain", "chat" (the tokenizer's own chat template), or a text of your own that contains
            ``{question}`` and may contain ``{context}`` and ``{choices}``.
        show_choices: list the options, lettered, in the prompt of a row that has some.
        normalisation: "default" (NFKC, lower case, no punctuation at the ends but a number's sign, single spaces),
            "exact" (ends stripped), "number" (the last number, without thousands commas) or "choice" (the letter of
            an option, its number counted from 1, or both before its text: "B", "2", "(b) Paris" become "paris").
        max_new_tokens: longest answer that is decoded, in tokens, the end token included.
        max_length: longest prompt plus answer in tokens; None takes the model's context.
        too_long: "cut" drops the oldest prompt tokens, "drop" leaves the row out. Both are counted.
        preamble: text before every prompt: an instruction, or worked examples.
    """

    template: str = "plain"
    show_choices: bool = False
    normalisation: Normalisation = "default"
    max_new_tokens: int = 32
    max_length: int | None = None
    too_long: TooLong = "cut"
    preamble: str = ""

    def __post_init__(self) -> None:
        for name, kinds in (
            ("template", str),
            ("max_new_tokens", int),
            ("max_length", int | None),
            ("show_choices", bool),
            ("preamble", str),
        ):
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
                raise ConfigError(f"format.{name} must be {_KIND_NAMES[name]}, got {value!r}")
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
        before = f"{self.preamble}\n\n" if self.preamble else ""
        if self.template == "plain":
            return f"{before}{self._plain(row)}\nAnswer:"
        if self.template != "chat":
            text = self.template
            values = {"question": row.question, "context": row.context or "", "choices": _lettered(row)}
            return before + re.sub(r"{(\w+)}", lambda match: values[match[1]], text)
        if not getattr(tokenizer, "chat_template", None):
            raise DataError(
                "format.template is 'chat', but this tokenizer has no chat template: use 'plain', "
                "or a tokenizer that has one"
            )
        message = [{"role": "user", "content": before + self._plain(row)}]
        return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def example(self, row: Row) -> str:
        """A labelled row as text, question and answer: one example of a few-shot ``preamble``."""
        form = dataclasses.replace(self, preamble="", template="plain" if self.template == "chat" else self.template)
        return form.prompt(row) + form.answer_text(row)

    def answer_text(self, row: Row) -> str:
        """What follows the prompt in training: the row's answer as ``option_text`` spaces it.

        Raises:
            DataError: the row has no answer.
        """
        if row.answer is None or not row.answer.strip():
            raise DataError(f"row '{row.id}' has no answer to train on: give one, or leave the row out")
        return self.option_text(row.answer)

    def option_text(self, option: str) -> str:
        """An answer with the space that belongs before it: none after a chat template, or where the prompt has one."""
        spaced = self.template == "chat" or self.template[-1:].isspace()
        return option.strip() if spaced else f" {option.strip()}"

    def normalise(self, text: str, row: Row | None = None) -> str:
        """The form in which answers are compared."""
        if self.normalisation == "exact":
            return text.strip()
        plain = _squeezed(text)
        if self.normalisation == "number":
            numbers = [
                found for found in _NUMBER.findall(unicodedata.normalize("NFKC", text).translate(_MINUS)) if found
            ]
            return _plain_number(numbers[-1]) if numbers else plain
        if self.normalisation == "choice" and row is not None and row.choices:
            return _named_option(plain, [_squeezed(choice) for choice in row.choices])
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
        if not isinstance(values, Mapping):
            raise ConfigError(f"a task format is an object of settings, got {shown(values)}")
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
    """NFKC, lower case, single spaces, no punctuation at the ends. What is punctuation only stays."""
    line = " ".join(unicodedata.normalize("NFKC", text).translate(_MINUS).lower().split())
    bare = line.rstrip(_ENDS)
    start = len(bare) - len(bare.lstrip(_ENDS))
    # "-5" is not 5, and "-.5" is not 5 either: a number keeps its sign and its point.
    number = re.search(r"(?:(?<!-)-)?\.?$", bare[:start]) if bare[start : start + 1].isdigit() else None
    return bare[number.start() if number else start :] or line


def _named_option(plain: str, options: list[str]) -> str:
    """The option a text names: its own text first, then its letter or number (from 1), maybe with its text after."""
    if plain in options:
        return plain
    found = re.fullmatch(r"([a-z]|\d+)(?:[\s.):]+(.+))?", plain)
    if found is None:
        return plain
    name, text = found.groups()
    index = int(name) - 1 if name.isdigit() else string.ascii_lowercase.index(name)
    named = options[index] if 0 <= index < len(options) else None
    return named if named is not None and text in (None, named) else plain


def _lettered(row: Row) -> str:
    return "\n".join(f"{string.ascii_uppercase[i % 26]}. {choice}" for i, choice in enumerate(row.choices or ()))


def _plain_number(text: str) -> str:
    """Without commas, leading zeros and a trailing fraction of zeros; minus zero is zero."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, fraction = digits.replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return number if number == "0" else sign + number

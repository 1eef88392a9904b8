"""Code blocks and commands of Markdown pages, without any annotation in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
PROGRAMS = ("ensemw2s", "python", "pip", "torchrun", "accelerate", "tensorboard", "lm-eval", "export", "git", "twine",
            "pytest", "python3.13")  # fmt: skip
_FENCE = re.compile(r"^(`{3,})\s*(\w*)\s*$")
_VARIABLE = re.compile(r"^[A-Z_][A-Z0-9_]*=\S*$")
_LIST = re.compile(r"^\s*([-*]|\d+\.) +")


class Block(NamedTuple):
    """A code block: its language ("" where indented or not said), its text, and the line it begins at."""

    language: str
    text: str
    line: int


class Command(NamedTuple):
    """A command line of a page.

    Attributes:
        page: relative to the project.
        line: where it stands.
        words: as a shell would split it; variables before it and comments are gone.
    """

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def pages() -> list[str]:
    """Every page whose code is tested, relative to the project."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/plugin/README.md"]
    return [path.relative_to(ROOT).as_posix() for path in [*found, *sorted((ROOT / "docs").rglob("*.md"))]]


def blocks(text: str) -> list[Block]:
    """All fenced blocks, and those indented by four spaces after a blank line; in a list by four more than its text."""
    found: list[Block] = []
    lines, number, indent = text.splitlines(), 0, 4
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence:
            end = next((i for i in range(number + 1, len(lines)) if lines[i].startswith(fence[1])), len(lines))
            found.append(Block(fence[2], "\n".join(lines[number + 1 : end]), number + 2))
            number = end + 1
            continue
        if line.strip() and not line.startswith(" "):
            item = _LIST.match(line)
            indent = 4 + (len(item[0]) if item else 0)
        if line.startswith(" " * indent) and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith(" " * indent) or not lines[end].strip()):
                end += 1
            found.append(Block("", "\n".join(each[indent:] for each in lines[number:end]).rstrip(), number + 1))
            number = end
            continue
        number += 1
    return found


def commands(page: str) -> list[Command]:
    """The commands of a page: lines of ``sh`` and indented blocks that begin with a known program.

    Raises:
        ValueError: a line of an ``sh`` block begins with none.
    """
    found = []
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if block.language not in ("", "sh", "console"):
            continue
        text = re.sub(r" *\\\n\s*", " ", block.text)
        for offset, line in enumerate(text.splitlines()):
            for words in _words(line):
                if words[0] in PROGRAMS or words[0].startswith("scripts/"):
                    found.append(Command(page, block.line + offset, tuple(words)))
                elif block.language:
                    raise ValueError(f"{page}:{block.line + offset}: '{words[0]}' is no program that tests know")
    return found


def _words(line: str) -> list[list[str]]:
    """A line as a shell splits it, at ``&&`` into several commands.

    Without prompt, variables before a command, the environment's folder, and an explanation in another column.
    """
    line = re.sub(r"\s{3,}(?=[a-z]).*$", "", line.strip().removeprefix("$ "))
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose or code of another language
        return []
    found: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            found.append([])
        elif found[-1] or word == "export" or not _VARIABLE.match(word):
            found[-1].append(word if found[-1] else word.removeprefix(".venv/bin/").removeprefix(".venv313/bin/"))
    return [words for words in found if words]


def outputs(page: str) -> list[tuple[Block, str | None]]:
    """The ``python`` blocks of a page, each with the ``text`` block that follows it and shows what it prints."""
    every = blocks((ROOT / page).read_text(encoding="utf-8"))
    return [
        (block, after.text if after is not None and after.language == "text" else None)
        for block, after in zip(every, [*every[1:], None][: len(every)], strict=True)
        if block.language == "python"
    ]

"""The pages of the reference that are written by the code itself: commands, settings, names."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any


def commands() -> str:
    """Every verb's ``--help``, as the command line prints it."""
    os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "100"
    from typer.main import get_command

    from ensemw2s.cli.main import _register, app

    if not app.registered_commands:
        _register()
    lines = ["# Commands", "", "Written by `ensemw2s VERB --help` when the site is built.", ""]
    for title, text in _helps(get_command(app), "ensemw2s"):
        lines += [f"## {title}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(lines)


def _helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """Title and help of a command, and of all below it."""
    with command.make_context(name, [], resilient_parsing=True, terminal_width=100) as context:
        context.info_name, context.parent = name, None
        yield name, _width(command.get_help(context))
    for child in getattr(command, "commands", {}).values():
        yield from _helps(child, f"{name} {child.name}")


def _width(text: str) -> str:
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def settings() -> str:
    """Every setting of a run with its default and meaning, section by section."""
    from ensemw2s.experiment.config import Config

    lines = [
        "# Settings", "",
        "What a configuration may say: a YAML file with these sections, or `section.key=value` on the command line. "
        "Defaults are those of a file that names no `preset`. Written from the code when the site is built.", "",
    ]  # fmt: skip
    hints = typing.get_type_hints(Config)
    lines += ["## The run", "", *_table(Config, [f for f in dataclasses.fields(Config) if not _section(hints[f.name])])]
    for field in dataclasses.fields(Config):
        if _section(hints[field.name]):
            kind = hints[field.name]
            lines += ["", f"## {field.name}", "", _first_line(kind), ""]
            lines += _table(kind, list(dataclasses.fields(kind)), field.default)
    return "\n".join(lines) + "\n"


def _section(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _table(owner: Any, fields: list[dataclasses.Field[Any]], given: Any = None) -> list[str]:
    meanings = _attributes(owner)
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for field in fields:
        default = getattr(given, field.name) if given is not None else _default(field)
        rows.append(f"| `{field.name}` | {_shown(default)} | {_cell(meanings[field.name])} |")
    return rows


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]


def _shown(value: Any) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)):
        return "`[" + ", ".join(map(str, value)) + "]`"
    return f"`{value}`" if value != "" else "empty"


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _attributes(owner: Any) -> dict[str, str]:
    """The ``Attributes:`` of a docstring: name to meaning. Names may share an entry: ``pool, test_id: ...``."""
    _, _, text = (owner.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    current: list[str] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        start = re.match(r"^([\w, ]+): (.*)", line.strip()) if indent == 8 else None
        if start:
            current = [name.strip() for name in start[1].split(",")]
            found.update(dict.fromkeys(current, start[2]))
        elif indent > 8:
            found.update({name: f"{found[name]} {line.strip()}" for name in current})
        elif line.strip():
            break
    return found


def _first_line(item: Any) -> str:
    return _cell((item.__doc__ or "").strip().splitlines()[0])


def names() -> str:
    """Everything registered that a configuration can name: what ``ensemw2s list`` prints, with whole docstrings."""
    from ensemw2s.boosting.priors import PRIORS
    from ensemw2s.cli.listing import KINDS, _entries

    lines = [
        "# Names", "", "What a configuration can name, as `ensemw2s list` prints it; written when the site is built. "
        "A package of your own adds to it: [a plug-in](../how-to/plugin.md).", "",
    ]  # fmt: skip
    for kind in KINDS:
        lines += _names(kind, _entries(kind))
    lines += _names("priors", [(name, _first_line(prior)) for name, prior in PRIORS.items()])
    return "\n".join(lines) + "\n"


def _names(title: str, entries: list[tuple[str, str]]) -> list[str]:
    rows = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in entries]
    return [f"## {title}", "", "| name | what it is |", "| --- | --- |", *rows, ""]


PAGES: dict[str, Callable[[], str]] = {"commands": commands, "settings": settings, "names": names}

"""Every command of README and pages: run for real where that takes moments, else held to the parser and the files.

A server is made and does not listen. What is not run stands in ``ELSEWHERE``, with the test that runs its like.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from dockit.pages import ROOT, Command, commands, pages

#: Programs and options for which a command of ours is parsed and not run; and why.
ELSEWHERE = {
    "torchrun": "several processes; tests/parallel",
    "accelerate": "several processes; tests/parallel",
    "--executor": "a Ray cluster; tests/executors",
    "--workers": "several processes; tests/executors",
    "wandb": "an account, or its library; tests/unit/experiment tracks",
    "trackio": "its library; tests/unit/experiment tracks",
    "arc-qwen": "rows of the hub; tests/unit/data reads a fake one",
    "--tasks": "lm-eval reads all its own tasks first; the page's snippet runs the task over rows of one's own",
    "halves": "the example plug-in; tests/docs/test_plugin.py installs and runs it",
}
#: Words that stand for what a reader puts there.
STANDS_FOR = {
    "MODEL": "w2s-weak", "models.weak=MODEL": "models.weak=w2s-weak", "models.strong=MODEL": "models.strong=w2s-strong",
    "CONFIG": "tiny", "CONFIG.yaml": "tiny", "STUDY": "tiny",
}  # fmt: skip

EVERY = [command for page in pages() for command in commands(page)]


def ours(command: Command) -> tuple[str, ...] | None:
    """What follows ``ensemw2s`` (also as ``-m ensemw2s``), with stand-ins put in; None for other programs and synopses."""
    words = command.words
    if words[0] != "ensemw2s":
        if "-m" not in words or words[words.index("-m") + 1] != "ensemw2s":
            return None
        words = words[words.index("-m") + 1 :]
    if any(word.startswith("[") and "=" not in word.split("]")[0] for word in words):
        return None  # a synopsis such as [CONFIG.yaml] [--devices 8]
    rows = "rows.jsonl"
    if "split.weak_train=null" in words:  # the quickstart's counts of the other splits stay
        rows = "many.jsonl"
    if words[1] == "rate":
        rows = "labelled.jsonl"  # few
    return tuple(STANDS_FOR.get(word, word.replace("rows.jsonl", rows)) for word in words[1:])


def why_elsewhere(command: Command) -> str | None:
    text = " ".join(command.words)
    return next((why for piece, why in ELSEWHERE.items() if piece in text), None)


@pytest.fixture(scope="module")
def app() -> Any:
    from typer.main import get_command

    from ensemw2s.cli.main import _register
    from ensemw2s.cli.main import app as typer_app

    if not typer_app.registered_commands:
        _register()
    return get_command(typer_app)


def parse(app: Any, words: Sequence[str]) -> None:
    """Hold a command to the parser: verb, options, types. Configurations are read too."""
    from ensemw2s.experiment.grid import load_study
    from ensemw2s.experiment.presets import load_config

    with app.make_context("ensemw2s", list(words)) as root:
        verb, child, rest = app.resolve_command(root, [*root._protected_args, *root.args])
        with child.make_context(verb, rest, parent=root) as context:
            arguments = [p.name for p in child.params if p.param_type_name == "argument"]
            given = (
                list(context.params[arguments[0]] or ()) if arguments and verb in ("run", "explain", "study") else []
            )
    if verb in ("run", "explain"):
        source = given.pop(0) if given and "=" not in given[0] else None
        load_config(source, given)
    if verb == "study":
        load_study(given[0], given[1:])


def run(app: Any, words: Sequence[str]) -> None:
    """Run a command of ours in this process; it must succeed."""
    from typer.testing import CliRunner

    from ensemw2s.cli.main import app as typer_app

    done = CliRunner().invoke(typer_app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output


def made_short(words: Sequence[str]) -> tuple[str, ...]:
    """Whole runs and studies larger than ``tiny`` say what they would do and stop; one over rows makes few systems."""
    long = words[0] == "study" or (words[0] == "run" and (len(words) == 1 or words[1] != "tiny"))
    few = words[:2] == ("run", "tiny") and "data.source=rows.jsonl" in words and "systems=" not in " ".join(words)
    more = ("--dry-run",) if long and "--dry-run" not in words else ("systems=[weak,student_from_weak]",) if few else ()
    return (*words, *more)


@pytest.mark.parametrize("page", sorted({command.page for command in EVERY if ours(command)}))
def test_our_commands_do_what_the_page_says(
    app: Any, page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "work"))
    monkeypatch.setattr("ensemw2s.server.running.run", lambda app, *_, **__: app.state.service.engine.close())
    for command in commands(page):
        words = ours(command)
        if words is None:
            continue
        try:
            if why_elsewhere(command):
                if "halves" not in " ".join(words):
                    parse(app, words)
            else:
                run(app, made_short(words))
        except Exception as error:
            raise AssertionError(f"{command}: {error}") from error


@pytest.mark.parametrize("command", [command for command in EVERY if not ours(command)], ids=str)
def test_other_programs_find_what_they_are_given(command: Command) -> None:
    program, *words = command.words
    if program == "ensemw2s":
        synopsis = " ".join(words)
        assert words[0] in ("plan", "run"), f"a synopsis of '{words[0]}': say in this test how to check it"
        source = "".join(path.read_text() for path in (ROOT / "src/ensemw2s/cli").glob("*.py"))
        assert all(option[2:].replace("-", "_") in source for option in re.findall(r"--[a-z-]+", synopsis))
    elif program == "pip":
        check_pip(words)
    elif program in ("python", "python3.13"):
        check_script(words)
    elif program.startswith("scripts/"):
        path = ROOT / program
        assert path.is_file()
        assert path.stat().st_mode & 0o100
    elif program == "pytest":
        assert (ROOT / words[0]).exists()
    elif program == "git":
        assert words[0] in ("archive", "push", "tag")
    elif program == "twine":
        assert words[0] in ("check", "upload")
    elif program == "export":
        name = words[0].split("=")[0]
        assert any(name in path.read_text() for path in (ROOT / "src").rglob("*.py")), name
    elif program == "tensorboard":
        assert words[0] == "--logdir"
        assert any(entry.startswith("tensorboard") for entry in project()["dependencies"])
    else:
        assert program == "lm-eval", command
        assert "--model" in words


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def check_pip(words: Sequence[str]) -> None:
    """``pip install`` of extras that there are, of a folder that there is, with a file of constraints that there is."""
    assert words[0] == "install"
    for before, target in zip(words, words[1:], strict=False):
        extra = re.fullmatch(r"(?:ensemw2s|\.)\[([\w,]+)\]", target)
        if extra:
            assert set(extra[1].split(",")) <= set(project()["optional-dependencies"])
        elif before in ("-c", "-r"):
            assert (ROOT / target).is_file(), target
        elif not target.startswith("-"):
            assert (ROOT / target / "pyproject.toml").is_file(), target


def check_script(words: Sequence[str]) -> None:
    """A script that there is and that knows these options; or ``-m`` and a module that there is."""
    if words[0] == "-m":
        assert find_spec(words[1]) is not None, words[1]
        if words[1] == "pytest":
            assert all((ROOT / word).exists() for word in words[2:] if not word.startswith("-") and " " not in word)
        return
    text = (ROOT / words[0]).read_text(encoding="utf-8")
    unknown = [word for word in words[1:] if word.startswith("--") and word not in text]
    assert not unknown, unknown


def test_commands_named_in_prose_exist(app: Any) -> None:
    """`ensemw2s label --validation` and the like: the verb is there, and so are the options."""
    for page in pages():
        for text in re.findall(r"`ensemw2s ([a-z-]+[^`\n]*)`", (ROOT / page).read_text(encoding="utf-8")):
            command, words = app, text.split()
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            assert command is not app or words[0].startswith("--"), f"{page}: no verb in 'ensemw2s {text}'"
            known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
            said = {word.rstrip(",.;") for word in words if word.startswith("--")}
            assert command.name == "lm-eval" or said <= known | {"--help"}, f"{page}: 'ensemw2s {text}'"


def test_reasons_are_still_needed() -> None:
    said = "\n".join(" ".join(command.words) for command in EVERY)
    assert all(piece in said for piece in ELSEWHERE)

"""``ensemw2s lm-eval``: everything is passed on, and what the user can mend is one line and exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'ensemw2s[eval]'")

import lm_eval.__main__
import lm_eval.tasks
from lm_eval.api.registry import get_model

from ensemw2s.cli.main import main
from ensemw2s.ensemble.folder import ENSEMBLE_FILE
from ensemw2s.errors import PrerequisiteError
from ensemw2s.harness import launch
from ensemw2s.harness.model import EnsembleLM
from ensemw2s.models.loading import load_model, load_tokenizer, save_model

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index of lm-eval's own tasks, which takes seconds to make, and no log handlers that outlive the test."""
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    monkeypatch.setattr(lm_eval.__main__, "setup_logging", lambda: None)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ensemw2s", "lm-eval", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        shown = capsys.readouterr()
        return int(left.value.code or 0), shown.out, shown.err

    return run


def test_everything_is_passed_on(call: Call, folder: Path, tasks: Path, tmp_path: Path) -> None:
    code, shown, _ = call(
        "--model", "ensemw2s", "--model_args", f"pretrained={folder},engine=turns", "--tasks", "local_choose,local_say",
        "--include_path", tasks, "--output_path", tmp_path / "out", "--log_samples", "--limit", "5",
        "--gen_kwargs", "max_gen_toks=3",
    )  # fmt: skip
    assert code == 0
    assert "|local_choose|" in shown
    written = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    assert written["n-samples"]["local_choose"]["effective"] == 5
    assert written["config"]["ensemble_rule"] == "mean"
    assert written["config"]["ensemble_engine"] == "turns"
    assert written["config"]["batch_size"] == "auto"
    samples = next((tmp_path / "out").rglob("samples_local_say_*.jsonl")).read_text().splitlines()
    assert len(samples) == 5
    tokenizer = load_tokenizer("w2s-weak")
    assert all(len(tokenizer(json.loads(sample)["resps"][0][0])["input_ids"]) <= 3 for sample in samples)


def test_help_is_lm_evals_own(call: Call) -> None:
    code, shown, _ = call("run", "--help")
    assert code == 0
    assert "--include_path" in shown
    code, shown, _ = call("--help")
    assert code == 0
    assert "validate" in shown


def test_a_folder_that_is_no_ensemble(call: Call, tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    save_model(load_model("w2s-weak"), load_tokenizer("w2s-weak"), tmp_path / "plain" / "model")
    _refused(call, tasks, f"pretrained={tmp_path / 'plain' / 'model'}", "holds no ensemble (ensemble.json is missing)")


def test_a_folder_that_is_not_there(call: Call, tasks: Path, tmp_path: Path) -> None:
    _refused(call, tasks, f"pretrained={tmp_path / 'nowhere'}", "nowhere")


def test_a_yes_no_ensemble(call: Call, tasks: Path, folder: Path, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.mkdir()
    settings = json.loads((folder / ENSEMBLE_FILE).read_text())
    (binary / ENSEMBLE_FILE).write_text(json.dumps({**settings, "task": "binary"}))
    for name in settings["experts"]:
        (binary / name).mkdir()
    _refused(call, tasks, f"pretrained={binary}", "holds a yes/no ensemble, which writes no text")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("dtype=float32", "needs an ensemble: give --model_args pretrained=FOLDER"),
        ("pretrained=x,revison=main", "model type 'ensemw2s' has no argument 'revison'"),
        ("pretrained=x,dtype=int7", "unknown dtype 'int7'"),
        ("pretrained=x,device=tpu", "unknown device 'tpu'"),
    ],
)
def test_unusable_arguments(call: Call, tasks: Path, arguments: str, said: str) -> None:
    _refused(call, tasks, arguments, said)


def test_what_lm_eval_refuses_itself(call: Call, folder: Path, tasks: Path) -> None:
    ours = ("--model", "ensemw2s", "--model_args", f"pretrained={folder}")
    code, _, said = call(*ours, "--tasks", "no_such_task", "--include_path", tasks)
    assert (code, _last(said)) == (2, "error: lm-eval: Tasks not found: no_such_task")
    code, _, said = call("--model", "no_such_type", "--tasks", "local_say", "--include_path", tasks)
    assert code == 2
    assert _last(said).startswith("error: lm-eval: ")
    assert "'no_such_type'" in _last(said)
    code, _, said = call(*ours, "--tasks", "local_say", "--no_such_option", "1")
    assert code == 2
    assert "unrecognized arguments: --no_such_option" in said


def test_tasks_that_cannot_be_read(call: Call, folder: Path, tmp_path: Path) -> None:
    ours = ("--model", "ensemw2s", "--model_args", f"pretrained={folder}", "--tasks")
    gone = f"task: gone\noutput_type: generate_until\ndataset_path: json\ndataset_kwargs: {{data_files: {tmp_path}/no.jsonl}}"
    (tmp_path / "gone.yaml").write_text(gone + "\ntest_split: train\ndoc_to_text: a\ndoc_to_target: b\n")
    code, _, said = call(*ours, "gone", "--include_path", tmp_path)
    assert (code, "Unable to find" in _last(said), "no.jsonl" in _last(said)) == (2, True, True)
    (tmp_path / "bad.yaml").write_text("task: [bad\n")
    code, _, said = call(*ours, tmp_path / "bad.yaml")
    assert code == 2
    assert _last(said).startswith("error: lm-eval: ")


def test_a_bug_keeps_its_traceback(call: Call, folder: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr(EnsembleLM, "loglikelihood", broken)
    monkeypatch.setattr(
        sys, "argv",
        ["ensemw2s", "lm-eval", "--model", "ensemw2s", "--model_args", f"pretrained={folder}", "--tasks",
         "local_choose", "--include_path", str(tasks)],
    )  # fmt: skip
    with pytest.raises(ValueError, match="a bug"):
        main()


def test_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'ensemw2s\[eval\]'"):
        launch.register()


def test_registering_twice_does_nothing() -> None:
    launch.register()
    launch.register()
    assert get_model("ensemw2s") is EnsembleLM
    launch.register()


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ("--model ensemw2s", "--device auto --batch_size auto"),
        ("-M ensemw2s -b 4", "--device auto"),
        ("--model=ensemw2s --device=cpu", "--batch_size auto"),
        ("--model hf", ""),
        ("--model ensemw2s --config c.yaml", ""),
        ("ls tasks", ""),
    ],
)
def test_defaults(given: str, added: str) -> None:
    assert launch.with_defaults(given.split()) == [*given.split(), *added.split()]


def _refused(call: Call, tasks: Path, arguments: str, said: str) -> None:
    code, _, error = call(
        "--model", "ensemw2s", "--model_args", arguments, "--tasks", "local_say", "--include_path", tasks
    )
    assert code == 2
    assert "Traceback" not in error
    assert _last(error).startswith("error: ")
    assert said in _last(error)


def _last(said: str) -> str:
    """lm-eval's log goes to the same place, before."""
    return said.strip().splitlines()[-1]

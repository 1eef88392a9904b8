"""Killed, damaged, changed: what a labelling that is started again does."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.artifacts import read_json, write_json
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.errors import CacheError, ConfigError
from ensemw2s.labelling import LabelReport, label_rows, label_stream
from ensemw2s.labelling.folder import finished_parts
from ensemw2s.labelling.labels import Label, Labelled, TokenColumns

FORM = TaskFormat(template="{question}", max_new_tokens=6)


class Echo:
    """Labels a row with its own question, and counts the windows it was asked for."""

    def __init__(self) -> None:
        self.windows: list[list[str]] = []

    def label(self, rows: Sequence[Row], progress: Callable[[int, int], None]) -> Labelled:
        self.windows.append([row.id for row in rows])
        return Labelled({r.id: Label(r.question, 0.5, 1.0) for r in rows if r.id != "q5"}, {"q5": "no reason"})

    def tokens(self, rows: Sequence[Row]) -> TokenColumns | None:
        return None


def echo(rows: Any, folder: Path, labeller: Echo | None = None, **changes: Any) -> LabelReport:
    settings: dict[str, Any] = {"ensemble": "e1", "settings": {"votes": False}, "window": 4} | changes
    return label_rows(labeller or Echo(), rows, folder, **settings)


def plain(count: int) -> list[Row]:
    return [Row(f"q{number}", f"what is {number}?") for number in range(count)]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_finished_labelling_is_not_repeated(tmp_path: Path) -> None:
    first = echo(plain(10), tmp_path / "l")
    before = everything(tmp_path / "l")
    labeller = Echo()
    again = echo(plain(10), tmp_path / "l", labeller)
    assert labeller.windows == []
    assert (first.reused, again.reused, again.parts) == (0, 3, 3)
    assert (again.rows, again.labelled, again.skipped, again.examples) == (10, 9, 1, {"q5": "no reason"})
    assert everything(tmp_path / "l") == before


@pytest.mark.parametrize("stop", [0, 3, 4, 7, 8, 9])
def test_a_stream_that_fails_resumes_to_equal_bytes(tmp_path: Path, stop: int) -> None:
    echo(plain(10), tmp_path / "whole")

    def failing() -> Iterator[Row]:
        yield from plain(10)[: stop + 1]
        raise OSError("the line went dead")

    with pytest.raises(OSError, match="dead"):
        echo(failing(), tmp_path / "cut")
    with pytest.raises(CacheError, match="not complete"):
        finished_parts(tmp_path / "cut")
    labeller = Echo()
    echo(plain(10), tmp_path / "cut", labeller)
    assert len(labeller.windows) == 3 - (stop + 1) // 4
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["flip", "shorten", "remove", "record"])
def test_a_damaged_part_is_made_again_and_no_other(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "l"
    echo(plain(10), folder)
    before = everything(folder)
    part, record = folder / "part-00001.parquet", folder / "_parts" / "part-00001.json"
    data = part.read_bytes()
    if harm == "flip":
        part.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    elif harm == "shorten":
        part.write_bytes(data[:-7])
    elif harm == "remove":
        part.unlink()
    else:
        record.write_text('{"sha256": ')
    with pytest.raises(CacheError, match=r"part-00001.parquet is damaged \(checksum differs\)"):
        finished_parts(folder)
    labeller = Echo()
    echo(plain(10), folder, labeller)
    assert labeller.windows == [["q4", "q5", "q6", "q7"]]
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ensemble": "e2"}, "holds labels of another ensemble: name another folder, or start over with --restart"),
        ({"settings": {"votes": True}}, r"holds labels of other settings \(votes was false, now true\)"),
        ({"min_confidence": 0.2}, r"min_confidence was 0.0, now 0.2"),
        ({"window": 5}, r"window was 4, now 5"),
        ({"source": "other"}, "holds labels of other questions: name another"),
    ],
)
def test_another_labelling_on_the_folder_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    echo(plain(10), tmp_path / "l")
    before, labeller = everything(tmp_path / "l"), Echo()
    with pytest.raises(ConfigError, match=words) as error:
        echo(plain(10), tmp_path / "l", labeller, **changes)
    assert "\n" not in str(error.value)
    assert labeller.windows == []
    assert everything(tmp_path / "l") == before
    echo(plain(10), tmp_path / "l", labeller, restart=True, **changes)
    assert sum(map(len, labeller.windows)) == 10


@pytest.mark.parametrize("column", ["question", "answer", "context", "choices", "difficulty", "raw", "id"])
def test_changed_rows_are_refused(tmp_path: Path, column: str) -> None:
    values = {"choices": ("a", "b"), "difficulty": 1.0, "raw": {"mine": 1}}
    rows = plain(10)
    echo(rows, tmp_path / "l")
    rows[6] = dataclasses.replace(rows[6], **{column: values.get(column, "new")})
    with pytest.raises(ConfigError, match=r"other questions \(from part-00001.parquet on\)"):
        echo(rows, tmp_path / "l")


def test_fewer_rows_are_refused(tmp_path: Path) -> None:
    echo(plain(10), tmp_path / "l")
    with pytest.raises(ConfigError, match="more questions than were given now"):
        echo(plain(8), tmp_path / "l")


def test_restart_leaves_no_old_part(tmp_path: Path) -> None:
    echo(plain(30), tmp_path / "l")
    echo(plain(10), tmp_path / "l", restart=True)
    echo(plain(10), tmp_path / "other")
    assert everything(tmp_path / "l") == everything(tmp_path / "other")


def test_foreign_folders_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "part-00000.parquet").write_text("somebody's own")
    (tmp_path / "file").write_text("a file")
    for restart in (False, True):
        with pytest.raises(ConfigError, match="holds files that are no labels of ours"):
            echo(plain(3), tmp_path / "l", restart=restart)
        with pytest.raises(ConfigError, match="is a file: name a folder"):
            echo(plain(3), tmp_path / "file", restart=restart)
    assert (tmp_path / "l" / "part-00000.parquet").read_text() == "somebody's own"


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    echo(plain(3), tmp_path / "l")
    write_json(tmp_path / "l" / "_labels.json", read_json(tmp_path / "l" / "_labels.json") | {"format_version": 9})
    with pytest.raises(ConfigError, match="another version of this program"):
        echo(plain(3), tmp_path / "l")


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_killed_at_any_moment_it_resumes_to_equal_bytes(
    tmp_path: Path, experts: list[Any], tokenizer: Any, make_rows: Callable[..., list[Row]], seed: int
) -> None:
    server = multiprocessing.get_context("forkserver")  # imports once, and never computes itself
    server.set_forkserver_preload(
        ["ensemw2s.labelling", "transformers.models.gpt_neox.modeling_gpt_neox", "pyarrow.parquet"]
    )
    settings = {"tokenizer": tokenizer, "task_format": FORM, "soft_top_k": 2, "votes": True, "label_by": "options",
                "batch_size": 4, "window": 6}  # fmt: skip

    def start(name: str) -> Any:
        work = (experts, [1.5, 1.0, 0.7], "mean", make_rows(150), tmp_path / name)
        child = server.Process(target=label_stream, args=work, kwargs=settings)
        child.start()
        return child

    draws, cut = random.Random(seed), tmp_path / "cut"
    for parts in sorted(draws.sample(range(13), 4)):
        child = start("cut")
        while len(list(cut.glob("part-*.parquet"))) < parts and child.is_alive():
            time.sleep(0.001)
        time.sleep(draws.uniform(0.0, 0.05))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not (cut / "_report.json").exists()
    last, whole = start("cut"), start("whole")
    last.join()
    whole.join()
    assert (last.exitcode, whole.exitcode) == (0, 0)
    assert everything(cut) == everything(tmp_path / "whole")


@pytest.mark.parametrize("seed", range(6))
def test_killed_between_any_two_file_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Death before or after a rename, with or without the half-written file beside it: all must end the same."""
    echo(plain(18), tmp_path / "whole")
    draws = random.Random(seed)
    real = Path.replace

    class Dead(BaseException):
        pass

    for _ in range(4):
        left = draws.randrange(1, 6)

        def replace(self: Path, target: Any) -> Path:
            nonlocal left
            left -= 1
            if left == 0:
                (self.parent / f"{self.name.rsplit('.', 2)[0]}.dead.tmp").write_bytes(self.read_bytes()[:20])
                if draws.random() < 0.5:
                    real(self, target)
                raise Dead
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        try:
            echo(plain(18), tmp_path / "cut")
        except Dead:
            assert left == 0
        monkeypatch.setattr(Path, "replace", real)
    echo(plain(18), tmp_path / "cut")
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")


def test_identity_of_an_ensemble_in_memory(
    tmp_path: Path, experts: list[Any], tokenizer: Any, make_rows: Callable[..., list[Row]]
) -> None:
    def run(models: list[Any], alphas: list[float], **more: Any) -> LabelReport:
        settings = {"tokenizer": tokenizer, "task_format": FORM, **more}
        return label_stream(models, alphas, settings.pop("rule", "mean"), make_rows(5), tmp_path / "l", **settings)

    run(experts, [1.0, 1.0, 1.0])
    assert run(experts, [1.0, 1.0, 1.0], batch_size=2).reused == 1  # speed and memory only
    changed = copy.deepcopy(experts)
    with torch.no_grad():
        next(changed[2].parameters())[0, 0] += 1e-3
    for models, alphas, more in (
        (changed, [1.0, 1.0, 1.0], {}),
        (experts, [1.0, 1.0, 2.0], {}),
        (experts[::-1], [1.0, 1.0, 1.0], {}),
        (experts, [1.0, 1.0, 1.0], {"rule": "product"}),
    ):
        with pytest.raises(ConfigError, match="another ensemble"):
            run(models, alphas, **more)
    # The same tokens under another chat template are other prompts.
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ConfigError, match="another ensemble"):
        run(experts, [1.0, 1.0, 1.0], tokenizer=other)
    with pytest.raises(ConfigError, match=r"other settings \(format was .*max_new_tokens"):
        run(experts, [1.0, 1.0, 1.0], max_new_tokens=3)

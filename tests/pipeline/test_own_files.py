"""A user's own files: the example as it stands, and a run on separate files."""

from __future__ import annotations

import errno
import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ensemw2s import api
from ensemw2s.errors import CacheError, ConfigError, DataError
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.sources import load_splits

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_data.py"


def test_a_model_in_memory_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match=r"got list: save it \(save_pretrained\) and give the folder"):
        api.generate([], "a question")  # type: ignore[arg-type]


def test_the_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "own")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "student: exact_match" in done.stdout


def own_config(folder: Path, *more: str) -> Any:
    return load_config(
        "tiny",
        [f"data.source={folder / 'labelled.jsonl'}", f"data.pool={folder / 'questions.jsonl'}", f"data.test_id={folder / 'id.jsonl'}",
         f"data.test_ood={folder / 'test.jsonl'}", "systems=[weak,ensemble,student]", "evaluation.examples=0", *more],
    )  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    runpy.run_path(str(EXAMPLE))["write_files"](tmp_path)
    lines = (tmp_path / "labelled.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "labelled.jsonl").write_text("".join(lines[:40]))
    (tmp_path / "id.jsonl").write_text("".join(lines[40:]).replace("What is", "What, then, is"))
    return tmp_path


def test_a_run_on_separate_files_with_an_unlabelled_pool(files: Path) -> None:
    _, results = execute(own_config(files), files / "out", store=files / "store")
    assert {s["system"] for s in results["scores"]} == {"weak", "ensemble", "student"}
    assert results["pgr"] == []
    assert results["pseudo_labels"] == []
    with pytest.raises(DataError, match="no ceiling"):
        execute(own_config(files, "systems=[ceiling]"), files / "other", store=files / "store")


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    with pytest.raises(CacheError, match="the disk is full"):
        execute(own_config(files), files / "out", store=files / "store")
    assert list((files / "store").rglob("model*")) == []
    assert list((files / "store").rglob("*.tmp")) == []


def test_twins_of_a_file_stay_on_one_side(tmp_path: Path) -> None:
    """Named by ``data.columns``, for one file and for several, and turned off by a setting; a typing error is one line."""
    twins = [{"id": f"{pair}{end}", "question": f"{pair} {end}", "answer": end, "para": pair}
             for pair in range(40) for end in ("more", "less")]  # fmt: skip
    lists = {"rows": twins, "labelled": twins[:49], "pool": twins[49:60], "id": twins[60:70], "ood": twins[70:]}
    for name, some in lists.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))

    def found(*more: str, columns: str = "{group: para}") -> tuple[set[str | None], dict[str, Any]]:
        settings = ["data.families=[]", "split={kind: random}", f"data.columns={columns}", *more]
        splits = load_splits(load_config("tiny", [*settings, "models.more_weak=[]"]))
        parts = [{row.id[:-4] for row in part} for part in splits.named().values()]
        return {one for a, b in itertools.combinations(parts, 2) for one in a & b}, dict(splits.report)

    one = f"data.source={tmp_path / 'rows.jsonl'}"
    assert found(one) == (set(), {"groups of several rows, each kept in one split": 40})
    assert len(found(one, "split={kind: random, respect_groups: false}")[0]) > 10
    assert len(found(one, columns="{}")[0]) > 10
    with pytest.raises(DataError, match="no column 'paar' for the group: did you mean 'para'"):
        found(one, columns="{group: paar}")
    several = [f"data.{ours}={tmp_path / name}.jsonl" for ours, name in
               (("source", "labelled"), ("pool", "pool"), ("test_id", "id"), ("test_ood", "ood"))]  # fmt: skip
    parted, told = found(*several)
    assert parted == {"24"}
    assert [text for text in told if "group" in text] == [
        "pool rows of whose group others are in validation or weak_train"
    ]
    assert not any("group" in text for text in found(*several, "split={kind: random, respect_groups: false}")[1])


@pytest.mark.parametrize("setting", ["split.threshold=2", "split.easy_levels=[1]", "data.difficulty=question-words"])
def test_cuts_that_the_built_in_world_would_ignore_are_refused(setting: str) -> None:
    from ensemw2s.experiment.sources import load_splits

    more = ["split.hard_levels=[2]"] if "levels" in setting else []
    with pytest.raises(ConfigError, match="built-in world"):
        load_splits(load_config("tiny", [setting, *more]))


def test_families_of_the_hard_side_can_be_others() -> None:
    from ensemw2s.experiment.sources import load_splits

    def families(*settings: str) -> dict[str, set[str]]:
        named = load_splits(load_config("tiny", list(settings))).named()
        return {name: {str(row.raw["family"]) for row in rows} for name, rows in named.items()}

    near, far = {"count", "order"}, {"words"}
    found = families("data.families=[count,order]", "data.ood_families=[words]")
    assert found == {"weak_train": near, "validation": near, "test_id": near, "pool": far, "test_ood": far}
    assert set(map(frozenset, families("data.families=[count,order]").values())) == {frozenset(near)}
    with pytest.raises(ConfigError, match="wrds"):
        load_splits(load_config("tiny", ["data.ood_families=[wrds]"]))


def test_files_of_ones_own_are_rated_together(tmp_path: Path) -> None:
    from ensemw2s.experiment.sources import load_splits

    paths = {}
    for number, name in enumerate(("source", "pool", "test_id", "test_ood")):
        path = tmp_path / f"{name}.jsonl"
        rows = [
            {"id": f"{name}{i}", "question": " ".join(["word"] * (1 + number)) + f" {i}", "answer": "a"}
            for i in range(12)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths[name] = path
    settings = [f"data.{name}={path}" for name, path in paths.items()] + ["data.difficulty=question-words"]
    splits = load_splits(load_config("tiny", [*settings, "data.families=[]"]))
    assert {row.difficulty for row in splits.weak_train} == {2.0}
    assert {row.difficulty for row in splits.pool} == {3.0}
    assert {row.difficulty for row in splits.test_ood} == {5.0}


def test_no_more_of_the_source_is_read_than_the_limit(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, "no row at all"]))
    words = ["split.kind=random", "split.weak_train=10", "split.pool=10", "split.test_id=5", "split.test_ood=5"]
    words += [f"data.source={tmp_path}/rows.jsonl", "split.validation=5"]
    splits = load_splits(load_config("tiny", [*words, "data.limit=40"]))
    read = {row.question for split in splits.named().values() for row in split}
    assert len(read) == 35
    with pytest.raises(DataError, match="line 41"):
        load_splits(load_config("tiny", [*words, "data.limit=41"]))

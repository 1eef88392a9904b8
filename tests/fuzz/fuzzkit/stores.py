"""What a finished run leaves: its store, its folder, its study, its labels; spoilt, and used again."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich.console

from ensemw2s.api import label
from ensemw2s.artifacts import read_json
from ensemw2s.data.rows import Row
from ensemw2s.experiment.explain import explain
from ensemw2s.experiment.grid import load_study
from ensemw2s.experiment.opening import Machine
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.study import run_study
from ensemw2s.experiment.upkeep import damaged as damaged_entries
from ensemw2s.experiment.upkeep import entries, prune
from ensemw2s.labelling.reading import read_labelled, read_soft_targets
from ensemw2s.report.html import render_html
from ensemw2s.report.results import read_results
from ensemw2s.report.study import read_study, study_csv, study_html, terminal_study
from ensemw2s.report.tables import scores_csv
from ensemw2s.report.terminal import terminal_table
from ensemw2s.report.write import write_report
from fuzzkit.engine import Case
from fuzzkit.folders import mutate_folder, spoil_json
from fuzzkit.mutate import damaged
from fuzzkit.tiny import copy_of, finished_run, least_config, study_file

# What a run writes into its folder, and may write again.
_PRODUCTS = (
    "results.json",
    "run.json",
    "row_scores.parquet",
    "labels.jsonl",
    "ensemble",
    "student",
    "report.html",
    "scores.csv",
    "plots",
    "events.jsonl",
)


def of_a_run(name: str) -> bool:
    """Whether a name in a run's folder is one that the program writes."""
    return name.split("/")[0] in _PRODUCTS


class Stores:
    """A finished run, spoilt and run again, reported, explained, looked after."""

    name, share, seconds = "stores", 0.02, 90.0

    def prepare(self, base: Path) -> None:
        """The finished run, and what its results were."""
        self.home = finished_run(base)
        self.scores = read_json(self.home / "run" / "results.json")["scores"]

    def case(self, rng: random.Random, folder: Path) -> Case:
        """A spoilt store or folder and one way to use it."""
        run, store = copy_of(self.home / "run", folder / "run"), copy_of(self.home / "store", folder / "store")
        where = rng.choice((run, store, store))
        what = self.spoil(rng, where)
        locks = rng.random() < 0.2
        if locks:
            what += "; " + self.locks(rng, store)
        ways: list[tuple[str, Callable[[], Any], Callable[[str], bool]]] = [
            ("rerun", lambda: self.again(run, store), of_a_run),
            ("explain", lambda: explain(least_config(), store=store), lambda name: False),
            ("list", lambda: [list(entries(store)), list(damaged_entries(store))], lambda name: False),
            ("prune", lambda: prune(store, broken=True), lambda name: False),
            (
                "prune",
                lambda: [prune(store, unfinished=True), prune(store, stage="answers", older_than_days=0.0)],
                lambda name: False,
            ),
        ]
        name, call, may_change = rng.choice(ways)
        # A store is the program's own; only reading it must leave it as it is.
        guard = [run] if name in ("rerun", "prune") else [run, store]
        return Case(f"{name}, {where.name}: {what}", call, guard, may_change)

    @staticmethod
    def spoil(rng: random.Random, folder: Path) -> str:
        """Mostly any file; stages moved, emptied, or in each other's place."""
        draw = rng.random()
        if draw < 0.75:
            return mutate_folder(rng, folder, times=rng.choice((1, 1, 2, 5)))
        stages = sorted(path for path in folder.glob("*/*") if path.is_dir())
        if not stages:
            return mutate_folder(rng, folder)
        one, two = rng.choice(stages), rng.choice(stages)
        action = rng.choice(("swapped", "emptied", "file", "strange", "link"))
        if action == "swapped" and one != two:
            one.rename(one.with_name("aside")), two.rename(one), one.with_name("aside").rename(two)
        elif action == "emptied":
            shutil.rmtree(one)
            one.mkdir()
        elif action in ("file", "link"):
            shutil.rmtree(one)
            one.write_bytes(b"x") if action == "file" else one.symlink_to(one.name)
        elif action == "strange":
            (folder / "stray").write_text("x")
            (folder / ".hidden").mkdir()
            os.mkfifo(folder / "answers" / "pipe") if (folder / "answers").is_dir() else None
            Path(os.fsdecode(os.fsencode(folder) + b"/bad-\xff")).mkdir()
            (one / "loop").symlink_to(".")
            (folder / "dangling").symlink_to("nowhere")
            (one.parent / "dangling").symlink_to("nowhere")
        return f"{action} {one.relative_to(folder)}"

    @staticmethod
    def locks(rng: random.Random, store: Path) -> str:
        """Lock files of a process that is gone, or that hold anything; old enough to count as left."""
        long_ago = time.time() - 86400
        for stage in sorted(path for path in store.glob("*/*") if path.is_dir()):
            if rng.random() < 0.5:
                lock = stage.with_name(f"{stage.name}.lock")
                junk = (
                    b"",
                    b"{",
                    b"[]",
                    b"null",
                    b"\xff",
                    b'{"pid": "x"}',
                    b'{"pid": -1, "host": 3}',
                    b'{"pid": 99999999999999999999}',
                    b"[" * 5000,
                )
                lock.write_bytes(rng.choice(junk))
                os.utime(lock, (long_ago, long_ago))
        return "garbage locks"

    def again(self, run: Path, store: Path) -> None:
        """The same command again: the same results, from whatever is left."""
        _, results = execute(least_config(), run, store=store)
        assert results["scores"] == self.scores, "other scores than before"
        assert read_json(run / "results.json")["scores"] == self.scores


class Outputs:
    """Reports and studies of spoilt results."""

    name, share, seconds = "outputs", 0.03, 90.0

    def prepare(self, base: Path) -> None:
        """The finished run and study."""
        self.home = finished_run(base)

    def case(self, rng: random.Random, folder: Path) -> Case:
        """Spoilt JSON, mostly of results; shown in one way."""
        kind = rng.choice(("run", "run", "study", "study", "rerun study"))
        if kind == "run":
            run = copy_of(self.home / "run", folder / "run")
            what = self.spoil(rng, run, "results.json")
            full = rng.random() < 0.08
            return Case(
                f"report: {what}",
                lambda: self.report(run, full),
                [run],
                lambda name: name.startswith(("report.html", "scores.csv", "plots")),
            )
        study = copy_of(self.home / "study", folder / "study")
        what = self.spoil(rng, study, "study.json") if kind == "study" else mutate_folder(rng, study)
        if kind == "study":
            return Case(f"study report: {what}", lambda: self.study_report(study), [study])
        store = copy_of(self.home / "study-store", folder / "store")
        # A cell whose record does not fit is run again over its own files.
        mine = ("cells", "study.json")
        return Case(
            f"study again: {what}", lambda: self.study_again(folder, store), [study], lambda name: name.startswith(mine)
        )

    @staticmethod
    def spoil(rng: random.Random, folder: Path, main: str) -> str:
        """Mostly the main file."""
        draw = rng.random()
        if draw < 0.75:
            return f"{main}: {spoil_json(rng, folder / main)}"
        if draw < 0.85:
            data, what = damaged(rng, (folder / main).read_bytes())
            (folder / main).write_bytes(data)
            return f"{main}: {what}"
        return mutate_folder(rng, folder)

    @staticmethod
    def report(run: Path, full: bool) -> None:
        """The terminal's table, the page, the CSV; drawing takes a second and is done now and then."""
        if full:
            write_report(run)
        results = read_results(run)
        console = rich.console.Console(width=80, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
        with console.file:
            console.print(terminal_table(read_json(run / "results.json")))
        scores_csv(results).encode()
        render_html(results, {}).encode()

    @staticmethod
    def study_report(study: Path) -> None:
        """As ``ensemw2s report`` shows a study, but for the drawings."""
        data = read_study(study)
        console = rich.console.Console(width=80, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
        with console.file:
            console.print(terminal_study(data))
        study_csv(data)
        study_html(data)

    @staticmethod
    def study_again(folder: Path, store: Path) -> None:
        """The same study over what is left."""
        summary = run_study(load_study(study_file(folder)), folder / "study", store=store)
        assert not summary["failed"] or all(
            "Error" not in entry["error"].split(":")[0] for entry in summary["failed"]
        ), summary["failed"]


class Labels:
    """A folder of labels, spoilt; gone on with, and read."""

    name, share, seconds = "labels", 0.02, 60.0

    def prepare(self, base: Path) -> None:
        """A finished labelling of a few questions."""
        self.machine = Machine(device="cpu", store=base / "label-store")
        self.rows = [
            Row(f"q{n}", f"how many a in {'a' * n} b", choices=("1", "2") if n % 2 else None) for n in range(5)
        ]
        self.home = base / "labels"
        if not (self.home / "_report.json").is_file():
            label("w2s-weak", self.rows, f"{self.home}/", soft_top_k=2, machine=self.machine)

    def case(self, rng: random.Random, folder: Path) -> Case:
        """A spoilt folder, and one way to use it."""
        labels = copy_of(self.home, folder / "labels")
        (labels.parent / "notes.txt").write_text("mine")
        what = mutate_folder(rng, labels)
        way = rng.choice(("read", "read", "resume", "restart", "soft"))
        if way == "read":
            return Case(f"read: {what}", lambda: list(read_labelled(labels)), [folder])
        if way == "soft":
            return Case(f"soft: {what}", lambda: read_soft_targets(labels), [folder])
        restart = way == "restart"
        return Case(
            f"{way}: {what}", lambda: self.again(labels, restart), [folder], lambda name: name.startswith("labels")
        )

    def again(self, labels: Path, restart: bool) -> None:
        """Gone on with, it ends complete and readable."""
        label("w2s-weak", self.rows, f"{labels}/", soft_top_k=2, restart=restart, machine=self.machine)
        assert [row.id for row in read_labelled(labels)] == [row.id for row in self.rows]
        assert json.loads((labels / "_report.json").read_text())["parts"] == 1

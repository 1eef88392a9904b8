"""The command line as typed: a verb, options, values; in this process, and now and then in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import sys
from pathlib import Path

from ensemw2s.errors import ConfigError
from fuzzkit.data import records, text_of_rows
from fuzzkit.engine import LONGEST, Case
from fuzzkit.folders import mutate_folder
from fuzzkit.mutate import damaged, mutated, short, value
from fuzzkit.tiny import copy_of, finished_run

# Options that take a value, by what it is; FLAGS take none.
_FILES = ("--train", "--in", "--data", "--held-out", "--validation")
_MODELS = ("--weak", "--strong", "--ensemble", "--model", "--teacher")
_COMMON = ("--device", "--dtype", "--seed", "--out")
_FORM = ("--template", "--normalisation", "--max-new-tokens", "--max-length", "--too-long")
_TRAIN = ("--epochs", "--learning-rate", "--train-batch-size", "--tuning", "--lora-rank", "--task", "--head")
OPTIONS: dict[str, tuple[str, ...]] = {
    "run": (*_COMMON, "--dry-run"),
    "explain": (),
    "study": ("--out", "--dry-run"),
    "boost": (*_COMMON, *_FORM, *_TRAIN, "--train", "--weak", "--rounds", "--mode", "--prior", "--shrinkage", "--rule",
              "--held-out", "--level", "--error-on", "--form", "--dry-run"),
    "label": ("--ensemble", "--in", "--out", "--min-confidence", "--validation", "--label-by", "--soft", "--votes", "--restart",
              "--device", "--dtype", "--batch-size", "--dry-run"),
    "student": (*_COMMON, *_FORM, *_TRAIN, "--strong", "--train", "--loss", "--targets", "--top-k", "--teacher", "--dry-run"),
    "evaluate": (*_COMMON, "--model", "--data", "--metric", "--batch-size", "--dry-run"),
    "generate": ("--model", "--raw", "--max-new-tokens", "--device", "--dtype"),
    "rate": (*_COMMON, "--model", "--in", "--folds", "--by", "--epochs", "--learning-rate", "--template", "--max-length"),
    "report": (),
    "list": (),
    "cache": ("--store", "--all", "--older-than", "--stage", "--damaged", "--unfinished", "--dry-run"),
}  # fmt: skip
FLAGS = ("--dry-run", "--votes", "--restart", "--raw", "--all", "--damaged", "--unfinished")
NEEDED = {
    "boost": ("--train", "--weak"), "label": ("--ensemble", "--in"), "student": ("--strong", "--train"),
    "evaluate": ("--model", "--data"), "generate": ("--model",), "rate": ("--model", "--in"),
}  # fmt: skip
GOOD = {
    "--device": ("cpu", "auto"), "--dtype": ("float32", "bfloat16", "auto"), "--seed": ("0", "7"), "--epochs": ("0.2", "1"),
    "--learning-rate": ("1e-4",), "--train-batch-size": ("4",), "--tuning": ("full", "lora"), "--lora-rank": ("2",),
    "--task": ("generation", "binary"), "--head": ("tokens", "classifier"), "--rounds": ("1", "2"),
    "--mode": ("reweight", "resample"), "--prior": ("pretrained", "vocabulary", "none"), "--shrinkage": ("0.3", "1"),
    "--rule": ("mean", "product", "vote", "gate", "best"), "--level": ("token", "row"), "--form": ("discrete", "real"),
    "--error-on": ("train", "held-out", "out-of-bag"), "--template": ("plain", "chat", "{question}"),
    "--normalisation": ("exact", "choice"), "--max-new-tokens": ("2",), "--max-length": ("40", "8"), "--too-long": ("cut", "drop"),
    "--min-confidence": ("0.1",), "--label-by": ("options", "generate"), "--soft": ("0", "2"), "--batch-size": ("4",),
    "--loss": ("cross_entropy", "confidence"), "--targets": ("hard", "soft"), "--top-k": ("2",), "--metric": ("exact_match", "nll"),
    "--folds": ("2",), "--by": ("loss", "accuracy"), "--older-than": ("1",), "--stage": ("answers",),
}  # fmt: skip


class Typed:
    """Words after ``ensemw2s``."""

    name, share, seconds = "command line", 0.027, 120.0
    own_process = False

    def prepare(self, base: Path) -> None:
        """A finished run to point at."""
        self.home = finished_run(base)
        self.store = base / "typed-store"

    def case(self, rng: random.Random, folder: Path) -> Case:
        """A command line in a folder with a data file, a run, an ensemble and a configuration, some of them spoilt."""
        copy_of(self.home / "run", folder / "run")
        copy_of(self.home / "store", folder / "store")
        (folder / "mine.json").write_text('{"mine": 1}')
        (folder / "full").mkdir()
        (folder / "full" / "mine.txt").write_text("mine")
        rows, what = mutated(rng, records(6)) if rng.random() < 0.4 else (records(6), "good rows")
        data = text_of_rows(rows, ".jsonl", rng)
        if rng.random() < 0.1:
            data, what = damaged(rng, data)
        (folder / "rows.jsonl").write_bytes(data)
        (folder / "config.yaml").write_text("preset: tiny\nseed: 1\n")
        (folder / "study.yaml").write_text("base: tiny\ngrid: {seed: [0, 1]}\n")
        if rng.random() < 0.3:
            what += f"; {mutate_folder(rng, folder, lambda path: path.name != 'mine.txt')}"
        words = self.words(rng)
        out = next((words[i + 1] for i, word in enumerate(words[:-1]) if word == "--out"), "")
        return Case(
            f"{short(words)} with {what}", lambda: self.call(words, folder), [folder], self.may_change(words, out)
        )

    @staticmethod
    def may_change(words: list[str], out: str) -> object:
        """What a verb is told to write it may write over, where that was its own."""
        verb = words[0] if words else ""

        def allowed(name: str) -> bool:
            first = name.split("/")[0]
            if first == "store":
                return verb == "cache"
            if first == "run":
                return verb == "report" and name.startswith(("run/report.html", "run/scores.csv", "run/plots"))
            return bool(out) and name == out.strip("/") and verb in ("label", "evaluate", "rate")

        return allowed

    def words(self, rng: random.Random) -> list[str]:
        """A verb with mostly sensible options, one or two of them not."""
        verb = rng.choice((*OPTIONS, *OPTIONS, "zzz", "", "--version", "--help", "lm-eval"))
        if verb not in OPTIONS:
            return [verb, *rng.choice(([], ["x"], ["--x"]))]
        words = [verb, *self.arguments(rng, verb)]
        chosen = dict.fromkeys(NEEDED.get(verb, ()))
        if rng.random() < 0.05 and chosen:
            chosen.pop(rng.choice(list(chosen)))
        chosen |= dict.fromkeys(rng.sample(OPTIONS[verb], min(len(OPTIONS[verb]), rng.choice((0, 1, 2, 4)))))
        if verb in ("boost", "student", "rate"):
            chosen |= {"--epochs": None, "--device": None}
        if verb in ("run", "study"):
            chosen["--dry-run"] = None
        bad = rng.choice(list(chosen)) if chosen and rng.random() < 0.6 else None
        for name in chosen:
            words.append(name)
            if name not in FLAGS:
                words.append(self.any_value(rng) if name == bad else self.good(rng, name))
        if rng.random() < 0.05:
            words.insert(rng.randrange(1, len(words) + 1), rng.choice(("--zzz", "-x", "", "=", "--", "a=b", "\udcff")))
        return [word.replace("\0", "") for word in words]  # no process takes a NUL in its arguments

    def arguments(self, rng: random.Random, verb: str) -> list[str]:
        """Words without a name."""
        if verb in ("run", "explain"):
            found = rng.choice(([], ["config.yaml"], ["tiny"], ["zzz"], ["rows.jsonl"], ["run"], [""]))
            override = rng.choice(
                (
                    "seed=3",
                    "boost.rounds=x",
                    "systems=[]",
                    "rule=zzz",
                    "data.source=rows.jsonl",
                    "a.b=1",
                    "=",
                    "device=cuda:9",
                    "models.weak=run",
                )
            )
            least = ["split.weak_train=4", "split.pool=4", "split.validation=2", "models.strong=w2s-weak"]
            return [
                *(found or ["tiny"] if verb == "explain" else found),
                *(least if rng.random() < 0.9 else []),
                *([override] if rng.random() < 0.7 else []),
            ]
        if verb == "study":
            return rng.choice(
                (
                    ["study.yaml"],
                    ["tiny"],
                    ["zzz"],
                    ["config.yaml"],
                    ["study.yaml", "rule=zzz"],
                    ["study.yaml", "seed=1"],
                    [],
                )
            )
        if verb == "cache":
            return [rng.choice(("list", "verify", "prune", "zzz"))]
        if verb == "report":
            return [rng.choice(("run", "full", "mine.json", "zzz", "", "."))]
        if verb == "list":
            return rng.choice(([], ["models"], ["rules"], ["zzz"], ["presets"], ["datasets"]))
        return [rng.choice(("how many a in b", "", " ", "\udcff", "x" * 5000))] if verb == "generate" else []

    @staticmethod
    def good(rng: random.Random, name: str) -> str:
        """A value that fits, of things that may be spoilt."""
        if name in _FILES:
            return rng.choice(("rows.jsonl", "rows.jsonl", "rows.jsonl", "zzz.jsonl", "full", "mine.json"))
        if name in _MODELS:
            return rng.choice(
                ("w2s-weak", "w2s-weak", "run/ensemble", "run/student", "full", "zzz", "mine.json", "run")
            )
        if name == "--out":
            return rng.choice(
                (
                    "new",
                    "new/",
                    "new.jsonl",
                    "new.csv",
                    "new.parquet",
                    "full",
                    "mine.json",
                    "run",
                    "a/b/c",
                    "rows.jsonl/x",
                )
            )
        if name == "--store":
            return rng.choice(("store", "store", "full", "mine.json", "zzz"))
        return rng.choice(GOOD[name])

    @staticmethod
    def any_value(rng: random.Random) -> str:
        """Anything that can be typed; no number so large that it is an honest wish for a long run."""
        item = value(rng)
        if isinstance(item, (int, float)) and not isinstance(item, bool) and not abs(item) < 50:
            item = rng.choice(("nan", "inf", "-1", "0", "1e999", "９", "0.5", "--seed"))
        return item if isinstance(item, str) else short(item)

    def call(self, words: list[str], folder: Path) -> None:
        """Run them in the folder; raises where the door does not hold."""
        code, errors = self.in_process(words, folder)
        check_door(code, errors)

    def in_process(self, words: list[str], folder: Path) -> tuple[int, str]:
        """``main`` with these words."""
        from ensemw2s import interrupts
        from ensemw2s.cli import main as door

        app = door.app
        app.registered_commands, app.registered_groups = [], []
        old_words, old_folder, old_store = sys.argv, Path.cwd(), os.environ.get("ENSEMW2S_CACHE")
        out, errors = _Terminal("strict"), _Terminal("backslashreplace")
        install, interrupts.install = interrupts.install, lambda: None
        try:
            sys.argv = ["ensemw2s", *words]
            os.chdir(folder)
            os.environ["ENSEMW2S_CACHE"] = str(self.store)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                try:
                    door.main()
                    code = 0
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 1
        finally:
            interrupts.install = install
            sys.argv = old_words
            os.chdir(old_folder)
            if old_store is not None:
                os.environ["ENSEMW2S_CACHE"] = old_store
        return code, errors.text()


class Processes(Typed):
    """The same in processes of their own."""

    name, share, seconds = "processes", 0.003, 120.0

    def call(self, words: list[str], folder: Path) -> None:
        """One process; its whole standard error is looked at."""
        environment = {**os.environ, "ENSEMW2S_CACHE": str(self.store), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "ensemw2s.cli.main", *map(os.fsencode, words)], cwd=folder, env=environment,
            capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        check_door(done.returncode, done.stderr.decode("utf-8", "replace"))


class _Terminal(io.TextIOWrapper):
    """UTF-8, as a real one: strict on standard output, not on standard error."""

    def __init__(self, errors: str) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors=errors, write_through=True)

    def text(self) -> str:
        """What was written."""
        return self.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]


def check_door(code: int, errors: str) -> None:
    """Exit code 0; or 2 with one ``error:`` line, or the framework's own usage lines. A study with failed cells: 1.

    Raises:
        AssertionError: anything else.
        ConfigError: code 2, so that the input counts as refused.
    """
    assert "Traceback (most recent" not in errors, errors[-3000:]
    if code == 0:
        return
    assert code == 2, f"exit code {code}: {errors[-1500:]}"
    mine = [line for line in errors.splitlines() if line.startswith("error: ")]
    usage = [line for line in errors.splitlines() if line.startswith(("Usage: ", "Error: ", "usage: "))]
    assert len(mine) == 1 or (not mine and usage), f"{len(mine)} error lines: {errors[-1500:]}"
    assert all(len(line) <= LONGEST for line in mine)
    raise ConfigError(mine[0] if mine else "usage")

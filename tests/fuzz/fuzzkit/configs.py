"""Configurations: every leaf of a whole one, YAML as typed, overrides, studies."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from ensemw2s.artifacts import canonical_json
from ensemw2s.experiment.config import Config, build_config
from ensemw2s.experiment.grid import STUDIES, load_study
from ensemw2s.experiment.presets import load_config, preset_names, read_preset
from ensemw2s.experiment.run import default_out
from ensemw2s.experiment.sources import load_splits
from ensemw2s.methods.systems import build_order
from fuzzkit.engine import Case
from fuzzkit.mutate import at, damaged, mutated, paths, short, value

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
_YAML = (
    BOMB, "a: &a {b: *a}\n", "a: &a [*a]\n", "<<: [1]\n", "? [1, 2]\n: 3\n", "? {a: 1}\n: 3\n", "seed: 2024-99-99\n",
    "seed: !!python/object/apply:os.system ['true']\n", "seed: !!binary '?'\n", "seed: !!set {a, b}\n", "- 1\n", "1\n", "",
    "seed: !!timestamp x\n", "seed: !!int 'x'\n", "seed: !!float x\n", "seed: " + "1" * 6000 + "\n", "%YAML 9.9\n---\n{}\n",
    "seed: 1\nseed: 2\n", "--- {}\n--- {}\n", "seed: !foo 1\n", "data: *nowhere\n", "\t- x\n", "seed: 2001-12-14t21:59:43.10-05:00\n",
    "seed: 1:30\n", "1: 2\n", "null: 2\n", "true: 2\n", "seed: 0b12\n", "seed: 0o9\n", "seed: 0x\n", "seed: " + "[" * 3000,
    "seed: " + "{a: " * 3000, "seed: !!omap [1]\n", "seed: !!pairs [1]\n", "data: {columns: &c {question: q}}\nformat: *c\n",
)  # fmt: skip


def full_settings() -> dict[str, Any]:
    """Every leaf of a whole configuration, optional ones given a value."""
    tree = Config().to_dict()
    tree["data"] |= {
        "limit": 100,
        "pool": "p.jsonl",
        "test_id": "i.jsonl",
        "test_ood": "o.jsonl",
        "difficulty": "steps",
    }
    tree["data"] |= {"columns": {"question": "prompt"}, "families": ["count"]}
    tree["split"] |= {"weak_train": 8, "validation": 4, "pool": 8, "test_id": 4, "test_ood": 4, "easy_fraction": 0.5}
    tree["weak_epochs"] = [1.0, 2.0]
    return tree


def tiny_settings() -> dict[str, Any]:
    """A whole configuration on the built-in world, of a few rows."""
    tree = build_config(read_preset("tiny")).to_dict()
    tree["split"] |= {"weak_train": 4, "validation": 2, "pool": 4, "test_id": 2, "test_ood": 2}
    return tree


def study_settings() -> dict[str, Any]:
    """A study's file."""
    return {
        "name": "s", "base": "tiny", "set": {"evaluation.staged": False, "boost": {"rounds": 2}},
        "grid": {"seed": [0, 1], "rule": ["mean", "product"],
                 "pair": {"small": {"models.weak": "w2s-weak", "models.strong": "w2s-strong"}, "same": {"models.strong": "w2s-weak"}}},
        "skip": [{"pair": "small", "rule": "product"}], "main": {"metric": "exact_match", "margin": 0.02},
    }  # fmt: skip


class Configs:
    """Settings as Python data, as YAML files and as overrides."""

    name, share, seconds = "configs", 0.32, 20.0

    def prepare(self, base: Path) -> None:
        """Whole configurations to start from."""
        self.trees = [full_settings(), tiny_settings()]
        self.leaves = [".".join(map(str, path)) for path in paths(self.trees[0])[1:]]

    def case(self, rng: random.Random, folder: Path) -> Case:
        """One way in, one thing wrong."""
        way = rng.choice(("data", "data", "data", "file", "bytes", "yaml", "override", "splits"))
        if way in ("data", "splits"):
            tree, what = mutated(rng, self.trees[way == "splits"])
            return Case(f"{way}: {what}", lambda: check(build_config(tree), draw=way == "splits"))
        if way == "override":
            given = self.overrides(rng)
            source = rng.choice((None, "tiny", "quickstart", "zzz", "", "\0", ".", "x" * 5000, "tiny.yaml"))
            return Case(f"override {short(source)} {short(given)}", lambda: check(load_config(source, given)))
        path = folder / "config.yaml"
        if way == "file":
            tree, what = mutated(rng, self.trees[rng.random() < 0.5])
            path.write_bytes(as_yaml(tree))
        elif way == "bytes":
            data, what = damaged(rng, as_yaml(self.trees[1]))
            path.write_bytes(data)
        else:
            text = rng.choice(_YAML)
            what = short(text)
            place = rng.choice(("", "", "preset: tiny\n", "evaluation: {resamples: 10}\n"))
            path.write_text(place + text, encoding="utf-8")
        given = self.overrides(rng) if rng.random() < 0.1 else []
        return Case(f"{way}: {what} {short(given) if given else ''}", lambda: check(load_config(path, given)), [path])

    def overrides(self, rng: random.Random) -> list[str]:
        """``section.key=value`` of known and unknown keys."""
        return [
            f"{self.key(rng)}{rng.choice(('=', '=', '=', '', '==', ': '))}{self.text(rng)}"
            for _ in range(rng.choice((1, 1, 2)))
        ]

    def key(self, rng: random.Random) -> str:
        """A leaf, perhaps misspelt."""
        leaf = rng.choice(self.leaves)
        return rng.choice(
            (leaf, leaf, leaf, leaf + ".x", leaf[:-1], "", ".", "." + leaf, leaf.replace(".", ".."), "\0", leaf + ".")
        )

    @staticmethod
    def text(rng: random.Random) -> str:
        """A value as typed."""
        if rng.random() < 0.2:
            return rng.choice(
                (
                    "&a [*a]",
                    "{a: &a [*a]}",
                    "{",
                    "!!python/name:os.system",
                    "2024-99-99",
                    "[1,",
                    "1e3",
                    "1e-3",
                    ".5",
                    ".nan",
                    "-.inf",
                )
            )
        item = value(rng)
        return item if isinstance(item, str) else short(item)


def as_yaml(tree: Any) -> bytes:
    """YAML as a careless writer makes it."""
    try:
        text = yaml.safe_dump(tree, allow_unicode=True)
    except (yaml.YAMLError, ValueError, RecursionError):
        text = "{"
    return text.encode("utf-8", "surrogatepass")


def check(config: Config, *, draw: bool = False) -> None:
    """What was accepted can be hashed, named, told again and ordered; a small one can draw its rows."""
    data = config.to_dict()
    canonical_json(data)
    assert build_config(data) == config, "a configuration's own data is another configuration"
    default_out(config)
    build_order(config.systems)
    if draw:
        load_splits(config)


class Studies:
    """A study's file: mutated, spoilt, bombed."""

    name, share, seconds = "studies", 0.08, 20.0

    def prepare(self, base: Path) -> None:
        """The files to start from."""
        self.tree = study_settings()
        self.texts = [path.read_bytes() for path in sorted(STUDIES.glob("*.yaml"))]

    def case(self, rng: random.Random, folder: Path) -> Case:
        """One study file."""
        path = folder / "study.yaml"
        way = rng.choice(("tree", "tree", "tree", "bytes", "yaml", "big"))
        if way == "tree":
            tree, what = mutated(rng, self.tree)
            path.write_bytes(as_yaml(tree))
        elif way == "bytes":
            data, what = damaged(rng, rng.choice((as_yaml(self.tree), *self.texts)))
            path.write_bytes(data)
        elif way == "yaml":
            what = rng.choice(_YAML)
            path.write_text(rng.choice(("", "base: tiny\ngrid: {seed: [0]}\n")) + what, encoding="utf-8")
        else:
            axes = rng.choice((3, 12, 40))
            what = f"{axes} axes"
            leaves = [
                ".".join(map(str, p))
                for p in paths(full_settings())
                if p and not isinstance(at(full_settings(), p), (dict, list))
            ]
            grid = {leaf: list(range(1, 10)) for leaf in leaves[:axes]}
            path.write_bytes(as_yaml({"base": rng.choice((*preset_names(), "study.yaml")), "grid": grid}))
        given = rng.choice(([], [], [], ["seed=3"], ["rule=mean"], ["evaluation.margin=0.1"], ["x"], ["base=1"]))
        return Case(f"{way}: {short(what)} {given}", lambda: self.check(path, given), [path])

    @staticmethod
    def check(path: Path, given: list[str]) -> None:
        """Every cell has a folder's name of its own."""
        study = load_study(path, given)
        keys = [cell.key for cell in study.cells]
        assert len(set(keys)) == len(keys), "two cells share a folder"
        assert all("/" not in key and "\0" not in key and len(key.encode()) < 255 for key in keys)

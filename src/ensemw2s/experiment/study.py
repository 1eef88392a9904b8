"""A study: a grid of runs over seeds, rounds, models, data, rules, losses ... from one YAML file.

    name: rules
    base: quickstart                  # a preset, or a configuration file beside this one
    set: {evaluation.staged: false}   # laid over the base in every cell
    grid:                             # every combination is a cell
      seed: [0, 1, 2]
      rule: [mean, product]
      pair:                           # a named axis: label -> settings
        small: {models.weak: w2s-weak, models.strong: w2s-strong}
    skip: [{pair: small, rule: product}]

Cells that differ in the seed only form a group, over which intervals are made (`aggregate`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import fingerprint, read_json, write_json
from ensemw2s.errors import CacheError, ConfigError, EnsemW2SError, nearest
from ensemw2s.experiment.aggregate import aggregate
from ensemw2s.experiment.config import Config, build_config, merge, with_overrides
from ensemw2s.experiment.presets import base_settings, preset_names, read_yaml
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import check_config, execute

STUDY_FILE = "study.json"
_KEYS = ("name", "base", "set", "grid", "skip")
# Settings that may name a file beside the study's own.
_PATHS = (
    ("data", "source"), ("data", "pool"), ("data", "test_id"), ("data", "test_ood"), ("data", "validation"),
    ("data", "difficulty"), ("models", "weak"), ("models", "strong"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        axes: the label of every axis but the seed.
        config: the run's configuration.
    """

    axes: Mapping[str, str]
    config: Config

    @property
    def key(self) -> str:
        """Its folder's name: labels for people, a hash to be sure."""
        labels = "-".join(f"{name.rsplit('.', 1)[-1]}={label}" for name, label in self.axes.items())
        plain = "".join(c if c.isalnum() or c in "=-._" else "_" for c in labels)[:80]
        return f"{plain or 'run'}-seed={self.config.seed}-{fingerprint(self.config.to_dict())[:8]}"


@dataclasses.dataclass(frozen=True)
class Study:
    """A checked study: every cell's configuration has been built."""

    name: str
    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]


def study_names() -> list[str]:
    """Names of the built-in studies, sorted."""
    folder = Path(__file__).parent / "studies"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def study_summary(name: str) -> str:
    """A built-in study's first comment line."""
    text = (Path(__file__).parent / "studies" / f"{name}.yaml").read_text(encoding="utf-8")
    return text.splitlines()[0].lstrip("# ")


def load_study(source: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study and build every cell's configuration.

    Args:
        source: a YAML file, or the name of a built-in study.
        overrides: ``section.key=value`` settings laid over every cell.

    Raises:
        ConfigError: no such file, an unknown key, an empty grid, an axis without values, two cells alike, or a setting
            that is refused; nothing has run then.
    """
    path = Path(source)
    if not path.is_file():
        if str(source) not in study_names():
            known = nearest(str(source), study_names())
            raise ConfigError(f"no study file '{source}', and no built-in study of that name: {known}")
        path = Path(__file__).parent / "studies" / f"{source}.yaml"
    raw = read_yaml(path)
    for key in raw:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key '{key}' of a study: {nearest(str(key), _KEYS)}")
    base = _base(raw, path)
    base = merge(base, _nested(raw.get("set") or {}, "set"))
    axes = _axes(raw.get("grid"), path)
    cells = tuple(_cells(axes, base, raw.get("skip") or [], overrides, path))
    if not cells:
        raise ConfigError(f"{path}: the grid is empty, every combination is skipped: take some out of 'skip'")
    keys = [cell.key for cell in cells]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two cells of the grid are alike ({twice}): an axis repeats a value")
    labels = {name: tuple(values) for name, values in axes.items() if name != "seed"}
    return Study(str(raw.get("name") or path.stem), labels, cells)


def run_study(
    study: Study, out: Path, *, store: Path | None = None, reporter: Reporter | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Run what is missing, one cell after the other, and write ``study.json``.

    A cell that fails is recorded with its reason, and the others go on.

    Args:
        study: what to run.
        out: folder of the study; cells lie in ``cells`` below it.
        store: folder of stored stages, shared by all cells.
        reporter: told of progress within a cell.
        told: called with one line a cell.

    Returns:
        What ``study.json`` holds.

    Raises:
        ConfigError, ModelError: a cell that cannot run, found before any has.
    """
    for cell in _one_a_setting(study.cells):
        check_config(cell.config)
    done: list[tuple[Cell, dict[str, Any]]] = []
    failed: list[dict[str, Any]] = []
    for number, cell in enumerate(study.cells, start=1):
        folder = out / "cells" / cell.key
        head = f"[{number}/{len(study.cells)}] {cell.key}"
        found = finished(cell, out)
        if found is not None:
            told(f"{head}: found finished")
            done.append((cell, found))
            continue
        told(f"{head}: running")
        try:
            _, results = execute(cell.config, folder, store=store, reporter=reporter)
            done.append((cell, results))
        except EnsemW2SError as error:
            told(f"{head}: failed: {error}")
            failed.append({"key": cell.key, "axes": dict(cell.axes), "seed": cell.config.seed, "error": str(error)})
    summary = aggregate(study.name, study.axes, [(cell.axes, cell.config.seed, found) for cell, found in done])
    summary["failed"] = failed
    summary["cells"] = [cell.key for cell, _ in done]
    write_json(out / STUDY_FILE, summary)
    return summary


def finished(cell: Cell, out: Path) -> dict[str, Any] | None:
    """The results of a cell that ran before under the same configuration."""
    path = out / "cells" / cell.key / "results.json"
    if not path.is_file():
        return None
    try:
        results = read_json(path)
    except CacheError:
        return None  # torn: it runs again
    return results if isinstance(results, dict) and results.get("config") == cell.config.to_dict() else None


def _one_a_setting(cells: Sequence[Cell]) -> Iterator[Cell]:
    """One cell of every group that differs in seed only: models and devices are the same for all of it."""
    seen = set()
    for cell in cells:
        mark = tuple(cell.axes.items())
        if mark not in seen:
            seen.add(mark)
            yield cell


def _base(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    named = raw.get("base", "quickstart")
    if isinstance(named, Mapping):
        return merge({"preset": path.stem}, named)
    if str(named) in preset_names():
        return base_settings(str(named))
    return base_settings(path.parent / str(named))


def _axes(grid: Any, path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Axis -> label -> settings."""
    if not isinstance(grid, Mapping) or not grid:
        raise ConfigError(f"{path}: the grid is empty: give at least one axis, say 'grid: {{seed: [0, 1, 2]}}'")
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    for name, values in grid.items():
        if not values or not isinstance(values, (list, Mapping)):
            raise ConfigError(f"{path}: axis '{name}' has no values: give a list, or a mapping of label to settings")
        if isinstance(values, Mapping):
            axes[str(name)] = {str(label): _nested(part or {}, f"{name}.{label}") for label, part in values.items()}
            continue
        labels = [str(value) for value in values]
        if len(set(labels)) < len(labels):
            raise ConfigError(f"{path}: axis '{name}' repeats a value: {', '.join(labels)}")
        axes[str(name)] = {label: _nested({name: value}, name) for label, value in zip(labels, values, strict=True)}
    return axes


def _cells(
    axes: Mapping[str, Mapping[str, dict[str, Any]]], base: dict[str, Any], skip: Any, overrides: Sequence[str],
    path: Path,
) -> Iterator[Cell]:  # fmt: skip
    if not isinstance(skip, list) or not all(isinstance(entry, Mapping) for entry in skip):
        raise ConfigError(f"{path}: 'skip' must be a list of combinations, say [{{rule: vote, pair: small}}]")
    for entry in skip:
        for name, label in entry.items():
            if name not in axes or str(label) not in axes[name]:
                raise ConfigError(f"{path}: 'skip' names {name}: {label}, which the grid does not have")
    for labels in itertools.product(*axes.values()):
        chosen = dict(zip(axes, labels, strict=True))
        if any(all(chosen[name] == str(label) for name, label in entry.items()) for entry in skip):
            continue
        settings = base
        for name, label in chosen.items():
            settings = merge(settings, axes[name][label])
        settings = _beside(with_overrides(settings, overrides), path.parent)
        yield Cell({name: label for name, label in chosen.items() if name != "seed"}, build_config(settings))


def _nested(settings: Any, where: str) -> dict[str, Any]:
    """Dotted keys as sections: ``{a.b: 1}`` becomes ``{a: {b: 1}}``."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"'{where}' of the study must be settings (key: value), got {settings!r}")
    result: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, last = str(key).split(".")
        inner: dict[str, Any] = {last: value}
        for section in reversed(sections):
            inner = {section: inner}
        result = merge(result, inner)
    return result


def _beside(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths that begin with a dot are meant from the study's own folder."""
    changed = settings
    for section, key in _PATHS:
        value = (settings.get(section) or {}).get(key)
        if isinstance(value, str) and value.startswith("."):
            path, colon, column = value.partition(":")  # a column of a file of ratings may follow
            changed = merge(changed, {section: {key: f"{(folder / path).resolve()}{colon}{column}"}})
    return changed

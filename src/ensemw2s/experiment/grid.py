"""From a study's YAML to its cells: every combination of the axes as a checked configuration, before any work.

name: rules
base: quickstart                  # a preset, or a configuration file beside this one
set: {evaluation.staged: false}   # laid over the base in every cell
grid:                             # every combination is a cell
  seed: [0, 1, 2]
  rule: [mean, product]
  pair:                           # a named axis: label -> settings
    small: {models.weak: w2s-weak, models.strong: w2s-strong}
skip: [{pair: small, rule: product}]
main: {metric: exact_match, margin: 0.02}   # of the tables; of "as good as the ceiling"
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import fingerprint
from ensemw2s.errors import ConfigError, nearest
from ensemw2s.evaluation.metrics import METRICS
from ensemw2s.experiment.config import Config, build_config
from ensemw2s.experiment.layers import lay_over, merge, with_overrides
from ensemw2s.experiment.presets import base_settings, preset_names, read_yaml
from ensemw2s.paths import is_file, is_folder

MOST_CELLS = 10_000
STUDIES = Path(__file__).parent / "studies"
_KEYS = ("name", "base", "set", "grid", "skip", "main")
# Settings that may name a file or a folder beside the study's own.
_FILES = tuple(("data", key) for key in ("source", "pool", "test_id", "test_ood", "validation", "difficulty"))
_FOLDERS = (("models", "weak"), ("models", "strong"), ("models", "more_weak"))
Axes = dict[str, dict[str, dict[str, Any]]]  # axis -> label -> settings


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
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def key(self) -> str:
        """Its folder's name: labels for people, a hash to be sure."""
        labels = "-".join(f"{name.rsplit('.', 1)[-1]}={label}" for name, label in self.axes.items())
        plain = "".join(c if c.isalnum() or c in "=-._" else "_" for c in labels)[:80]
        return f"{plain or 'run'}-seed={self.seed}-{fingerprint(self.config.to_dict())[:8]}"


@dataclasses.dataclass(frozen=True)
class Study:
    """A checked study: every cell's configuration has been built.

    Attributes:
        name: of its folder and its page.
        axes: the labels of every axis but the seed.
        cells: every combination that is not skipped, in the order of the grid.
        metric: of the tables; None: each run's own main metric.
    """

    name: str
    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    metric: str | None = None


def study_names() -> list[str]:
    """Names of the built-in studies, sorted."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def study_summary(name: str) -> str:
    """A built-in study's first comment line."""
    return (STUDIES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def load_study(source: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study and build every cell's configuration.

    Args:
        source: a YAML file, or the name of a built-in study.
        overrides: ``section.key=value`` settings laid over every cell; paths in them are meant from the working folder.

    Raises:
        ConfigError: no such file, an unknown key, an empty grid, an axis without values or with one twice, a setting
            that two axes (or an axis and an override) both set, or a setting that is refused; nothing has run then.
    """
    path = Path(source)
    if not is_file(path):
        if str(source) not in study_names():
            known = nearest(str(source), study_names())
            raise ConfigError(f"no study file '{source}', and no built-in study of that name: {known}")
        path = STUDIES / f"{source}.yaml"
    raw = read_yaml(path)
    for key in raw:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key '{key}' of a study: {nearest(str(key), _KEYS)}")
    base = lay_over(_base(raw, path), _nested(raw.get("set") or {}, "set"))
    metric, margin = _main(raw.get("main"), path)
    base = merge(base, margin)
    axes = _axes(raw.get("grid"), path)
    _refuse_overlaps(axes, overrides, path)
    cells = tuple(_cells(axes, base, _skips(raw.get("skip"), axes, path), overrides, path))
    if not cells:
        raise ConfigError(f"{path}: the grid is empty, every combination is skipped: take some out of 'skip'")
    for cell in cells:
        if metric is not None and metric not in cell.config.evaluation.metrics:
            measured = ", ".join(cell.config.evaluation.metrics)
            raise ConfigError(
                f"{path}: main.metric '{metric}' is not among evaluation.metrics ({measured}): add it there"
            )
    labels = {name: tuple(values) for name, values in axes.items() if name != "seed"}
    return Study(_name(raw.get("name"), path), labels, cells, metric)


def _name(given: Any, path: Path) -> str:
    name = path.stem if given is None else str(given)
    if not re.fullmatch(r"\w[\w.-]*", name):  # it names a folder too
        raise ConfigError(f"{path}: the name '{name}' must be letters, digits, '.', '-' and '_', as it names a folder")
    return name


def _base(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    named = raw.get("base", "quickstart")
    if isinstance(named, Mapping):
        return merge({"preset": path.stem}, named)
    if str(named) in preset_names():
        return base_settings(str(named))
    return base_settings(path.parent / str(named))


def _main(given: Any, path: Path) -> tuple[str | None, dict[str, Any]]:
    """The main metric, and the margin as settings."""
    if given is None:
        return None, {}
    if not isinstance(given, Mapping) or not set(given) <= {"metric", "margin"}:
        raise ConfigError(
            f"{path}: 'main' takes metric and margin, say {{metric: exact_match, margin: 0.02}}, got {given}"
        )
    metric = given.get("metric")
    if metric is not None and metric not in METRICS:
        raise ConfigError(f"{path}: unknown main.metric '{metric}': {nearest(str(metric), METRICS)}")
    return metric, {"evaluation": {"margin": given["margin"]}} if "margin" in given else {}


def _axes(grid: Any, path: Path) -> Axes:
    if not isinstance(grid, Mapping) or not grid:
        raise ConfigError(f"{path}: the grid is empty: give at least one axis, say 'grid: {{seed: [0, 1, 2]}}'")
    axes: Axes = {}
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


def _refuse_overlaps(axes: Axes, overrides: Sequence[str], path: Path) -> None:
    """A setting has one source: else a label would name what another axis, or the command line, has overruled."""
    owners: dict[tuple[str, ...], str] = {}
    for name, labels in axes.items():
        for leaf in dict.fromkeys(leaf for settings in labels.values() for leaf in _leaves(settings)):
            other = next((owner for known, owner in owners.items() if owner != name and _within(known, leaf)), None)
            if other is not None:
                raise ConfigError(
                    f"{path}: the axes '{other}' and '{name}' both set {'.'.join(leaf)}: let one of them do it"
                )
            owners[leaf] = name
    for override in overrides:
        wanted = tuple(override.partition("=")[0].split("."))
        owner = next((owner for known, owner in owners.items() if _within(known, wanted)), None)
        if owner is not None:
            raise ConfigError(f"'{override}': the study's axis '{owner}' sets that: change the grid of {path} instead")


def _within(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one setting is the other, or a section around it."""
    size = min(len(one), len(other))
    return one[:size] == other[:size]


def _leaves(settings: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from ((str(key), *inner) for inner in _leaves(value))
        else:
            yield (str(key),)


def _skips(skip: Any, axes: Axes, path: Path) -> list[dict[str, str]]:
    found = skip or []
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) and entry for entry in found):
        raise ConfigError(f"{path}: 'skip' must be a list of combinations, say [{{rule: vote, pair: small}}]")
    for entry in found:
        for name, label in entry.items():
            if name not in axes or str(label) not in axes[name]:
                raise ConfigError(f"{path}: 'skip' names {name}: {label}, which the grid does not have")
    return [{name: str(label) for name, label in entry.items()} for entry in found]


def _cells(
    axes: Axes, base: dict[str, Any], skip: list[dict[str, str]], overrides: Sequence[str], path: Path
) -> Iterator[Cell]:
    size = math.prod(map(len, axes.values()))
    if size > MOST_CELLS:
        raise ConfigError(f"{path}: the grid has {size:,} combinations, at most {MOST_CELLS:,}: leave some axes out")
    for labels in itertools.product(*axes.values()):
        chosen = dict(zip(axes, labels, strict=True))
        if any(entry.items() <= chosen.items() for entry in skip):
            continue
        settings = base
        for name, label in chosen.items():
            settings = lay_over(settings, axes[name][label])
        settings = with_overrides(_beside(settings, path.parent), overrides)
        try:
            config = build_config(settings)
        except ConfigError as error:
            where = ", ".join(f"{name} {label}" for name, label in chosen.items())
            raise ConfigError(f"{error} (in the cell {where})") from error
        yield Cell({name: label for name, label in chosen.items() if name != "seed"}, config)


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
    """Relative paths are meant from the study's own folder: those that begin with a dot, and those that exist there."""
    changed = settings
    for section, key in (*_FILES, *_FOLDERS):
        inside = settings.get(section)
        value = inside.get(key) if isinstance(inside, Mapping) else None
        if isinstance(value, str):
            changed = merge(changed, {section: {key: _from(folder, value, model=section == "models")}})
        elif isinstance(value, Sequence):
            paths = [_from(folder, one, model=True) if isinstance(one, str) else one for one in value]
            changed = merge(changed, {section: {key: paths}})
    return changed


def _from(folder: Path, value: str, *, model: bool) -> str:
    """A path as it is meant from ``folder``."""
    path, colon, column = value.partition(":")  # a column of a file of ratings may follow
    there = folder / path
    # A folder needs a slash in its name: "w2s-weak" is a built-in model, whatever lies beside the study.
    exists = "/" in path and is_folder(there) if model else is_file(there)
    if path.startswith(".") or (exists and not Path(path).is_absolute()):
        return f"{there.resolve()}{colon}{column}"
    return value

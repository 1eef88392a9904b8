"""From the data section of a configuration to the five splits."""

from __future__ import annotations

import dataclasses
from typing import Any

from ensemw2s.data.binary import askable, to_yes_no, two_choices
from ensemw2s.data.difficulty import rate_by
from ensemw2s.data.groups import without_groups
from ensemw2s.data.noise import wrong_labels
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import is_data_file, read_rows
from ensemw2s.data.splits import Splits, check_splits, explicit_splits, split_rows
from ensemw2s.data.stream import first_rows
from ensemw2s.errors import ConfigError, DataError, nearest
from ensemw2s.experiment.config import Config
from ensemw2s.paths import exists

# Rows of each split where the configuration names no counts, for the built-in world.
_WORLD_COUNTS = {"weak_train": 1000, "validation": 500, "pool": 2000, "test_id": 1000, "test_ood": 1000}
_WORLD_MOST = 1_000_000


def load_splits(config: Config) -> Splits:
    """The splits of a run.

    Raises:
        ConfigError, DataError: settings or rows that do not fit; PrerequisiteError: the hub is out of reach.
    """
    splits = _world(config) if config.data.source == "world" else _given(config)
    if config.task == "binary" and config.data.source == "world":
        splits = _asked(splits, config.seed)
    splits = _yes_no(splits, config.seed) if config.task == "binary" else splits
    return _noisy(splits, config) if config.noise.rate else splits


def _asked(splits: Splits, seed: int) -> Splits:
    """The built-in world's rows, whose answers are free, with a wrong answer each to be told from the right one."""
    lists: dict[str, Any] = {
        name: tuple(two_choices(rows, seed=seed, purpose=name)) for name, rows in splits.named().items()
    }
    return dataclasses.replace(splits, **lists)


def _noisy(splits: Splits, config: Config) -> Splits:
    """Wrong labels in the training rows, and by a draw of their own in the validation rows.

    Validation rows come from the same labelled set: who has wrong labels has them there too, and every choice (epochs,
    fitted rules, held-out errors) is made under them. Tests and the pool's answers are the yardstick and stay right.
    """
    lists, right, report = {}, {}, dict(splits.report)
    for name in ("weak_train", "validation"):
        lists[name], right[name] = wrong_labels(
            getattr(splits, name), config.noise, config.seed, task_format=config.format, purpose=name
        )
        report[f"{name} rows given a wrong answer on purpose"] = len(right[name])
    changed: dict[str, Any] = {name: tuple(rows) for name, rows in lists.items()}
    return dataclasses.replace(splits, **changed, report=report, right=right)


def _given(config: Config) -> Splits:
    data = config.data
    rows = load_rows(data.source, data.columns, limit=data.limit)
    given = {name: getattr(data, name) for name in ("pool", "test_id", "test_ood", "validation")}
    named = {name: path for name, path in given.items() if path}
    if not named:
        if data.difficulty is not None:
            rows = rate_by(rows, data.difficulty)
        told: dict[str, int] = {}
        if config.task == "binary":  # before the cut, so that the splits have the sizes asked for
            rows, told = askable(rows)
        splits = split_rows(rows, config.split, config.seed)
        return dataclasses.replace(splits, report={**told, **splits.report})
    for name in ("pool", "test_id", "test_ood"):
        if name not in named:
            raise ConfigError(
                f"data.{name} is missing: with files of your own give data.pool, data.test_id and data.test_ood"
            )
    lists = {name: load_rows(path, data.columns, need_answer=name != "pool") for name, path in named.items()}
    lists = {"weak_train": rows, **lists}
    if not config.split.respect_groups:
        lists = {name: without_groups(some) for name, some in lists.items()}
    if data.difficulty is not None:  # all files together: one of them alone may well be of one difficulty
        rated = iter(rate_by([row for some in lists.values() for row in some], data.difficulty))
        lists = {name: [next(rated) for _ in some] for name, some in lists.items()}
    return explicit_splits(lists, config.seed)


def _yes_no(splits: Splits, seed: int) -> Splits:
    """Every split as (question, candidate answer) rows with balanced classes; after the cut, so that none is shared."""
    report = dict(splits.report)
    lists: dict[str, Any] = {}
    for name, rows in splits.named().items():
        made, told = to_yes_no(rows, seed=seed, purpose=name)
        lists[name] = tuple(made)
        report |= {f"{name}: {what}": count for what, count in told.items()}
    return dataclasses.replace(splits, **lists, report=report)


def load_rows(
    source: str, columns: dict[str, str] | None = None, *, need_answer: bool = True, limit: int | None = None
) -> list[Row]:
    """Rows of a file or of a hub data set; of a file no more is read than ``limit`` rows.

    Raises:
        DataError: neither a data file nor a data set's name.
        ConfigError: columns are given for a data set, whose names are known.
    """
    from ensemw2s.data.hub import DATASETS, read_hub

    if is_data_file(source) or exists(source):
        if limit is not None:
            return first_rows(source, limit, columns=columns, need_answer=need_answer)
        return read_rows(source, columns=columns, need_answer=need_answer)
    if source in DATASETS and columns:
        raise ConfigError(
            f"data set '{source}' has columns of known names, so none is mapped: {', '.join(columns)} cannot be; leave "
            "the mapping out, or read a file"
        )
    if source in DATASETS:
        return read_hub(source)[:limit]
    raise DataError(f"'{source}' is no data file and no known data set: {nearest(source, ['world', *DATASETS])}")


def _world(config: Config) -> Splits:
    from ensemw2s.world.buckets import draw_rows
    from ensemw2s.world.family import FAMILIES

    data, split = config.data, config.split
    for name in ("threshold", "easy_levels", "hard_levels"):
        if getattr(split, name) is not None:
            raise ConfigError(
                f"split.{name} cuts rows of a file; the built-in world is made by level: use data.easy_levels and "
                "data.hard_levels"
            )
    if data.difficulty is not None:
        raise ConfigError("data.difficulty rates rows of a file; the built-in world's rows have their level already")
    near = data.families or tuple(FAMILIES)
    far = data.ood_families or near
    counts = {name: getattr(split, name) or default for name, default in _WORLD_COUNTS.items()}
    over = [f"split.{name} is {count}" for name, count in counts.items() if count > _WORLD_MOST]
    if over:
        raise ConfigError(f"{', '.join(over)}: the built-in world gives at most {_WORLD_MOST:,} rows a split")
    every = tuple(dict.fromkeys((*data.easy_levels, *data.hard_levels)))
    easy, hard = (data.easy_levels, data.hard_levels) if split.kind == "easy-to-hard" else (every, every)

    def draw(
        count: int, levels: tuple[int, ...], bucket: Any, purpose: str, families: tuple[str, ...] = near
    ) -> list[Row]:
        return draw_rows(count, families=families, levels=levels, bucket=bucket, seed=config.seed, purpose=purpose)

    labelled = draw(counts["weak_train"] + counts["validation"], easy, "question", "easy")
    taken = {row.id for row in labelled}
    # With `random` both sides draw from the same bands: a pool row must not be a labelled one too.
    spare = len(labelled) if split.kind == "random" else 0
    pool = [row for row in draw(counts["pool"] + spare, hard, "question", "pool", far) if row.id not in taken]
    test_id = draw(counts["test_id"], easy, "test", "test_id")
    seen = {row.id for row in test_id}
    spare = len(test_id) if split.kind == "random" else 0
    test_ood = [row for row in draw(counts["test_ood"] + spare, hard, "test", "test_ood", far) if row.id not in seen]
    splits = Splits(
        weak_train=tuple(labelled[: counts["weak_train"]]),
        validation=tuple(labelled[counts["weak_train"] :]),
        pool=tuple(pool[: counts["pool"]]),
        test_id=tuple(test_id),
        test_ood=tuple(test_ood[: counts["test_ood"]]),
    )
    return check_splits(splits)


def hide_answers(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The questions alone: what every stage gets that must not see the hard side's labels."""
    return tuple(dataclasses.replace(row, answer=None, raw={}) for row in rows)

"""Hub data sets by name: declared in ``datasets.yaml``, with a formatter where renaming fields is not enough.

A new data set is one entry there, and maybe one formatter here (a plug-in registers a ``HubDataset`` itself).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ensemw2s.data.rows import Row
from ensemw2s.data.sources import content_id, group_name, resolve_answer
from ensemw2s.errors import CacheError, ConfigError, DataError, PrerequisiteError, nearest
from ensemw2s.network import Unreachable, ask, first_line
from ensemw2s.registry import Registry

Record = Mapping[str, Any]
Formatter = Callable[[Record], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class HubDataset:
    """One declared data set.

    Attributes:
        hub_id: the hub repository, or a local folder in the same format.
        config: its configuration, where it has several.
        revision: branch or commit, where the main branch is not what is read.
        splits: our split names to the hub's.
        fields: our columns to the hub's, laid over what the formatter reads; ``group`` among them names what keeps rows
            on one side of a split.
        formatter: from a hub record (fields renamed) to our columns.
    """

    hub_id: str
    splits: Mapping[str, str]
    formatter: Formatter
    config: str | None = None
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    revision: str | None = None


DATASETS: Registry[HubDataset] = Registry("datasets")
FORMATTERS: Registry[Formatter] = Registry("dataset formatters")


@FORMATTERS.register("labelled_choices")
def labelled_choices(record: Record) -> dict[str, Any]:
    """``choices: {text, label}`` and ``answerKey``, one of the labels (A-E or 1-5)."""
    labels, texts = list(record["choices"]["label"]), list(record["choices"]["text"])
    key = record.get("answerKey")
    answer = texts[labels.index(key)] if key in labels else None
    return {"question": record["question"], "choices": texts, "answer": answer}


@FORMATTERS.register("distractors")
def distractors(record: Record) -> dict[str, Any]:
    """SciQ: the right answer and three wrong ones, in an order fixed by the question's own hash."""
    texts = [record["correct_answer"], *(record[f"distractor{number}"] for number in (1, 2, 3))]
    texts = list(dict.fromkeys(text for text in texts if text.strip()))  # some distractors are blank or repeated
    order = sorted(texts, key=lambda text: hashlib.sha256(f"{record['question']}\x1f{text}".encode()).digest())
    return {
        "question": record["question"],
        "context": record.get("support"),
        "choices": order,
        "answer": record["correct_answer"],
    }


@FORMATTERS.register("yes_no")
def yes_no(record: Record) -> dict[str, Any]:
    """BoolQ: a truth value becomes one of the choices no and yes."""
    answer = None if record.get("answer") is None else ("yes" if record["answer"] else "no")
    return {
        "question": record["question"],
        "context": record.get("passage"),
        "choices": ["no", "yes"],
        "answer": answer,
    }


@FORMATTERS.register("numbered_answers")
def numbered_answers(record: Record) -> dict[str, Any]:
    """CosmosQA: ``answer0`` to ``answer3`` and an index ``label``."""
    choices = [record[f"answer{number}"] for number in range(4)]
    label = record.get("label")
    answer = choices[label] if isinstance(label, int) and 0 <= label < 4 else None
    return {"question": record["question"], "context": record.get("context"), "choices": choices, "answer": answer}


@FORMATTERS.register("final_number")
def final_number(record: Record) -> dict[str, Any]:
    """GSM8K: the number after ``####``; the difficulty is the number of solution steps."""
    solution, _, number = str(record["answer"]).rpartition("####")
    steps = sum(1 for line in solution.splitlines() if line.strip())
    return {"question": record["question"], "answer": number.strip().replace(",", ""), "difficulty": float(steps)}


def _register() -> None:
    import yaml

    text = (files("ensemw2s.data") / "datasets.yaml").read_text(encoding="utf-8")
    for name, entry in yaml.safe_load(text).items():
        DATASETS.register(name)(
            HubDataset(
                hub_id=entry["hub"],
                splits=entry["splits"],
                formatter=FORMATTERS.get(entry["format"]),
                config=entry.get("config"),
                fields=entry.get("fields", {}),
                revision=entry.get("revision"),
            )
        )


_register()


def read_hub(name: str, *, split: str | None = None, limit: int | None = None) -> list[Row]:
    """The labelled rows of a data set, with ``split`` train, validation or test. A repeated row is kept once.

    Args:
        name: a name in ``DATASETS``.
        split: one of our split names; None reads all of them.
        limit: at most so many rows of each split.

    Raises:
        ConfigError: no such data set, or it has no such split.
        PrerequisiteError: the ``hub`` extra is not installed, or the hub cannot be reached.
        DataError: the hub has no such data set, configuration or revision, or its records not the declared fields.
    """
    dataset = DATASETS.get(name)
    if split is not None and split not in dataset.splits:
        raise ConfigError(f"data set '{name}' has no split '{split}': {nearest(split, dataset.splits)}")
    rows: dict[str, Row] = {}
    loading = _loading(name, dataset)
    for ours in dataset.splits if split is None else (split,):
        for number, record in enumerate(loading(dataset.splits[ours])):
            if limit is not None and number >= limit:
                break
            row = to_row(dataset, record, ours)
            if row is not None:
                rows.setdefault(row.id, row)
    return list(rows.values())


def to_row(dataset: HubDataset, record: Record, split: str) -> Row | None:
    """One hub record as a row; None where it has no label.

    Raises:
        DataError: a declared field is missing.
    """
    renamed = {**record, **{ours: record.get(theirs) for ours, theirs in dataset.fields.items()}}
    try:
        if "group" in dataset.fields:  # a lost field would part what belongs together, in silence
            renamed["group"] = record[dataset.fields["group"]]
        columns = dataset.formatter(renamed)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"a record of {dataset.hub_id} does not fit its declaration ({type(error).__name__}: {error}); "
            f"its fields: {', '.join(map(str, record))}. The data set changed on the hub: correct data/datasets.yaml"
        ) from error
    context = columns.get("context") or renamed.get("context") or None
    choices = tuple(columns["choices"]) if columns.get("choices") else None
    identity = str(record.get("id") or content_id(columns["question"], context, choices))
    answer = resolve_answer(columns["answer"], choices, f"{dataset.hub_id}, row {identity}")
    if answer is None:
        return None
    group = group_name(columns.get("group", renamed.get("group")))
    raw = {"id": identity, "context": context, **columns, "split": split, **({} if group is None else {"group": group})}
    return Row(identity, columns["question"], answer, context, choices, columns.get("difficulty"), split, raw, group)


def _loading(name: str, dataset: HubDataset) -> Callable[[str], Iterable[Record]]:
    """From a hub split to its records. One look at the hub decides whether to ask it or the local cache."""
    try:
        import datasets
    except ImportError as error:
        raise PrerequisiteError(
            f"data set '{name}' lies on the hub, and reading it needs an extra: pip install 'ensemw2s[hub]'"
        ) from error
    datasets.disable_progress_bars()
    away = None if Path(dataset.hub_id).is_dir() else _away(name, dataset)

    def look(split: str) -> Iterable[Record]:
        found: Iterable[Record] = datasets.load_dataset(
            dataset.hub_id, dataset.config, split=split, revision=dataset.revision
        )
        return found

    def load(split: str) -> Iterable[Record]:
        try:
            if away is None:
                return ask(lambda: look(split), f"data set '{name}' ({dataset.hub_id})", _REMEDY)
            with _offline():
                return look(split)
        except (Unreachable, CacheError):
            raise
        except Exception as error:  # datasets and the hub client raise errors of a dozen kinds
            if away is not None:
                raise away from error
            raise DataError(
                f"cannot load data set '{name}' ({_described(dataset)}), though the hub answers: {first_line(error)}; "
                "correct its declaration, or give a file of your own as data.source"
            ) from error

    return load


_REMEDY = (
    "fetch it where there is one and bring the hub's cache (HF_HOME) here, or give a file of your own as data.source"
)


def _described(dataset: HubDataset) -> str:
    """Id, configuration and revision: what may be wrong in a declaration."""
    config = f", configuration {dataset.config}" if dataset.config else ""
    revision = f", revision {dataset.revision}" if dataset.revision else ""
    return f"{dataset.hub_id}{config}{revision}"


def _away(name: str, dataset: HubDataset) -> Unreachable | DataError | None:
    """The error to raise where the cache has not got it either; None where the hub has it.

    Returns:
        Unreachable where the hub gives no answer, DataError where it has no such thing or not for everyone.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"data set '{name}' ({dataset.hub_id})"
    try:
        ask(lambda: HfApi().dataset_info(dataset.hub_id, revision=dataset.revision), what, _REMEDY)
    except Unreachable as error:
        return error
    except GatedRepoError:
        return DataError(f"access to {what} is gated: accept its terms on the hub and log in with `hf auth login`")
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError):
        return DataError(
            f"no data set '{name}' at {_described(dataset)} on the hub (or it is private: log in with "
            "`hf auth login`); correct its declaration, or give a file of your own as data.source"
        )
    except HfHubHTTPError:
        return None  # it answered; what is wrong with the data set, loading will say
    return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """``datasets`` looks into its local cache only."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before

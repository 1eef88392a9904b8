"""Hub data sets by name: declared in ``datasets.yaml``, with a formatter where renaming fields is not enough.

A new data set is one entry there, and maybe one formatter here (a plug-in registers a ``HubDataset`` itself).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any

from ensemw2s.data.rows import Row
from ensemw2s.data.sources import content_id, resolve_answer
from ensemw2s.errors import PrerequisiteError
from ensemw2s.registry import Registry

Record = Mapping[str, Any]
Formatter = Callable[[Record], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class HubDataset:
    """One declared data set.

    Attributes:
        hub_id: the hub repository, or a local folder in the same format.
        config: its configuration, where it has several.
        splits: our split names to the hub's.
        fields: our columns to the hub's, laid over what the formatter reads.
        formatter: from a hub record (fields renamed) to our columns.
    """

    hub_id: str
    splits: Mapping[str, str]
    formatter: Formatter
    config: str | None = None
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
    order = sorted(texts, key=lambda text: hashlib.sha256(f"{record['question']}\x1f{text}".encode()).digest())
    return {"question": record["question"], "context": record.get("support"), "choices": order, "answer": texts[0]}


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
        formatter = FORMATTERS.get(entry["format"])
        fields = entry.get("fields", {})
        DATASETS.register(name)(HubDataset(entry["hub"], entry["splits"], formatter, entry.get("config"), fields))


_register()


def read_hub(name: str, *, limit: int | None = None) -> list[Row]:
    """All labelled rows of a data set, with ``split`` train, validation or test.

    Args:
        name: a name in ``DATASETS``.
        limit: at most so many rows of each split.

    Raises:
        ConfigError: no such data set.
        PrerequisiteError: the ``hub`` extra is not installed, or the hub cannot be reached.
    """
    dataset = DATASETS.get(name)
    rows: list[Row] = []
    seen: set[str] = set()
    for split, hub_split in dataset.splits.items():
        for number, record in enumerate(_load(name, dataset, hub_split)):
            if limit is not None and number >= limit:
                break
            row = to_row(dataset, record, split)
            if row is not None and row.id not in seen:
                seen.add(row.id)
                rows.append(row)
    return rows


def to_row(dataset: HubDataset, record: Record, split: str) -> Row | None:
    """One hub record as a row; None where it has no label."""
    renamed = {**record, **{ours: record.get(theirs) for ours, theirs in dataset.fields.items()}}
    columns = dataset.formatter(renamed)
    context = columns.get("context") or renamed.get("context") or None
    choices = tuple(columns["choices"]) if columns.get("choices") else None
    identity = record.get("id") or content_id(columns["question"], context, choices)
    answer = resolve_answer(columns["answer"], choices, f"row {identity}")
    if answer is None:
        return None
    raw = {"id": str(identity), **columns, "split": split}
    return Row(str(identity), columns["question"], answer, context, choices, columns.get("difficulty"), split, raw)


def _load(name: str, dataset: HubDataset, split: str) -> Iterator[Record]:
    try:
        import datasets
    except ImportError as error:
        raise PrerequisiteError(
            f"data set '{name}' lies on the hub, and reading it needs an extra: pip install 'ensemw2s[hub]'"
        ) from error
    datasets.disable_progress_bars()
    try:
        yield from datasets.load_dataset(dataset.hub_id, dataset.config, split=split)
    except Exception as error:  # datasets and the hub client raise errors of a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise PrerequisiteError(
            f"cannot load data set '{name}' ({dataset.hub_id}): {reason}. It needs the hub or its local cache: "
            "check the network, or give a file of your own as data.source"
        ) from error

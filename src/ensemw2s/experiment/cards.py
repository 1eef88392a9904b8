"""What a run or a single step knows for the cards of its folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.hub import DATASETS
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.card import Score, Story
from ensemw2s.evaluation.intervals import wilson
from ensemw2s.experiment.config import Config, plain
from ensemw2s.experiment.identity import rows_fingerprint
from ensemw2s.experiment.pipeline import Outcome

RIGHT_ANSWERS = "right ones"


def story_of_rows(rows: Sequence[Row], labels: str, source: object = None, **settings: Any) -> Story:
    """Of a step on its own: what it was trained on and how; nothing was measured.

    Args:
        rows: labelled.
        labels: what their answers are, in words.
        source: a file or a data set's name, where the rows came from one.
        **settings: dataclasses of settings by the name they have in a configuration.

    What the form of boosting does not look at is left out.
    """
    idle = {f"{name}.{one}" for name, value in settings.items() if isinstance(value, BoostSettings)
            for one in value.unused}  # fmt: skip
    named = str(source) if isinstance(source, (str, Path)) else ""
    return Story(
        source=_in_words(named), datasets=_hub_ids(named), rows=len(rows), labels=labels,
        fingerprint=rows_fingerprint(rows, answers=True),
        settings={name: value for name, value in _flat(settings).items() if name not in idle},
    )  # fmt: skip


def story_of_ensemble(config: Config, outcome: Outcome, results: Mapping[str, Any]) -> Story:
    """Of a run's ensemble."""
    settings = {"boost": config.boost, "expert": config.expert, "seed": config.seed}
    told = story_of_rows(outcome.splits.weak_train, RIGHT_ANSWERS, config.data.source, **settings)
    return told.model_copy(update={"system": "ensemble", **_measured(results, "ensemble")})


def story_of_student(config: Config, outcome: Outcome, results: Mapping[str, Any]) -> Story:
    """Of a run's student, with how right the labels were that it learned from."""
    settings = {"student": config.student, "loss": config.loss, "selection": config.selection, "seed": config.seed}
    pool, easy = outcome.labelled["ensemble"].rows, outcome.splits.weak_train
    labels = "those of the boosted ensemble"
    if config.student_rows == "all":
        labels += f" for {len(pool)} of them, right ones for the {len(easy)} labelled easy rows"
        settings["student_rows"] = config.student_rows
        pool = (*pool, *easy)
    told = story_of_rows(pool, labels, config.data.source, **settings)
    quality = next((one for one in results["pseudo_labels"] if one["teacher"] == "ensemble"), None)
    found = None if quality is None or not quality["taught"] else _taught(quality)
    return told.model_copy(update={"system": "student", "label_quality": found, **_measured(results, "student")})


def _taught(quality: Mapping[str, Any]) -> Score:
    """How right the labels are that the student learned from; of those its selection left out nothing is said."""
    rows, right = quality["taught"], quality["taught_right"]
    span = wilson(round(right * rows), rows)
    return Score(
        system="ensemble", split="pool", metric=quality["metric"], value=right, low=span.low, high=span.high, n=rows
    )


def _measured(results: Mapping[str, Any], system: str) -> dict[str, Any]:
    """The system's scores in every metric, all systems' in the main one, its PGR, and the run's warnings."""
    main = results["main_metric"]
    scores = [
        Score(system=one["system"], split=one["split"], chance=one["chance"], **_numbers(one))
        for one in results["scores"] if one["system"] == system or one["metric"] == main
    ]  # fmt: skip
    recovered = [
        Score(system=system, split=one["split"], reason=one.get("reason"), **_numbers(one))
        for one in results["pgr"] if one["system"] == system and one["metric"] == main
    ]  # fmt: skip
    return {"main_metric": main, "scores": tuple(scores), "pgr": tuple(recovered),
            "warnings": tuple(results["warnings"])}  # fmt: skip


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("metric", "value", "low", "high", "n")}


def _in_words(source: str) -> str:
    """A source as it may be published: no path of this machine."""
    if source == "world":
        return "the built-in world of ensemw2s"
    if source in DATASETS:
        return f"{DATASETS.get(source).hub_id} ({source})"
    return f"the file {Path(source).name}" if source else ""


def _hub_ids(source: str) -> tuple[str, ...]:
    return (DATASETS.get(source).hub_id,) if source in DATASETS else ()


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """``{"boost.rounds": "4"}``; what is not set is left out."""
    found: dict[str, str] = {}
    for name, value in plain(settings).items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        elif value is not None:
            found[f"{above}{name}"] = str(value)
    return found

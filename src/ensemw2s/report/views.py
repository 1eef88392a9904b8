"""``views.json``: read and checked; and the examples of runs from before there was one, in the same shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ensemw2s.artifacts import read_json
from ensemw2s.errors import CacheError
from ensemw2s.report.results import Record, Results
from ensemw2s.report.shape import VIEWS, check_shape

SCHEMA = 1
# In this order; what else there is comes after.
_SPLITS = ("test_ood", "test_id", "weak_train")
_MOST_SHADED = 4.0  # a weight of 1 + this has the full shade


class Group(NamedTuple):
    """Views of one split, under one heading."""

    split: str
    views: list[Record]


def read_views(run_dir: Path) -> Record | None:
    """The rows that a run keeps token by token; None for a run without them.

    Raises:
        CacheError: the file is not what it should be.
    """
    path = run_dir / "views.json"
    if not path.is_file():
        return None
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise CacheError(
            f"{path} has schema {found!r}, this version reads {SCHEMA}: run the same command again with this version"
        )
    check_shape(data, VIEWS, str(path))
    return data


def grouped(results: Results, views: Record | None) -> list[Group]:
    """All views of a report by split, hard tests first, each with a ``place`` of its own; without views.json the
    examples that stand in older results.
    """
    if views is not None:
        found = [{**view, "experts": views["experts"]} for view in views["views"]]
    else:
        found = [_of_example(example) for example in results["examples"]]
    splits = [*_SPLITS, *dict.fromkeys(view["split"] for view in found if view["split"] not in _SPLITS)]
    groups = [Group(split, [view for view in found if view["split"] == split]) for split in splits]
    place = 0
    for group in groups:
        for view in group.views:
            view["place"], place = place, place + 1
            view["rounds"] = max([len(token.get("weights") or ()) for token in view["tokens"]], default=0)
    return [group for group in groups if group.views]


def page_data(groups: list[Group]) -> list[Record]:
    """What the page's script needs, a view at its place."""
    return [
        {"kind": view["kind"], "experts": view["experts"], "tokens": view["tokens"], "label": _label(view)}
        for group in groups
        for view in group.views
    ]


def shade(weight: float) -> int:
    """Percent of the shading colour for a training weight, 0 to 45; at or below the average none.

    >>> shade(0.5), shade(1), shade(3), shade(100)
    (0, 0, 22, 45)
    """
    return round(45 * max(0.0, min(1.0, (weight - 1) / _MOST_SHADED)))


def _label(view: Record) -> str:
    what = "Right answer" if view["kind"] == "label" else "Answer of the ensemble"
    return f"{what}, token by token: {' '.join(str(view['question']).split())[:80]}"


def _of_example(example: Record) -> Record:
    """An example of results from before views.json: training rows, with votes as far as the ensemble was right.

    Its weights were told as they were; here they are multiples of the first round's.
    """
    tokens = [token for token in example.get("tokens") or [] if isinstance(token, dict)]
    alphas = {vote["expert"]: vote.get("alpha") for token in tokens for vote in token.get("votes") or []}
    total = sum(alpha or 0 for alpha in alphas.values())
    answers = [
        {"system": name, "text": text, "right": _loose(text) == _loose(example.get("answer"))}
        for name, text in (example.get("systems") or {}).items()
    ]
    return {
        "id": example["id"], "split": example.get("split") or "rows", "question": example["question"],
        "answer": example.get("answer"), "answers": answers, "left_out": 0, "right": None,
        "kind": "label" if any(token.get("weights") for token in tokens) else "answer",
        "experts": [{"alpha": a, "weight": (a or 0) / total if total else None} for a in alphas.values()],
        "tokens": [_of_token(token) for token in tokens],
    }  # fmt: skip


def _of_token(token: Record) -> Record:
    text, weights = token.get("gold", token.get("text")) or "", token.get("weights") or []
    votes: list[dict[str, Any]] = [
        {"text": vote.get("text") or "", "probability": vote.get("probability"), "chosen": None,
         "agrees": vote.get("text") == text}
        for vote in token.get("votes") or []
    ]  # fmt: skip
    likeliest = [{"text": token["mixture"], "probability": None}] if token.get("mixture") else []
    lifts = [round(weight / weights[0], 4) for weight in weights] if weights and weights[0] > 0 else []
    return {"text": text, "probability": None, "likeliest": token.get("right"), "top": likeliest, "votes": votes,
            "weights": lifts}  # fmt: skip


def _loose(text: Any) -> str:
    """Text as it is compared for the marks beside old examples; scores use the task's own rule."""
    return " ".join(str(text).casefold().split())

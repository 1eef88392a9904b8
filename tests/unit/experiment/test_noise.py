"""What is told of wrong labels, on a bench with contents made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ensemw2s.boosting.samples import Samples
from ensemw2s.data.rows import Row
from ensemw2s.data.splits import Splits
from ensemw2s.experiment.bench import Counts, StoredBench
from ensemw2s.experiment.config import build_config
from ensemw2s.experiment.noise import looked_at, noise_record
from ensemw2s.experiment.pipeline import Outcome

ROWS = tuple(Row(f"r{i}", "?", "given") for i in range(4))
SPLITS = Splits(ROWS, ROWS[:2], ROWS, ROWS, ROWS, right={"weak_train": {"r1": "right", "r3": "true"}, "validation": {}})
CONFIG = build_config({"noise": {"rate": 0.5, "kind": "adversarial"}})
# right tokens, tokens, nats of every row as labelled; the longest row has the largest sum, not the largest mean
GIVEN: dict[str, Counts] = {"r0": (8, 8, 4.0), "r1": (1, 2, 3.0), "r2": (1, 2, 1.0), "r3": (1, 1, 2.0)}
TRUE: dict[str, Counts] = {"r1": (2, 2, 0.1), "r3": (0, 1, 3.0)}


class Bench:
    purpose = ""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str | None, ...]]] = []

    def token_counts(self, members: str, rows: Any) -> list[dict[str, Counts]]:
        self.asked.append((members, tuple(row.answer for row in rows)))
        early = {row.id: (0, 1, 9.0) for row in rows}  # the first experts alone must not be taken
        return [early, GIVEN if len(rows) == 4 else TRUE]


def boosted(level: Any = "token") -> Any:
    offsets = torch.tensor([0, 2, 4, 5, 6])
    weights = (torch.full((6,), 1 / 6), torch.tensor([1.0, 2, 5, 2, 4, 1]) / 15)
    if level == "row":
        weights = (torch.full((4,), 1 / 4), torch.tensor([1.0, 6, 2, 1]) / 10)
    table = SimpleNamespace(ids=("r0", "r1", "r2", "r3"), offsets=offsets)
    return SimpleNamespace(tables=(table,), weights=weights, samples=Samples(level, offsets))


def record(splits: Splits = SPLITS, **more: Any) -> tuple[Any, Bench]:
    systems = {"weak": "WEAK", "ensemble": "BOOSTED", "student": "S", "strong_on_easy": "E"}
    outcome = SimpleNamespace(splits=splits, systems=systems, **{"boosted": boosted(), **more})
    bench = Bench()
    return noise_record(CONFIG, cast(Outcome, outcome), cast(StoredBench, bench)), bench


def test_the_weak_side_is_asked_about_given_and_right_answers() -> None:
    found, bench = record()
    assert bench.asked == [
        ("WEAK", ("given",) * 4), ("BOOSTED", ("given",) * 4), ("WEAK", ("right", "true")), ("BOOSTED", ("right", "true")),
    ]  # fmt: skip
    assert [one["system"] for one in found["losses"]] == ["weak", "ensemble"]
    assert (found["rate"], found["kind"]) == (0.5, "adversarial")
    assert found["splits"] == {"weak_train": {"rows": 4, "wrong": 2}, "validation": {"rows": 2, "wrong": 0}}


def test_weights_by_round_by_hand() -> None:
    even, later = record()[0]["weights"]
    assert (even["round"], even["auc"], even["precision"]) == (1, 0.5, 0.5)
    assert even["token_share"] == even["weight_share"] == pytest.approx(3 / 6)
    assert later["weight_share"] == pytest.approx((5 + 2 + 1) / 15)
    # Means of rows: 1.5, 3.5, 4, 1: of the wrong rows 1 and 3, one is above row 0 alone, the other above none.
    assert (later["round"], later["auc"], later["precision"], later["recall"]) == (2, 0.25, 0.5, 0.5)


def test_where_rows_are_weighed_their_weights_count_whatever_their_length() -> None:
    even, later = record(boosted=boosted("row"))[0]["weights"]
    assert even["auc"] == 0.5
    assert later["weight_share"] == pytest.approx(7 / 10)
    assert later["auc"] == 2.5 / 4  # 1, 6, 2, 1: row 1 is above both others, row 3 ties with one


def test_losses_are_means_a_token() -> None:
    weak = record()[0]["losses"][0]  # 0.5, 1.5, 0.5, 2.0
    assert (weak["auc"], weak["precision"], weak["top_precision"], weak["base"]) == (1.0, 1.0, 1.0, 0.5)


def test_what_was_learned_by_hand() -> None:
    learned = record()[0]["learned"][1]
    assert learned == {
        "system": "ensemble", "wrong_rows": 2, "memorised": 0.5, "corrected": 0.5, "other_rows": 2, "fitted": 0.5,
    }  # fmt: skip


def test_without_an_ensemble_or_without_wrong_labels() -> None:
    assert record(boosted=None)[0]["weights"] == []
    found, bench = record(Splits(ROWS, ROWS, ROWS, ROWS, ROWS))
    assert found is None
    assert bench.asked == []
    assert looked_at(Splits(ROWS, ROWS, ROWS, ROWS, ROWS)) == (ROWS, [])

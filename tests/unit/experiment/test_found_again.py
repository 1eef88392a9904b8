"""What a run reads back from its store and its folder is what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ensemw2s.evaluation.rowscores import RowScores
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.measuring import Measured, write_row_scores
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.shelf import BenchSettings, Shelf
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import Store
from ensemw2s.methods.bench import Members


def test_stored_views_are_those_that_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("tiny")
    rows = load_splits(config).weak_train[:3]
    bench = StoredBench(BenchSettings.of(config), Store(tmp_path))
    both = Members((bench.pretrained("weak"), bench.pretrained("strong")), (1.0, 0.5), "mean")
    made = {labelled: bench.views(both, rows, labelled=labelled, most=4) for labelled in (True, False)}
    assert [len(record["tokens"][0]["votes"]) for record in made[False]] == [2, 2, 2]
    monkeypatch.setattr(Shelf, "load_all", None)  # from here on no model can be loaded
    again = StoredBench(BenchSettings.of(config), Store(tmp_path))
    for labelled, records in made.items():
        assert again.views(both, rows, labelled=labelled, most=4) == records


def test_row_scores_as_a_table(tmp_path: Path) -> None:
    def scores(metric: str, ids: tuple[str, ...], right: list[float]) -> RowScores:
        return RowScores(metric, ids, np.array(right), np.array([2.0] * len(ids)))

    ids = ("plain", "größer ≥ 中", "")
    one, other = scores("exact_match", ids, [0.0, 1.0, 2.0]), scores("nll", ids[::-1], [0.25, 0.5, 1.0])
    measured = Measured({("weak", "test_id", "exact_match"): one, ("student", "test_ood", "nll"): other}, {}, {})
    write_row_scores(tmp_path / "rows.parquet", measured)
    table = pq.read_table(tmp_path / "rows.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("system", "string"), ("split", "string"), ("metric", "string"), ("id", "string"),
        ("correct", "double"), ("total", "double"),
    ]  # fmt: skip
    rows = [tuple(record.values()) for record in table.to_pylist()]
    assert rows[:3] == [
        ("weak", "test_id", "exact_match", row_id, float(n), 2.0) for n, row_id in enumerate(ids)
    ]  # fmt: skip
    assert rows[3:] == [
        ("student", "test_ood", "nll", row_id, n, 2.0) for n, row_id in zip((0.25, 0.5, 1.0), ids[::-1], strict=True)
    ]

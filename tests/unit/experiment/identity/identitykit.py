"""A whole run without a model: every stage is named, none is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ensemw2s.artifacts import write_json, write_jsonl
from ensemw2s.data.rows import Row
from ensemw2s.data.splits import Splits
from ensemw2s.experiment import bench as bench_module
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.layers import merge
from ensemw2s.experiment.measuring import TESTS, measure_rows
from ensemw2s.experiment.pipeline import open_workshop
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.store import StageResult, Store
from ensemw2s.methods.bench import Members
from ensemw2s.methods.systems import SYSTEMS, build_order
from ensemw2s.models.devices import resolve_device


class Spy(StoredBench):
    """Writes down what is asked for, and answers with contents that depend on the rows alone."""

    def __init__(self, settings: BenchSettings, store: Store) -> None:
        super().__init__(settings, store, Reporter())
        self.asked: dict[str, set[str]] = {}
        self.inputs: dict[str, list[Mapping[str, Any]]] = {}
        self.rows: Sequence[Row] = ()
        self.members: Members | None = None

    def _stage(self, name: str, title: str, inputs: Mapping[str, Any], build: Any) -> StageResult:
        identity = self.store.identity(name, bench_module.VERSIONS[name], inputs)
        kind = f"{name} {title.split()[1]}" if name == "expert" else name
        self.asked.setdefault(kind, set()).add(identity)
        self.inputs.setdefault(kind, []).append(inputs)
        folder = self.store.folder(name, identity)
        if not folder.exists():
            folder.mkdir(parents=True)
            getattr(self, f"_fake_{name.replace('-', '_')}")(folder)
        return StageResult(name, identity, folder, 1.0, reused=False)

    def _fake_expert(self, folder: Path) -> None:
        write_json(folder / "training.json", {"losses": [1.0]})

    _fake_average = _fake_expert

    def _fake_token_table(self, folder: Path) -> None:
        assert self.members is not None
        expert = self.members.experts[0]
        encoded = self.shelf.encode(self.rows, expert.role, 128).rows
        sizes = torch.tensor([0, *(len(row.input_ids) - row.prompt_length for row in encoded)])
        label = torch.cat([torch.tensor(row.input_ids[row.prompt_length :]) for row in encoded])
        # Most tokens are wrong before any training, some after; which is up to the label and the place alone.
        wrong = (torch.arange(len(label)) * 7 + label) % 10 < (8 if expert.folder is None else 3)
        values = torch.full((len(label),), -0.5, dtype=torch.float64)
        save_file(
            {"offsets": sizes.cumsum(0), "label": label, "top_id": torch.where(wrong, 1 - label.clamp(max=1), label),
             **{name: values.clone() for name in ("log_prob", "top_log_prob", "entropy", "mean_log_prob")}},
            folder / "tokens.safetensors",
        )  # fmt: skip
        write_json(folder / "ids.json", [row.id for row in encoded])

    def _fake_token_counts(self, folder: Path) -> None:
        assert self.members is not None
        write_json(folder / "counts.json", [{row.id: [1, 2, 0.5] for row in self.rows}] * len(self.members.experts))

    def _fake_options(self, folder: Path) -> None:
        assert self.members is not None
        scores = [[-float(place) for place, _ in enumerate(row.choices or ())] for row in self.rows]
        write_json(folder / "options.json", [[one] * 2 * len(self.members.experts) for one in scores])

    def _fake_soft_labels(self, folder: Path) -> None:
        save_file({"ids": torch.tensor([[1, 2]]), "probs": torch.tensor([[0.5, 0.25]])}, folder / "soft.safetensors")

    def _fake_answers(self, folder: Path) -> None:
        confidence = {row.id: 0.05 + 0.9 * place / len(self.rows) for place, row in enumerate(self.rows)}
        write_jsonl(
            folder / "answers.jsonl",
            [{"id": row.id, "text": "yes", "confidence": confidence[row.id],
              "agreement": 1 - confidence[row.id], "probability": confidence[row.id]} for row in self.rows],
        )  # fmt: skip

    def _note(self, members: Members, rows: Sequence[Row]) -> None:
        self.members, self.rows = members, rows

    def _table(self, single: Members, rows: Sequence[Row]) -> Any:
        self._note(single, rows)
        return super()._table(single, rows)

    def token_counts(self, members: Members, rows: Sequence[Row]) -> Any:
        self._note(members, rows)
        return super().token_counts(members, rows)

    def _option_tables(self, members: Members, rows: Sequence[Row]) -> Any:
        self._note(members, rows)
        return super()._option_tables(members, rows)

    def soft_labels(
        self, members: Members, rows: Sequence[Row], top_k: int, *, student: Any, with_labels: bool = False
    ) -> Any:
        self._note(members, rows)
        return super().soft_labels(members, rows, top_k, student=student, with_labels=with_labels)

    def _written_shard(self, members: Members, rows: Sequence[Row], purpose: str) -> Any:
        self._note(members, rows)
        return super()._written_shard(members, rows, purpose)


def some_rows(name: str, count: int) -> list[Row]:
    """Rows that a generation task and a binary one can both read."""
    return [
        Row(f"{name}{n}", f"Has {name} {n} a colour?", ("no", "yes")[n % 2], choices=("no", "yes"))
        for n in range(count)
    ]


SIZES = {"weak_train": 12, "validation": 9, "pool": 14, "test_id": 5, "test_ood": 6}
SPLITS = Splits(**{name: some_rows(name, count) for name, count in SIZES.items()}, report=None)  # type: ignore[arg-type]

PLAIN = {
    "device": "cpu", "models": {"strong_tuning": "lora"}, "boost": {"rounds": 2}, "student": {"batch_size": 8},
    "data": {"source": "rows.jsonl"}, "selection": {"name": "confident", "fraction": 0.9},
    "systems": ["weak", "ensemble", "averaged", "student", "student_iterated", "few_shot", "ceiling"],
}  # fmt: skip
BASES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "soft": merge(PLAIN, {"loss": {"targets": "soft"}, "systems": ["weak", "ensemble", "student", "ceiling"]}),
    "binary": merge(PLAIN, {"task": "binary", "boost": {"prior": "none"},
                            "systems": ["weak", "ensemble", "student", "ceiling"]}),
    "reweight": merge(PLAIN, {"boost": {"mode": "reweight"}}),
    "additive": merge(PLAIN, {"boost": {"form": "additive"}, "rule": "additive"}),
    "weak lora": merge(PLAIN, {"models": {"weak_tuning": "lora", "strong_tuning": "full"}}),
    "not averaged": merge(PLAIN, {"systems": [name for name in PLAIN["systems"] if name != "averaged"]}),
    "several": merge(PLAIN, {"models": {"more_weak": ["w2s-strong"]}, "systems": ["weak", "uniform"],
                             "weak_epochs": [1]}),
}  # fmt: skip


def asked(config: Config, root: Path, splits: Splits = SPLITS) -> Spy:
    """Every stage that a run of this configuration asks for."""
    store = Store(root, numerics(resolve_device(config.device), config.dtype))
    shop = open_workshop(config, splits, store, Reporter())
    shop.bench = spy = Spy(BenchSettings.of(config), store)
    for name in build_order(config.systems):
        shop.systems[name] = SYSTEMS.get(name).build(shop)
    for members in shop.systems.values():
        for split in TESTS:
            measure_rows(spy, members, getattr(splits, split), config.evaluation.metrics, "test")
    return spy


# Kinds of stages.
WEAK, STRONG, TABLE, AVERAGE = "expert weak", "expert strong", "token-table", "average"
ANSWERS, COUNTS, OPTIONS, SOFT = "answers", "token-counts", "options", "soft-labels"
SCORES = frozenset({ANSWERS, COUNTS, OPTIONS})
STUDENTS = SCORES | {STRONG}  # trained anew, and what they say

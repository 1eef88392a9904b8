"""What is in an identity (docs/adr/0010): every setting is classified, and changes exactly what it should."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ensemw2s.artifacts import write_json, write_jsonl
from ensemw2s.data.encoding import encode_prompts, encode_rows, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.splits import Splits
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.experts import end_tokens
from ensemw2s.experiment import bench as bench_module
from ensemw2s.experiment import identity as identity_module
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config, build_config
from ensemw2s.experiment.identity import (
    model_fingerprint,
    numerics,
    rows_fingerprint,
    training_identity,
)
from ensemw2s.experiment.layers import merge
from ensemw2s.experiment.measuring import TESTS, measure_rows
from ensemw2s.experiment.opening import Machine, open_members
from ensemw2s.experiment.pipeline import method_settings, open_workshop
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.store import StageResult, Store
from ensemw2s.methods.bench import Members
from ensemw2s.methods.systems import SYSTEMS, build_order
from ensemw2s.models.adapters import LoraSettings, add_lora, save_adapter
from ensemw2s.models.devices import resolve_device
from ensemw2s.models.loading import load_model, load_tokenizer, model_folder
from ensemw2s.models.vocabulary import tokenizer_fingerprint
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.settings import TrainSettings

# -- a whole run without a model: every stage is named, none is computed ----------------------------------------


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


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    return {name: asked(build_config(settings), tmp_path_factory.mktemp("base")).asked
            for name, settings in BASES.items()}  # fmt: skip


# Kinds of stages. What is named here is what is asked for anew; what follows from it is named too.
WEAK, STRONG, TABLE, AVERAGE = "expert weak", "expert strong", "token-table", "average"
ANSWERS, COUNTS, OPTIONS, SOFT = "answers", "token-counts", "options", "soft-labels"
NOTHING: frozenset[str] = frozenset()
SCORES = frozenset({ANSWERS, COUNTS, OPTIONS})
STUDENTS = SCORES | {STRONG}  # trained anew, and what they say
EVERYTHING = STUDENTS | {WEAK, TABLE, AVERAGE}
# The weak side is made anew; labels are the same text here, so students are not: a student depends on labels alone.
WEAK_SIDE = SCORES | {WEAK, TABLE, AVERAGE}
MIXTURE = SCORES | {AVERAGE}  # the same experts under other weights

#: leaf of Config -> (base, another value, kinds of stages that are asked for anew)
LEAVES: dict[str, tuple[str, Any, frozenset[str]]] = {
    "preset": ("plain", "tiny", NOTHING),
    "seed": ("plain", 1, EVERYTHING),
    "device": ("plain", "auto", NOTHING),  # by what it comes to; see numerics
    "dtype": ("plain", "bfloat16", EVERYTHING),
    # Where rows come from and how they are split acts through the rows: fingerprints of their content.
    "data.source": ("plain", "other.jsonl", NOTHING),
    "data.columns": ("plain", {"question": "q"}, NOTHING),
    "data.limit": ("plain", 5, NOTHING),
    "data.pool": ("plain", "pool.jsonl", NOTHING),
    "data.test_id": ("plain", "id.jsonl", NOTHING),
    "data.test_ood": ("plain", "ood.jsonl", NOTHING),
    "data.validation": ("plain", "validation.jsonl", NOTHING),
    "data.families": ("plain", ["order"], NOTHING),
    "data.ood_families": ("plain", ["words"], NOTHING),
    "data.easy_levels": ("plain", [1], NOTHING),
    "data.hard_levels": ("plain", [6], NOTHING),
    "data.difficulty": ("plain", "question_words", NOTHING),
    "noise.rate": ("plain", 0.2, NOTHING),
    "noise.kind": ("plain", "adversarial", NOTHING),
    "split.kind": ("plain", "random", NOTHING),
    "split.weak_train": ("plain", 5, NOTHING),
    "split.validation": ("plain", 5, NOTHING),
    "split.pool": ("plain", 5, NOTHING),
    "split.test_id": ("plain", 5, NOTHING),
    "split.test_ood": ("plain", 5, NOTHING),
    "split.easy_fraction": ("plain", 0.3, NOTHING),
    "split.threshold": ("plain", 2.0, NOTHING),
    "split.easy_levels": ("plain", None, NOTHING),
    "split.hard_levels": ("plain", None, NOTHING),
    "split.unrated": ("plain", "easy", NOTHING),
    "split.respect_source_split": ("plain", False, NOTHING),
    "split.respect_groups": ("plain", False, NOTHING),
    "format.template": ("plain", "{question} ->", EVERYTHING),
    "format.show_choices": ("plain", True, EVERYTHING),
    "format.normalisation": ("plain", "exact", NOTHING),  # how answers are compared, after the stage
    "format.max_new_tokens": ("plain", 9, frozenset({ANSWERS})),
    "format.max_length": ("plain", 100, EVERYTHING),
    "format.too_long": ("plain", "drop", EVERYTHING),
    "format.preamble": ("plain", "Answer in a word.", EVERYTHING),
    "task": ("plain", "binary", frozenset({WEAK, STRONG, TABLE, AVERAGE})),
    "head": ("binary", "classifier", frozenset({WEAK, STRONG, TABLE})),
    "models.weak": ("plain", "w2s-strong", WEAK_SIDE),
    "models.strong": ("plain", "w2s-weak", STUDENTS),
    "models.more_weak": ("not averaged", ["w2s-strong"], WEAK_SIDE - {AVERAGE}),
    # Ranks them by experts of the ensemble's budget; equal scores, as here, leave them as given.
    "models.order": ("several", "validation", frozenset({WEAK, ANSWERS})),
    "models.weak_tuning": ("plain", "lora", WEAK_SIDE),
    "models.strong_tuning": ("plain", "full", STUDENTS),
    "models.trust_remote_code": ("plain", True, NOTHING),  # these models bring no code; see model_fingerprint
    "lora.r": ("plain", 2, STUDENTS),
    "lora.alpha": ("plain", 3.0, STUDENTS),
    "lora.dropout": ("plain", 0.1, STUDENTS),
    "lora.target_modules": ("weak lora", ["query_key_value"], WEAK_SIDE),
    "boost.rounds": ("plain", 3, WEAK_SIDE),
    "boost.mode": ("plain", "reweight", WEAK_SIDE),
    "boost.prior": ("plain", "vocabulary", WEAK_SIDE),
    "boost.shrinkage": ("plain", 0.9, WEAK_SIDE),
    "boost.error_clamp": ("reweight", 0.24, WEAK_SIDE),
    "boost.count": ("plain", "once", WEAK_SIDE),
    "boost.prior_error": ("plain", "weighted", MIXTURE),
    "boost.level": ("plain", "row", WEAK_SIDE),
    "boost.error_on": ("plain", "held-out", WEAK_SIDE),
    "boost.form": ("plain", "real", WEAK_SIDE),
    "boost.top_k": ("additive", 3, WEAK_SIDE | {SOFT}),
    "rule": ("plain", "product", SCORES),
    **{
        f"{section}.{name}": ("plain", value, kinds)
        for section, kinds in (("expert", WEAK_SIDE), ("student", STUDENTS))
        for name, value in {
            "epochs": 1.5, "learning_rate": 1e-5, "batch_size": 4, "micro_batch_size": 2, "schedule": "constant",
            "warmup_fraction": 0.5, "weight_decay": 0.1, "gradient_clip": None, "betas": [0.8, 0.9], "max_steps": 3,
            "bucket_batches": 1, "shuffle": False,
        }.items()
    },
    "expert.gradient_checkpointing": ("plain", True, NOTHING),  # the same bits, see below
    "student.gradient_checkpointing": ("plain", True, NOTHING),
    "weak_epochs": ("plain", [1.0, 2.0], frozenset({WEAK}) | SCORES),
    "weak_search": ("plain", "halving", NOTHING),  # of the plain run's one pretrained model
    "loss.name": ("plain", "confidence", STUDENTS),
    "loss.targets": ("plain", "soft", STUDENTS | {SOFT}),
    "loss.top_k": ("soft", 3, STUDENTS | {SOFT}),
    "loss.weight": ("soft", 0.7, STUDENTS),
    "loss.warmup": ("soft", 0.7, STUDENTS),
    "loss.alpha": ("soft", 0.7, STUDENTS),
    "loss.beta": ("soft", 0.7, STUDENTS),
    "selection.name": ("plain", "agreement", STUDENTS),
    "selection.fraction": ("plain", 0.5, STUDENTS),
    "selection.min_confidence": ("plain", 0.5, STUDENTS),
    "student_rows": ("plain", "all", STUDENTS),
    "iterations": ("plain", 3, NOTHING),  # the same labels teach the same student
    "shots": ("plain", 2, SCORES),
    "label_by": ("plain", "options", STUDENTS),
    "systems": ("plain", ["weak", "bagging"], WEAK_SIDE - {TABLE, AVERAGE}),
    "evaluation.metrics": ("plain", ["exact_match"], NOTHING),
    "evaluation.batch_size": ("plain", 3, NOTHING),  # the same answers, see below
    "evaluation.resamples": ("plain", 7, NOTHING),
    "evaluation.staged": ("plain", False, NOTHING),
    "evaluation.examples": ("plain", 1, NOTHING),
    "evaluation.margin": ("plain", 0.1, NOTHING),
}  # fmt: skip


def leaves(value: Any, path: str = "") -> Iterator[str]:
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}"


def test_every_setting_is_classified() -> None:
    assert set(LEAVES) == set(leaves(Config()))


def nested(path: str, value: Any) -> dict[str, Any]:
    *sections, key = path.split(".")
    found: dict[str, Any] = {key: value}
    for section in reversed(sections):
        found = {section: found}
    return found


PAIRS = {"split.easy_levels": "split.hard_levels", "split.hard_levels": "split.easy_levels"}


def changed(path: str, base_name: str, value: Any) -> Config:
    settings = merge(BASES[base_name], nested(path, value))
    if path in PAIRS:
        settings = merge(settings, {"split": {"easy_levels": [1.0], "hard_levels": [2.0]}})
    return build_config(settings)


@pytest.mark.parametrize("path", LEAVES)
def test_a_setting_changes_the_stages_it_should_and_no_other(path: str, base: dict, tmp_path: Path) -> None:
    name, value, expected = LEAVES[path]
    config = changed(path, name, value)
    assert config != build_config(BASES[name])
    found = asked(config, tmp_path).asked
    new = {kind for kind, identities in found.items() if identities - base[name].get(kind, set())}
    assert new == expected


def test_what_one_kind_of_training_alone_depends_on(tmp_path: Path) -> None:
    """Soft labels are read in a context that the other model decides too; adapters are made by PEFT."""
    spy = asked(build_config(BASES["soft"]), tmp_path)
    inputs, context = spy.inputs, spy._soft_context("strong")
    softly = [one for one in inputs[STRONG] if "soft" in one]
    assert softly
    assert all(one["context"] == context and "context" not in other for one in softly for other in inputs[WEAK])
    assert {one["lora"]["peft"] for one in inputs[STRONG]} == {importlib.metadata.version("peft")}
    assert {one["lora"] for one in inputs[WEAK]} == {None}


def test_what_added_experts_depend_on(tmp_path: Path) -> None:
    """The first is an ordinary expert; the others hang on the sum before them, read in their own model's context."""
    plain, added = (asked(build_config(BASES[name]), tmp_path / name).inputs[WEAK] for name in ("plain", "additive"))
    spy = asked(build_config(BASES["additive"]), tmp_path / "again")
    softly = [one for one in added if "soft" in one]
    assert len(softly) == 1
    assert softly[0]["context"] == spy._soft_context("weak")
    assert softly[0]["loss"]["name"] == "additive"
    assert any("soft" not in one and one in plain for one in added)
    assert all(one["with_labels"] for one in spy.inputs[SOFT])


# -- data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "asks", "answers"),
    [
        ({"id": "other"}, True, True),
        ({"question": "other"}, True, True),
        ({"context": "other"}, True, True),
        ({"choices": ("a", "blue")}, True, True),
        ({"answer": "red"}, False, True),
        ({"difficulty": 3.0}, False, False),
        ({"split": "test"}, False, False),
        ({"raw": {"x": 1}}, False, False),
        ({"group": "g"}, False, False),
    ],
)
def test_rows_count_by_what_is_read_of_them(change: dict[str, Any], asks: bool, answers: bool) -> None:
    row = Row("a", "q", "blue")
    other = dataclasses.replace(row, **change)
    assert set(change) <= {field.name for field in dataclasses.fields(Row)}
    for with_answers, differs in ((False, asks), (True, answers)):
        one, two = (rows_fingerprint([r], answers=with_answers) for r in (row, other))
        assert (one != two) == differs
    assert rows_fingerprint([row, other], answers=True) != rows_fingerprint([other, row], answers=True) or not answers


def test_stages_that_must_not_see_answers_do_not(base: dict, tmp_path: Path) -> None:
    """Other gold answers on the tests and the pool: only what is measured against them is asked for anew."""
    lies = {
        name: [row.with_answer("yes" if row.answer == "no" else "no") for row in getattr(SPLITS, name)]
        for name in ("pool", "test_id", "test_ood")
    }
    found = asked(build_config(PLAIN), tmp_path, dataclasses.replace(SPLITS, **lies)).asked
    new = {kind for kind, identities in found.items() if identities - base["plain"][kind]}
    assert new == STUDENTS  # the ceiling, which is trained on them, its scores, and the counts of right tokens
    plain = asked(build_config(merge(PLAIN, {"systems": ["weak", "ensemble", "student"]})), tmp_path / "a").asked
    lying = asked(build_config(merge(PLAIN, {"systems": ["weak", "ensemble", "student"]})), tmp_path / "b",
                  dataclasses.replace(SPLITS, **lies)).asked  # fmt: skip
    assert {kind for kind in plain if plain[kind] != lying[kind]} == {COUNTS}


# -- models and tokenizers -------------------------------------------------------------------------------------


def copied(name: str, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(model_folder(name), folder))


def test_a_model_counts_by_its_files(tmp_path: Path) -> None:
    folder = copied("w2s-weak", tmp_path / "model")
    first = model_fingerprint(str(folder))
    assert first == model_fingerprint("w2s-weak")
    (folder / "README.md").write_text("words")
    assert model_fingerprint(str(folder)) == first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_dropout": 0.25}))
    second = model_fingerprint(str(folder))
    assert second != first
    assert model_fingerprint(str(folder), trust_remote_code=True) == second  # no code, nothing to trust
    (folder / "modeling_own.py").write_text("x = 1")
    third = model_fingerprint(str(folder))
    assert third != second
    assert model_fingerprint(str(folder), trust_remote_code=True) != third
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert model_fingerprint(str(folder)) != third


def test_a_tokenizer_counts_by_what_it_does_and_not_by_its_last_call() -> None:
    tokenizer = load_tokenizer("w2s-weak")
    first = tokenizer_fingerprint(tokenizer)
    tokenizer(["a b c", "a"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(tokenizer) == first
    tokenizer.chat_template = "{{ messages }}"
    assert tokenizer_fingerprint(tokenizer) != first
    other = load_tokenizer("w2s-weak")
    other.add_tokens(["quux"])
    assert tokenizer_fingerprint(other) not in (first, tokenizer_fingerprint(tokenizer))


def test_a_tokenizer_given_for_a_role_is_in_what_it_reads(tmp_path: Path) -> None:
    config = build_config(PLAIN)
    store = Store(tmp_path)
    before, after = Spy(BenchSettings.of(config), store), Spy(BenchSettings.of(config), store)
    after.shelf.use_tokenizer("weak", load_tokenizer("w2s-weak"))
    for spy in (before, after):
        spy.answer(Members.single(spy.pretrained("weak")), SPLITS.test_id, purpose="test")
        spy.answer(Members.single(spy.pretrained("strong")), SPLITS.test_id, purpose="test")
        spy.fine_tune("weak", SPLITS.weak_train, config.expert, seed=1)
    assert "tokenizer" not in before.inputs[ANSWERS][0]
    assert ["tokenizer" in inputs for inputs in after.inputs[ANSWERS]] == [True, False]
    assert "tokenizer" in after.inputs[WEAK][0]


def test_adapters_of_one_base_are_told_apart_and_from_it(tmp_path: Path) -> None:
    """An adapter folder as other programs write it, without checksums, once had its base's identity."""
    base = copied("w2s-weak", tmp_path / "base")
    for seed in (1, 2):
        model = add_lora(load_model(str(base)), LoraSettings(r=2), seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.constant_(parameter, 0.01 * seed)
        save_adapter(model, tmp_path / f"adapter {seed}", base=str(base))
        load_tokenizer(str(base)).save_pretrained(tmp_path / f"adapter {seed}")

    def identity(name: Path) -> str:
        return open_members(str(name), Machine(device="cpu"), Reporter()).members.experts[0].identity

    one, two, bare = identity(tmp_path / "adapter 1"), identity(tmp_path / "adapter 2"), identity(base)
    assert len({one, two, bare}) == 3
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert identity(tmp_path / "adapter 1") != one  # the base changed under it


# -- floats ----------------------------------------------------------------------------------------------------

DECIDES_FLOATS = {"device", "hardware", "dtype", "threads", "matmul", "torch", "transformers", "tokenizers", "numpy"}


def test_numerics_hold_what_decides_the_floats() -> None:
    cpu = numerics(torch.device("cpu"), "float32")
    assert set(cpu) == DECIDES_FLOATS
    assert cpu["hardware"] == torch.backends.cpu.get_cpu_capability()
    assert numerics(torch.device("cuda"), "float32")["threads"] is None  # a GPU's sums do not know of CPU threads


def test_processes_that_share_a_step_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = numerics(torch.device("cpu"), "float32")
    monkeypatch.setattr(identity_module.parallel, "world", lambda: 2)
    shared = numerics(torch.device("cpu"), "float32")
    assert {key: value for key, value in shared.items() if key in alone} == alone
    assert {key: shared[key] for key in shared.keys() - alone.keys()} == {"processes": 2, "sharding": "ddp"}


FLOATS = """
import hashlib, torch
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(257, 515), torch.nn.GELU(), torch.nn.LayerNorm(515), torch.nn.Softmax(-1))
model(torch.randn(129, 257)).square().sum().backward()
found = hashlib.sha256(b"".join(p.grad.numpy().tobytes() for p in model.parameters())).hexdigest()
print(torch.backends.cpu.get_cpu_capability(), found)
"""


def test_vector_instructions_decide_floats_and_are_told() -> None:
    def run(capability: str | None) -> tuple[str, str]:
        environment = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
        told = subprocess.run(
            [sys.executable, "-c", FLOATS], capture_output=True, text=True, check=True,
            env=environment | ({"ATEN_CPU_CAPABILITY": capability} if capability else {}),
        ).stdout.split()  # fmt: skip
        return told[0], told[1]

    own, plain = run(None), run("default")
    if own[0] == plain[0]:
        pytest.skip("this CPU has no vector instructions that torch tells apart")
    assert own[1] != plain[1]


@pytest.fixture(scope="module")
def easy() -> list[Row]:
    words = ["red", "blue", "green", "seven"]
    return [Row(f"r{n}", f"say {words[n % 4]} {n}", f"{words[n % 4]} {n % 3}") for n in range(24)]


def trained(rows: list[Row], *, lora: bool = False, **settings: Any) -> tuple[Any, torch.Tensor]:
    model, tokenizer = load_model("w2s-weak"), load_tokenizer("w2s-weak")
    if lora:
        model = add_lora(model, LoraSettings(r=2, dropout=0.2), 3)
    encoded = encode_rows(rows, tokenizer, TaskFormat(), 128).rows
    options = TrainSettings(**{"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **settings})
    fine_tune(model, encoded, options, seed=1, pad_token_id=padding_token(tokenizer))
    return model, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_changes_no_bit_and_is_out(easy: list[Row], lora: bool) -> None:
    _, plain = trained(easy, lora=lora)
    _, checkpointed = trained(easy, lora=lora, gradient_checkpointing=True)
    assert torch.equal(plain, checkpointed)
    assert training_identity(TrainSettings(gradient_checkpointing=True)) == training_identity(TrainSettings())


def test_micro_batches_change_the_rounding_and_are_in(easy: list[Row]) -> None:
    """The gradient is the same to within rounding; what Adam makes of rounding in tiny gradients is not."""
    _, plain = trained(easy, max_steps=1)
    _, parts = trained(easy, max_steps=1, micro_batch_size=3)
    assert not torch.equal(plain, parts)
    assert training_identity(TrainSettings(micro_batch_size=3)) != training_identity(TrainSettings())
    _, whole = trained(easy, max_steps=1, micro_batch_size=8)
    _, larger = trained(easy, max_steps=1, micro_batch_size=99)
    assert torch.equal(plain, whole)
    assert torch.equal(plain, larger)
    same = {"batch_size": 8}
    assert training_identity(TrainSettings(**same, micro_batch_size=8)) == training_identity(TrainSettings(**same))
    assert training_identity(TrainSettings(**same, micro_batch_size=99)) == training_identity(TrainSettings(**same))


#: Largest difference of an answer's log-probability (nats) that batches of other sizes may make.
BATCH_TOLERANCE = 1e-4


def test_the_batch_size_of_answers_is_out_at_a_tolerance(easy: list[Row]) -> None:
    model, _ = trained(easy)
    tokenizer = load_tokenizer("w2s-weak")
    prompts = encode_prompts(easy, tokenizer, TaskFormat(), 128).rows

    def answers(batch_size: int) -> dict[str, tuple[list[int], float]]:
        found = generate(
            [model], [1.0], "mean", [row.input_ids for row in prompts], ids=[row.id for row in prompts],
            max_new_tokens=12, eos_token_ids=end_tokens(model, tokenizer), pad_token_id=padding_token(tokenizer),
            batch_size=batch_size,
        )  # fmt: skip
        return {one.id: (list(one.token_ids), one.log_prob) for one in found}

    whole = answers(256)
    for size in (1, 5):
        other = answers(size)
        assert {key: tokens for key, (tokens, _) in other.items()} == {
            key: tokens for key, (tokens, _) in whole.items()
        }
        assert max(abs(other[key][1] - whole[key][1]) for key in whole) < BATCH_TOLERANCE


# -- the methods' settings reach the bench through no other door ------------------------------------------------


def test_the_bench_and_the_methods_know_no_other_setting() -> None:
    """``data``, ``split`` and ``evaluation`` can act through rows and calls only."""
    config = build_config(PLAIN)
    for settings in (BenchSettings.of(config), method_settings(config)):
        held = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        assert config.data not in held.values()
        assert config.split not in held.values()
        assert config.evaluation not in held.values()

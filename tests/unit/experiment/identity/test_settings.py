"""What is in an identity (docs/adr/0010): every setting is classified, and changes exactly what it should."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from identitykit import ANSWERS, AVERAGE, BASES, PLAIN, SCORES, SOFT, STRONG, STUDENTS, TABLE, WEAK, asked

from ensemw2s.experiment.config import Config, build_config
from ensemw2s.experiment.layers import merge
from ensemw2s.experiment.pipeline import method_settings
from ensemw2s.experiment.shelf import BenchSettings

# What is named here is what is asked for anew; what follows from it is named too.
NOTHING: frozenset[str] = frozenset()
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
            "bucket_batches": 1, "shuffle": False, "robustness": 0.5,
        }.items()
    },
    "expert.gradient_checkpointing": ("plain", True, NOTHING),  # the same bits, see test_floats.py
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
    "evaluation.batch_size": ("plain", 3, NOTHING),  # the same answers, see test_floats.py
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


def test_without_robustness_training_is_what_it_was_before_there_was_any(tmp_path: Path) -> None:
    """Experts that were trained before the setting existed are found again."""
    trained = asked(build_config(BASES["plain"]), tmp_path).inputs[WEAK]
    assert trained
    assert all("robustness" not in one["training"] for one in trained)


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


# -- the methods' settings reach the bench through no other door ------------------------------------------------


def test_the_bench_and_the_methods_know_no_other_setting() -> None:
    """``data``, ``split`` and ``evaluation`` can act through rows and calls only."""
    config = build_config(PLAIN)
    for settings in (BenchSettings.of(config), method_settings(config)):
        held = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        assert config.data not in held.values()
        assert config.split not in held.values()
        assert config.evaluation not in held.values()

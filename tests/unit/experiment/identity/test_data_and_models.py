"""What is in an identity (docs/adr/0010): rows, models, tokenizers and adapters count by what is read of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from identitykit import ANSWERS, COUNTS, PLAIN, SPLITS, STUDENTS, WEAK, Spy, asked

from ensemw2s.data.rows import Row
from ensemw2s.experiment.config import build_config
from ensemw2s.experiment.identity import model_fingerprint, rows_fingerprint
from ensemw2s.experiment.layers import merge
from ensemw2s.experiment.opening import Machine, open_members
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.store import Store
from ensemw2s.methods.bench import Members
from ensemw2s.models.adapters import LoraSettings, add_lora, save_adapter
from ensemw2s.models.loading import load_model, load_tokenizer, model_folder
from ensemw2s.models.vocabulary import tokenizer_fingerprint

# -- data -------------------------------------------------------------------------------------------------------


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


# -- models and tokenizers --------------------------------------------------------------------------------------


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

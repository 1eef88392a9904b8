"""Uploads to a hub on this machine: every file, one commit, and nobody's own card is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pushkit import Hub, downloaded, serving

from ensemw2s.artifacts import verify_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.card import is_own_card
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.uploading import push_folder
from ensemw2s.errors import ConfigError, ModelError, PrerequisiteError

IDS = torch.tensor([[1, 3, 4, 5, 9], [1, 8, 2, 7, 6]])
FORM = TaskFormat(max_new_tokens=5, template="what is {question} ?")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(tmp_path / "hub") as server:
        yield server


def fetched(hub: Hub, name: str, place: Path) -> Path:
    for path, content in hub.repositories[name].items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    return place


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_every_file_arrives_in_one_commit(way: str, hub: Hub, lora: Any, base: Path, tmp_path: Path) -> None:
    ensemble = lora(1, 2)
    hints: Any = {"commit_message": "first", "tags": ["mine"], "base_id": "me/base"}
    if way == "push_to_hub":
        told = ensemble.push_to_hub("me/ensemble", **hints)
    else:
        ensemble.save_pretrained(tmp_path / "again", push_to_hub=True, repo_id="me/ensemble", **hints)
        told = ""
    assert told in ("", f"{hub.address}/me/ensemble/commit/{'b' * 40}")
    assert hub.commits == ["first"]
    place = fetched(hub, "me/ensemble", tmp_path / "fetched")
    ensemble.save_pretrained(tmp_path / "saved")
    wanted = {str(path.relative_to(tmp_path / "saved")) for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert "expert-2/adapter_model.safetensors" in wanted
    assert "README.md" in wanted
    assert set(hub.repositories["me/ensemble"]) == wanted
    verify_checksums(place)
    downloaded(tmp_path / "hub", "me/base", base)
    after = Ensemble.from_pretrained(place)
    with torch.no_grad():
        assert torch.equal(after(IDS).logits, ensemble(IDS).logits)
    card = (place / "README.md").read_text()
    assert is_own_card(card)
    assert "- mine\n" in card
    if way == "push_to_hub":
        assert 'Ensemble.from_pretrained("me/ensemble")' in card


ROWS = [Row("a", "one plus two", "three"), Row("b", "two plus one", "three"), Row("c", "one plus one", "two")]


def made(kind: str, tuning: Any, base: Path, place: Path) -> Path:
    """An ensemble or a student of a base that is a folder of this machine."""
    from ensemw2s import boost, train_student
    from ensemw2s.experiment.opening import Machine
    from ensemw2s.training.settings import TrainSettings

    settings: Any = {"tuning": tuning, "training": TrainSettings(epochs=1), "task_format": FORM,
                     "machine": Machine(store=place / "store")}  # fmt: skip
    if kind == "ensemble":
        return boost(ROWS, str(base), place / "made", rounds=1, **settings)
    return train_student(str(base), ROWS, place / "made", **settings)


def scores(folder: Path, store: Path) -> Any:
    from ensemw2s import evaluate
    from ensemw2s.experiment.opening import Machine

    return evaluate(folder, ROWS, machine=Machine(store=store))["scores"]


@pytest.mark.parametrize("kind", ["ensemble", "student"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_no_path_of_this_machine_is_uploaded(kind: str, tuning: str, hub: Hub, base: Path, tmp_path: Path) -> None:
    folder = made(kind, tuning, base, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(str(base).encode() in content for content in before.values()), "here it is named by its path"
    if tuning == "lora":
        with pytest.raises(ModelError, match=r"need their base, the local folder 'base'.*base_id='owner/name'"):
            push_folder(folder, "me/it")
        assert not hub.asked
    push_folder(folder, "me/it", base_id="me/base" if tuning == "lora" else None)
    uploaded = hub.repositories["me/it"]
    assert set(uploaded) == {path.relative_to(folder).as_posix() for path in before}
    assert [name for name, content in uploaded.items() if str(tmp_path).encode() in content] == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    place = fetched(hub, "me/it", tmp_path / "elsewhere")
    verify_checksums(place)
    named = json.loads((place / ("ensemble.json" if kind == "ensemble" else "origin.json")).read_text())["base"]
    assert named == ("me/base" if tuning == "lora" else "./base")
    card = (place / "README.md").read_text()
    assert is_own_card(card)
    assert ("base_model: me/base" in card) == (tuning == "lora")
    downloaded(tmp_path / "hub", "me/base", base)
    assert scores(place, tmp_path / "store") == scores(folder, tmp_path / "store")


def test_full_weights_may_name_where_their_base_is(hub: Hub, base: Path, tmp_path: Path) -> None:
    folder = made("student", "full", base, tmp_path)
    push_folder(folder, "me/it", base_id="me/base")
    assert json.loads(hub.repositories["me/it"]["origin.json"])["base"] == "me/base"
    assert b"base_model: me/base" in hub.repositories["me/it"]["README.md"]


def test_a_base_id_that_is_none_or_not_wanted(hub: Hub, full: Any, lora: Any, tmp_path: Path) -> None:
    full(1).save_pretrained(tmp_path / "saved")
    for wrong in (str(tmp_path), "./base", "w2s-weak", ""):
        with pytest.raises(ConfigError, match="must be the base's id on the hub, as in owner/name; got"):
            push_folder(tmp_path / "saved", "me/one", base_id=wrong)
    with pytest.raises(ConfigError, match="but this is fine-tuned from 'any': leave base_id out"):
        full(1).push_to_hub("me/one", base_id="me/base")
    push_folder(tmp_path / "saved", "me/one", base_id="any")  # the same said twice
    with pytest.raises(ModelError, match="which nobody else has"):
        lora(1).push_to_hub("me/two")
    assert set(hub.repositories) == {"me/one"}


def test_a_card_that_a_person_wrote_on_the_hub_stays(hub: Hub, full: Any) -> None:
    full(1).push_to_hub("me/one")
    first = hub.repositories["me/one"]["README.md"]
    full(1, 2).push_to_hub("me/one")
    second = hub.repositories["me/one"]["README.md"]
    assert first != second, "one written by the program is written anew"
    hub.repositories["me/one"]["README.md"] = own = second.replace(b"weak experts", b"very weak experts")
    full(3).push_to_hub("me/one")
    assert hub.repositories["me/one"]["README.md"] == own
    assert b'"expert-2"' not in hub.repositories["me/one"]["ensemble.json"], "all else is new"


def test_an_edited_card_of_the_folder_is_uploaded(hub: Hub, full: Any, tmp_path: Path) -> None:
    full(1).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "README.md").write_text("# mine\n")
    hub.repositories["me/one"] = {"README.md": b"# older\n"}
    assert push_folder(tmp_path / "saved", "one").endswith("b" * 40)
    assert hub.repositories["me/one"]["README.md"] == b"# mine\n"
    assert hub.commits == ["Upload saved"]


def test_a_branch_is_made(hub: Hub, full: Any) -> None:
    full(1).push_to_hub("me/one", revision="v1")
    assert "/api/models/me/one/branch/v1" in hub.asked
    assert "/api/models/me/one/commit/v1" in hub.asked


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_one_line(hub: Hub, full: Any, status: int) -> None:
    hub.refusal = status
    with pytest.raises(ModelError, match=r"the hub refuses the upload to 'me/one'.*hf auth login") as told:
        full(1).push_to_hub("me/one")
    assert "\n" not in str(told.value)


def test_a_wrong_name_and_a_hub_out_of_reach(hub: Hub, full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(ModelError, match="'a//b' is no name for the hub"):
        full(1).push_to_hub("a//b")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(PrerequisiteError, match=r"cannot upload to 'me/one'.*cannot be reached"):
        full(1).push_to_hub("me/one")

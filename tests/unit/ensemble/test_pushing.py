"""Uploads to a hub on this machine: every file, one commit, and nobody's own card is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pushkit import Hub

from ensemw2s.artifacts import verify_checksums
from ensemw2s.ensemble.card import is_own_card
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.uploading import push_folder
from ensemw2s.errors import ModelError, PrerequisiteError

IDS = torch.tensor([[1, 3, 4, 5, 9], [1, 8, 2, 7, 6]])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import close_session, constants

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    close_session()
    yield server
    close_session()
    server.shutdown()
    server.server_close()


def fetched(hub: Hub, name: str, place: Path) -> Path:
    for path, content in hub.repositories[name].items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    return place


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_every_file_arrives_in_one_commit(way: str, hub: Hub, lora: Any, tmp_path: Path) -> None:
    ensemble = lora(1, 2)
    if way == "push_to_hub":
        told = ensemble.push_to_hub("me/ensemble", commit_message="first", tags=["mine"])
    else:
        ensemble.save_pretrained(
            tmp_path / "again", push_to_hub=True, repo_id="me/ensemble", commit_message="first", tags=["mine"]
        )
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
    after = Ensemble.from_pretrained(place)
    with torch.no_grad():
        assert torch.equal(after(IDS).logits, ensemble(IDS).logits)
    card = (place / "README.md").read_text()
    assert is_own_card(card)
    assert "- mine\n" in card
    if way == "push_to_hub":
        assert 'Ensemble.from_pretrained("me/ensemble")' in card


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

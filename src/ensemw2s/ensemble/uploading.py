"""Folders to the Hugging Face hub: an ensemble's or a student's, in one commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s.artifacts import CARD
from ensemw2s.ensemble.card import is_own_card
from ensemw2s.ensemble.publishing import publishable
from ensemw2s.errors import ModelError, PrerequisiteError
from ensemw2s.network import first_line, is_offline, passing

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    base_id: str | None = None,
) -> str:
    """Upload a folder as a model repository, which is made where it does not exist; no path of this machine goes along.

    A card as this package writes it never takes the place of one there that a person wrote or edited; an edited one of
    the folder does.

    Args:
        folder: an ensemble's or a student's.
        repo_id: ``owner/name``, or a name of one's own.
        commit_message, commit_description: of the commit.
        private: of a new repository; None leaves it to the hub.
        token: to use instead of the one that is logged in.
        revision: branch; made where it does not exist.
        create_pr: propose the commit instead of making it.
        base_id: where others find the base, if that is a local folder here: ``owner/name``. Adapters need it.

    Returns:
        The commit's address.

    Raises:
        ConfigError: ``base_id`` is no hub id, or the base has another name already.
        ModelError: adapters whose base is a local folder, without ``base_id``; the hub refuses: nobody logged in, no
            permission, a name it does not take.
        PrerequisiteError: the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, changed = HfApi(token=token), publishable(folder, base_id)
    with _refusals(repo_id):
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repository, branch=revision, exist_ok=True)
        own = not (folder / CARD).is_file() or is_own_card((folder / CARD).read_text(encoding="utf-8"))
        keep = own and _has_edited_card(api, repository, revision)
        files: list[Any] = [
            CommitOperationAdd(name, changed.get(name, folder / name))
            for name in _names(folder) if not (keep and name == CARD)
        ]  # fmt: skip
        done = api.create_commit(
            repository, files, commit_message=commit_message or f"Upload {folder.name}",
            commit_description=commit_description, revision=revision, create_pr=create_pr,
        )  # fmt: skip
    return str(done)


def _names(folder: Path) -> list[str]:
    """Every file of a folder, but what version control and downloads keep beside it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not any(part in (".git", ".cache") for part in path.parts))


def _has_edited_card(api: HfApi, repository: str, revision: str | None) -> bool:
    """Whether the repository has a card that is not as this package writes it."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        path = api.hf_hub_download(repository, CARD, revision=revision)
    except LocalEntryNotFoundError:  # the hub did not answer: not the same as "there is none"
        raise
    except EntryNotFoundError:
        return False
    return not is_own_card(Path(path).read_text(encoding="utf-8", errors="replace"))


@contextlib.contextmanager
def _refusals(repo_id: str) -> Iterator[None]:
    """What the hub refuses inside the block, as one clear line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise ModelError(f"'{repo_id}' is no name for the hub: give owner/name") from error
    except Exception as error:
        if is_offline(error) or passing(error):
            raise PrerequisiteError(
                f"cannot upload to '{repo_id}': the Hugging Face hub cannot be reached ({first_line(error)}); check "
                f"the network (and HF_HUB_OFFLINE), or save the folder and later use `hf upload {repo_id} FOLDER`"
            ) from error
        if isinstance(error, HfHubHTTPError):
            raise ModelError(
                f"the hub refuses the upload to '{repo_id}': {first_line(error)}; log in with `hf auth login` as "
                "somebody who may write there"
            ) from error
        raise

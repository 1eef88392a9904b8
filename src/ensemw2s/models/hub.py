"""The Hugging Face hub: one snapshot per model, the local cache first, and a quick answer when it is out of reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ensemw2s.errors import ModelError, PrerequisiteError
from ensemw2s.network import ask, first_line

#: What a snapshot holds. No pickle; Python files only for a caller that trusts them.
_PATTERNS = ("*.json", "model*.safetensors", "adapter_model.safetensors", "*.txt", "*.model", "*.jinja")


def cached_snapshot(repository: str) -> Path | None:
    """The folder of an earlier, complete download, or None.

    A cached model is used as it stands, without a look at the network: the same command gives the same weights.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "adapter_config.json"):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            folder = Path(found).parent
            if next(folder.glob("*.safetensors"), None) is not None:
                return folder
    return None


def download_snapshot(repository: str, *, trust_remote_code: bool = False) -> Path:
    """Fetch the files of one model and return their folder.

    Raises:
        PrerequisiteError: the hub cannot be reached, also in the last try.
        CacheError: the hub's local cache cannot be written.
        ModelError: no such repository, or access is not granted, or it has no safetensors weights.
    """
    from huggingface_hub import snapshot_download

    def fetch() -> Path:
        names, revision = _listing(repository)
        check_listing(repository, names)
        patterns = [*_PATTERNS, *(["*.py"] if trust_remote_code else [])]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, ignore_patterns="*/*"))

    return _asked(repository, fetch)


def _listing(repository: str) -> tuple[list[str], str | None]:
    """Names of all files, and the commit."""
    from huggingface_hub import HfApi

    listing = HfApi().model_info(repository)
    return [file.rfilename for file in listing.siblings or []], listing.sha


def _asked(repository: str, fetch: Callable[[], Path]) -> Path:
    """What ``fetch`` gets from the hub; its refusals as one clear line, and no second try for them."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    remedy = (
        f"fetch it where there is one (`hf download {repository}`) and bring the hub's cache (HF_HOME) here, "
        "or give the path of a downloaded model folder"
    )
    try:
        return ask(fetch, f"'{repository}'", remedy)
    except HFValidationError as error:
        raise ModelError(f"'{repository}' is neither a folder nor a valid hub id (owner/name)") from error
    except GatedRepoError as error:
        raise ModelError(
            f"access to '{repository}' on the hub is gated: accept its terms there and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no model '{repository}' on the hub (or it is private: log in with `hf auth login`); "
            "give a folder, a built-in name or a hub id"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"'{repository}' on the hub has no such revision ({first_line(error)})") from error
    except HfHubHTTPError as error:
        raise ModelError(f"the hub refuses '{repository}': {first_line(error)}") from error
    except OSError as error:
        raise unreachable(repository, error) from error


def ensemble_snapshot(repository: str, marker: str) -> Path:
    """The folder of a whole repository with models in subfolders, the local cache first.

    Args:
        repository: hub id.
        marker: the file at its root that says what it is.

    Raises:
        PrerequisiteError: the hub cannot be reached.
        ModelError: no such repository, access is not granted, or it has no ``marker``.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    found = try_to_load_from_cache(repository, marker)
    if isinstance(found, str) and next(Path(found).parent.glob("*/*.safetensors"), None) is not None:
        return Path(found).parent

    def fetch() -> Path:
        names, revision = _listing(repository)
        if marker not in names:
            raise ModelError(f"'{repository}' on the hub holds no ensemble ({marker} is missing)")
        inside = [f"*/{pattern}" for pattern in _PATTERNS]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[*_PATTERNS, *inside]))

    return _asked(repository, fetch)


def check_listing(repository: str, names: list[str]) -> None:
    """Refuse a repository without safetensors before anything large is fetched.

    Raises:
        ModelError: no safetensors file at its root.
    """
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in names)
        reason = "only pickled weights, which are never read" if pickled else "no weights"
        raise ModelError(f"'{repository}' on the hub has {reason}: it needs safetensors files")


def unreachable(repository: str, error: BaseException) -> PrerequisiteError:
    """One line for a hub out of reach."""
    return PrerequisiteError(
        f"cannot fetch '{repository}': the Hugging Face hub cannot be reached and the model is not in its local cache "
        f"({first_line(error)}); go online, or give the path of a downloaded model folder"
    )

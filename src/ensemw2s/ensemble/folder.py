"""An ensemble's folder on disk.

config.json              the doorway for transformers: only says that an ensemble lies here
ensemble.json            alphas, rule, base, kind, the experts' folders, what training found
README.md                the card (see ``card``); yours once you edit it
task_format.json         prompt template, normalisation, limits
tokenizer files          in the folder itself
expert-1/ expert-2/ ...  ordinary Hugging Face model folders, or PEFT adapter folders on one base
checksums.json           SHA-256 of all of it but the card, written last
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ensemw2s.artifacts import (
    CHECKSUMS,
    atomic_folder,
    disk_error,
    file_sha256,
    fingerprint,
    read_json,
    verify_checksums,
    write_json,
)
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.card import CardFacts, Story, edited_card, noted_changes, write_card
from ensemw2s.ensemble.combine import check_alphas, open_rule
from ensemw2s.errors import CacheError, ConfigError, ModelError, shown
from ensemw2s.models.hub import ensemble_snapshot
from ensemw2s.models.loading import load_tokenizer, quiet, resolve_model
from ensemw2s.models.vocabulary import check_same_vocabulary

ENSEMBLE_FILE = "ensemble.json"
CONFIG_FILE = "config.json"
FORMAT_FILE = "task_format.json"
MODEL_TYPE = "ensemw2s"
FORMAT_VERSION = 1
_TOKENIZER_FILE = "tokenizer.json"
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*")  # below the ensemble's folder, never beside it
Kind = Literal["full", "lora"]


def is_ensemble_folder(folder: str | Path) -> bool:
    """Whether a folder says that it holds an ensemble."""
    return (Path(folder) / ENSEMBLE_FILE).is_file()


def find_ensemble(name: str | Path) -> Path:
    """The folder of an ensemble: a local one, or that of a hub repository, fetched where needed.

    Raises:
        ModelError: neither.
        PrerequisiteError: the hub cannot be reached.
    """
    finish_swap(Path(name))
    resolved = resolve_model(name)
    if Path(resolved).is_dir():
        return Path(resolved)
    return ensemble_snapshot(resolved, ENSEMBLE_FILE)


def check_whole(folder: Path) -> None:
    """Compare every file with its checksum.

    Raises:
        ModelError: one is missing or was changed.
    """
    try:
        verify_checksums(folder)
    except CacheError as error:
        raise ModelError(f"ensemble folder {folder} is not whole: {error}") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """``ensemble.json``, checked for what loading needs.

    Raises:
        ModelError: missing, unreadable, of a later format, or incomplete.
        ConfigError: unusable alphas or an unknown rule.
    """
    if not is_ensemble_folder(folder):
        raise ModelError(f"{folder} holds no ensemble ({ENSEMBLE_FILE} is missing): make one with 'ensemw2s boost'")
    try:
        settings = read_json(folder / ENSEMBLE_FILE)
    except CacheError as error:
        raise ModelError(str(error)) from error
    needed = {"format_version", "alphas", "rule", "experts", "base"}
    missing = needed - set(settings) if isinstance(settings, dict) else needed
    if missing:
        raise ModelError(f"{folder / ENSEMBLE_FILE} lacks {', '.join(sorted(missing))}: make the ensemble again")
    if settings["format_version"] != FORMAT_VERSION:
        raise ModelError(
            f"{folder} has format {settings['format_version']}, this program reads {FORMAT_VERSION}: update it"
        )
    if not isinstance(settings["base"], str):
        raise ModelError(f"{folder / ENSEMBLE_FILE}: base must be a model's name, got {shown(settings['base'])}")
    _check_members(folder, settings["alphas"], settings["experts"])
    _check_rule(folder, settings["rule"], settings.get("rule_state"))
    return settings


def _check_rule(folder: Path, rule: Any, state: Any) -> None:
    """The rule is known and can use its state; folders made before there were fitted rules have none."""
    if not isinstance(rule, str) or not isinstance(state, dict | None):
        raise ConfigError(
            f"{folder / ENSEMBLE_FILE}: rule {rule!r} with rule_state {state!r}: give a rule's name and an object"
        )
    try:
        open_rule(rule, state)
    except ConfigError as error:
        raise ConfigError(f"{folder / ENSEMBLE_FILE}: {error}") from error


def _check_members(folder: Path, alphas: Any, experts: Any) -> None:
    """Expert folders lie inside the ensemble's, and there is one usable alpha for each."""
    if not isinstance(experts, list) or not all(isinstance(e, str) and _PLAIN_NAME.fullmatch(e) for e in experts):
        raise ModelError(f"{folder / ENSEMBLE_FILE}: experts {experts!r} are no list of folder names: make it again")
    numbers = isinstance(alphas, list) and all(isinstance(a, (int, float)) and not isinstance(a, bool) for a in alphas)
    if not numbers:
        raise ConfigError(f"{folder / ENSEMBLE_FILE}: alphas {alphas!r} are no list of numbers; give one an expert")
    try:
        check_alphas(alphas, len(experts))
    except ConfigError as error:
        raise ConfigError(f"{folder / ENSEMBLE_FILE}: {error}") from error
    missing = next((name for name in experts if not (folder / name).is_dir()), None)
    if missing is not None:
        raise ModelError(f"ensemble folder {folder} is not whole: {missing} is missing; make the ensemble again")


def check_tokenizers(folder: Path, experts: Sequence[str], tokenizer: Any) -> None:
    """Experts that bring a tokenizer of their own must mean the same tokens by it."""
    shared = folder / _TOKENIZER_FILE
    known = file_sha256(shared) if shared.is_file() else None
    for name in experts:
        own = folder / name / _TOKENIZER_FILE
        if own.is_file() and file_sha256(own) != known:  # equal bytes need no slow look
            check_same_vocabulary({str(folder): tokenizer, str(own.parent): load_tokenizer(own.parent)})


def write_ensemble(
    folder: Path,
    expert_folders: Sequence[Path | Callable[[Path], None]],
    alphas: Sequence[float],
    rule: str,
    *,
    tokenizer: Any,
    task_format: TaskFormat,
    base: str,
    kind: Kind,
    meta: Mapping[str, Any],
    replace: bool = False,
    rule_state: Mapping[str, Any] | None = None,
    card: str | None = None,
    title: str = "",
) -> None:
    """Write an ensemble folder from finished expert folders; all of it or nothing.

    Args:
        folder: must not exist, unless ``replace``.
        expert_folders: model folders (``kind="full"``) or adapter folders (``"lora"``), or functions that write one.
        alphas: one an expert.
        rule: name of the combine rule.
        tokenizer: saved in the folder itself.
        task_format: saved beside it.
        base: what the experts were fine-tuned from; adapters are loaded onto it.
        kind: of the experts.
        meta: more to record, JSON data; ``card`` in it is the card's :class:`~ensemw2s.ensemble.card.Story`.
        rule_state: what fitting the rule left.
        replace: put it in the place of an ensemble that lies there, once the new one is whole.
        card: a person's own card to keep; None keeps one that lies there and was edited, and writes it anew otherwise.
        title: of a new card; the folder's name by default.

    Raises:
        CacheError: the folder exists already, or cannot be written.
        ConfigError: unusable alphas or an unknown rule.
    """
    check_alphas(list(alphas), len(expert_folders))
    open_rule(rule, rule_state)
    finish_swap(folder)
    if replace and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # an empty one, as uploading brings, is as good as none
    if replace and is_ensemble_folder(folder):
        target = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(target, ignore_errors=True)  # what an interrupted run left
    else:
        target = folder
    names = [f"expert-{number}" for number in range(1, len(expert_folders) + 1)]
    with atomic_folder(target) as aside:
        for name, source in zip(names, expert_folders, strict=True):
            if callable(source):
                (aside / name).mkdir()
                source(aside / name)
            else:
                shutil.copytree(source, aside / name, ignore=shutil.ignore_patterns(CHECKSUMS))
        with quiet():
            tokenizer.save_pretrained(aside)
        write_json(aside / FORMAT_FILE, task_format.to_dict())
        kept, story = card or edited_card(folder), Story.read(meta.get("card") or {})
        story = _of_these(story, aside, names, {"alphas": list(alphas), "rule": rule, "state": dict(rule_state or {})})
        facts = CardFacts(
            title or folder.name, "ensemble", base, kind, task_format, tokenizer, str(meta.get("task", "generation")),
            str(meta.get("head", "tokens")), alphas, meta.get("rounds") or (), rule,
            meta.get("more_bases") or (), noted_changes(meta),
        )  # fmt: skip
        write_card(aside, facts, story, kept)
        told = story.model_dump(mode="json", exclude_defaults=True)
        settings = {"format_version": FORMAT_VERSION, "base": base, "kind": kind, "alphas": list(alphas), "rule": rule,
                    "rule_state": dict(rule_state or {}), "experts": names}  # fmt: skip
        write_json(aside / ENSEMBLE_FILE, {**meta, **({"card": told} if told else {}), **settings})
        write_json(aside / CONFIG_FILE, {"model_type": MODEL_TYPE, "architectures": ["Ensemble"]})
    if target != folder:
        _swap(target, folder)


def _of_these(story: Story, folder: Path, experts: Sequence[str], mixing: Mapping[str, Any]) -> Story:
    """The story without its scores, where other experts, alphas or another rule were measured than lie here now."""
    if not story.scores:
        return story
    weights = {p.relative_to(folder).as_posix(): p for name in experts for p in (folder / name).glob("*.safetensors")}
    stored = fingerprint([{name: file_sha256(path) for name, path in weights.items()}, mixing])
    if story.stored in ("", stored):
        return story.model_copy(update={"stored": stored})
    return story.model_copy(update={"scores": (), "pgr": (), "stored": "changed"})


def finish_swap(folder: Path) -> None:
    """Put right what a kill between the two renames of a replacement left: the new ensemble if whole, else the old."""
    if folder.exists():
        return
    for aside in (folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")):
        if (aside / CHECKSUMS).is_file():
            aside.replace(folder)
            return


def _swap(new: Path, folder: Path) -> None:
    """Put a whole folder in the place of an older one, which goes only afterwards."""
    old = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
        new.replace(folder)
    except OSError as error:
        raise disk_error(error, folder) from error
    shutil.rmtree(old, ignore_errors=True)

"""An ensemble as one thing: experts, alphas, combine rule, tokenizer, task format; and its folder on disk.

ensemble.json            alphas, rule, base, kind, the experts' folders, what training found
task_format.json         prompt template, normalisation, limits
tokenizer files          in the folder itself
expert-1/ expert-2/ ...  ordinary Hugging Face model folders, or PEFT adapter folders on one base
checksums.json           SHA-256 of all of it, written last
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ensemw2s.artifacts import (
    CHECKSUMS,
    atomic_folder,
    disk_error,
    file_sha256,
    read_json,
    verify_checksums,
    write_json,
)
from ensemw2s.data.encoding import encode_prompts, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.combine import check_alphas, open_rule
from ensemw2s.ensemble.decoding import Decoded, generate
from ensemw2s.ensemble.experts import check_experts, end_tokens, vocabulary_size
from ensemw2s.errors import CacheError, ConfigError, ModelError
from ensemw2s.models.adapters import load_expert
from ensemw2s.models.loading import load_tokenizer, quiet
from ensemw2s.models.vocabulary import check_same_vocabulary

ENSEMBLE_FILE = "ensemble.json"
FORMAT_FILE = "task_format.json"
FORMAT_VERSION = 1
_TOKENIZER_FILE = "tokenizer.json"
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*")  # below the ensemble's folder, never beside it
Kind = Literal["full", "lora"]


@dataclasses.dataclass
class Ensemble:
    """Experts that decode together, token by token.

    Attributes:
        models: T causal language models over one vocabulary.
        alphas: one non-negative weight an expert.
        rule: name of the combine rule.
        tokenizer: shared by all experts.
        task_format: how questions become prompts and answers are compared.
        meta: base model, kind, rounds and whatever else its maker recorded.
        rule_state: what fitting the rule left, JSON data; empty for rules that are not fitted.
    """

    models: list[Any]
    alphas: list[float]
    rule: str
    tokenizer: Any
    task_format: TaskFormat
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rule_state: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mixing = open_rule(self.rule, self.rule_state)
        check_experts(self.models)
        check_alphas(self.alphas, len(self.models))
        known, width = max(self.tokenizer.get_vocab().values()) + 1, vocabulary_size(self.models[0])
        if known > width:
            raise ModelError(
                f"the tokenizer has {known} tokens, the experts know {width}: use the tokenizer of their base model"
            )

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32", verify: bool = True) -> Ensemble:
        """Load an ensemble folder.

        Args:
            folder: as :func:`write_ensemble` made it.
            device: see ``load_model``.
            dtype: see ``load_model``.
            verify: compare every file with its checksum first.

        Raises:
            ModelError: not an ensemble folder, or one that is damaged or does not fit together.
            ConfigError: unusable alphas or an unknown rule.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        if settings.get("task") == "binary":
            raise ModelError(f"{folder} holds a yes/no ensemble, which writes no text: use 'label' or 'evaluate'")
        if verify:
            try:
                verify_checksums(folder)
            except CacheError as error:
                raise ModelError(f"ensemble folder {folder} is not whole: {error}") from error
        tokenizer = load_tokenizer(folder)
        _check_tokenizers(folder, settings["experts"], tokenizer)
        with quiet():
            models = [
                load_expert(folder / name, settings["base"], dtype=dtype, device=device) for name in settings["experts"]
            ]
        task_format = TaskFormat.from_dict(read_json(folder / FORMAT_FILE))
        state = settings.get("rule_state") or {}
        return cls(models, list(settings["alphas"]), settings["rule"], tokenizer, task_format, settings, state)

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of ready prompts, with the special tokens that the tokenizer puts first (never a last one)."""
        verbatim = dataclasses.replace(self.task_format, template="{question}", max_length=None)
        rows = [Row(id=str(number), question=text) for number, text in enumerate(texts)]
        return [row.input_ids for row in encode_prompts(rows, self.tokenizer, verbatim, None).rows]

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int | None = None, **options: Any
    ) -> Iterator[Decoded]:
        """Decode ready prompts; ``options`` and errors as in ``decoding.generate``."""
        limit = self.task_format.max_new_tokens if max_new_tokens is None else max_new_tokens
        return generate(
            self.models, self.alphas, self.mixing, self.prompts(prompts), max_new_tokens=limit,
            eos_token_ids=end_tokens(self.models[0], self.tokenizer), pad_token_id=padding_token(self.tokenizer),
            **options,
        )  # fmt: skip


def is_ensemble_folder(folder: str | Path) -> bool:
    """Whether a folder says that it holds an ensemble."""
    return (Path(folder) / ENSEMBLE_FILE).is_file()


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


def _check_tokenizers(folder: Path, experts: Sequence[str], tokenizer: Any) -> None:
    """Experts that bring a tokenizer of their own must mean the same tokens by it."""
    shared = folder / _TOKENIZER_FILE
    known = file_sha256(shared) if shared.is_file() else None
    for name in experts:
        own = folder / name / _TOKENIZER_FILE
        if own.is_file() and file_sha256(own) != known:  # equal bytes need no slow look
            check_same_vocabulary({str(folder): tokenizer, str(own.parent): load_tokenizer(own.parent)})


def write_ensemble(
    folder: Path,
    expert_folders: Sequence[Path],
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
) -> None:
    """Write an ensemble folder from finished expert folders; all of it or nothing.

    Args:
        folder: must not exist, unless ``replace``.
        expert_folders: model folders (``kind="full"``) or adapter folders (``"lora"``).
        alphas: one an expert.
        rule: name of the combine rule.
        tokenizer: saved in the folder itself.
        task_format: saved beside it.
        base: what the experts were fine-tuned from; adapters are loaded onto it.
        kind: of the experts.
        meta: more to record, JSON data.
        rule_state: what fitting the rule left.
        replace: put it in the place of an ensemble that lies there, once the new one is whole.

    Raises:
        CacheError: the folder exists already, or cannot be written.
        ConfigError: unusable alphas or an unknown rule.
    """
    check_alphas(list(alphas), len(expert_folders))
    open_rule(rule, rule_state)
    if replace and is_ensemble_folder(folder):
        target = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(target, ignore_errors=True)  # what an interrupted run left
    else:
        target = folder
    names = [f"expert-{number}" for number in range(1, len(expert_folders) + 1)]
    with atomic_folder(target) as aside:
        for name, source in zip(names, expert_folders, strict=True):
            shutil.copytree(source, aside / name, ignore=shutil.ignore_patterns(CHECKSUMS))
        with quiet():
            tokenizer.save_pretrained(aside)
        write_json(aside / FORMAT_FILE, task_format.to_dict())
        settings = {"format_version": FORMAT_VERSION, "base": base, "kind": kind, "alphas": list(alphas), "rule": rule,
                    "rule_state": dict(rule_state or {}), "experts": names}  # fmt: skip
        write_json(aside / ENSEMBLE_FILE, {**settings, **meta})
    if target != folder:
        _swap(target, folder)


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

"""An ensemble as one thing: experts, alphas, combine rule, tokenizer, task format; and its folder on disk.

ensemble.json            alphas, rule, base, kind, the experts' folders, what training found
task_format.json         prompt template, normalisation, limits
tokenizer files          in the folder itself
expert-1/ expert-2/ ...  ordinary Hugging Face model folders, or PEFT adapter folders on one base
checksums.json           SHA-256 of all of it, written last
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ensemw2s.artifacts import CHECKSUMS, atomic_folder, read_json, verify_checksums, write_json
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.combine import RULES, check_alphas
from ensemw2s.ensemble.decoding import Decoded, generate
from ensemw2s.ensemble.experts import check_experts
from ensemw2s.errors import CacheError, ConfigError, ModelError
from ensemw2s.models.adapters import load_expert
from ensemw2s.models.loading import load_tokenizer, quiet

ENSEMBLE_FILE = "ensemble.json"
FORMAT_FILE = "task_format.json"
FORMAT_VERSION = 1
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
    """

    models: list[Any]
    alphas: list[float]
    rule: str
    tokenizer: Any
    task_format: TaskFormat
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        RULES.get(self.rule)
        check_experts(self.models)
        check_alphas(self.alphas, len(self.models))

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Ensemble:
        """Load an ensemble folder; every file is compared with its checksum first.

        Raises:
            ModelError: not an ensemble folder, or one that is damaged or does not fit together.
            ConfigError: unusable alphas or an unknown rule.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        try:
            verify_checksums(folder)
        except CacheError as error:
            raise ModelError(f"ensemble folder {folder} is not whole: {error}") from error
        with quiet():
            models = [
                load_expert(folder / name, settings["base"], dtype=dtype, device=device) for name in settings["experts"]
            ]
        return cls(
            models, list(settings["alphas"]), settings["rule"], load_tokenizer(folder),
            TaskFormat.from_dict(read_json(folder / FORMAT_FILE)), settings,
        )  # fmt: skip

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of ready prompts, with the tokenizer's own start tokens."""
        return [list(self.tokenizer(text)["input_ids"]) for text in texts]

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int | None = None, **options: Any
    ) -> Iterator[Decoded]:
        """Decode ready prompts; ``options`` as in ``decoding.generate``."""
        return generate(
            self.models, self.alphas, self.rule, self.prompts(prompts),
            max_new_tokens=max_new_tokens or self.task_format.max_new_tokens,
            eos_token_ids=self.tokenizer.eos_token_id, pad_token_id=self.tokenizer.pad_token_id, **options,
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
    if len(settings["alphas"]) != len(settings["experts"]):
        raise ConfigError(
            f"{folder}: {len(settings['alphas'])} alphas for {len(settings['experts'])} experts; give one each"
        )
    check_alphas(settings["alphas"])
    RULES.get(settings["rule"])
    return settings


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
        replace: put it in the place of an ensemble that lies there.

    Raises:
        CacheError: the folder exists already, or cannot be written.
    """
    check_alphas(list(alphas), len(expert_folders))
    if replace and is_ensemble_folder(folder):
        shutil.rmtree(folder)
    names = [f"expert-{number}" for number in range(1, len(expert_folders) + 1)]
    with atomic_folder(folder) as aside:
        for name, source in zip(names, expert_folders, strict=True):
            shutil.copytree(source, aside / name, ignore=shutil.ignore_patterns(CHECKSUMS))
        with quiet():
            tokenizer.save_pretrained(aside)
        write_json(aside / FORMAT_FILE, task_format.to_dict())
        settings = {"format_version": FORMAT_VERSION, "base": base, "kind": kind, "alphas": list(alphas), "rule": rule,
                    "experts": names}  # fmt: skip
        write_json(aside / ENSEMBLE_FILE, {**settings, **meta})

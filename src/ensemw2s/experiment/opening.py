"""A folder or a name as something that answers: an ensemble, a student, or any causal language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ensemw2s.artifacts import CHECKSUMS, fingerprint, read_json, verify_checksums
from ensemw2s.data.binary import to_yes_no
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.folder import FORMAT_FILE, is_ensemble_folder, read_settings
from ensemw2s.errors import CacheError, ConfigError, ModelError, nearest
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.identity import file_fingerprint, numerics
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.methods.bench import Expert, Members
from ensemw2s.models.adapters import LoraSettings, adapter_base
from ensemw2s.models.checks import read_model_json
from ensemw2s.models.devices import resolve_device
from ensemw2s.models.loading import is_adapter_folder, load_tokenizer, model_folder

ORIGIN_FILE = "origin.json"


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how to compute; equal for every verb.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:0" or "mps".
        dtype: "float32", "bfloat16", "float16" or "auto".
        batch_size: rows answered at once; speed and memory only.
        store: folder or URL of stored stages; None takes the default one.
        trust_remote_code: run code that comes with a model.
    """

    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = 256
    store: Path | str | None = None
    trust_remote_code: bool = False

    def open_store(self) -> Store:
        """The stage store, with this machine's numerics in every identity."""
        return Store(self.store or default_store(), numerics(resolve_device(self.device), self.dtype))

    def bench(
        self, weak: str, strong: str, task_format: TaskFormat, reporter: Reporter, **settings: object
    ) -> StoredBench:
        """A bench on this machine."""
        options = {"weak_tuning": "full", "strong_tuning": "full", "lora": LoraSettings(), **settings}
        return StoredBench(
            BenchSettings(
                weak=weak, strong=strong, task_format=task_format, device=str(resolve_device(self.device)),
                dtype=self.dtype, batch_size=self.batch_size, trust_remote_code=self.trust_remote_code, **options,  # type: ignore[arg-type]
            ),
            self.open_store(),
            reporter,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Task:
    """What answers are.

    Attributes:
        kind: "generation" (texts) or "binary" (yes or no).
        head: of a binary task, see ``Config.head``.
    """

    kind: Literal["generation", "binary"] = "generation"
    head: Literal["tokens", "classifier"] = "tokens"

    def __post_init__(self) -> None:
        for name, allowed in (("kind", ("generation", "binary")), ("head", ("tokens", "classifier"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"unknown task {name} '{getattr(self, name)}': {nearest(str(getattr(self, name)), allowed)}"
                )

    def rows(self, rows: Sequence[Row], seed: int) -> list[Row]:
        """The rows as the task reads them: for a binary one (question, candidate answer), classes balanced."""
        return to_yes_no(rows, seed=seed)[0] if self.kind == "binary" else list(rows)


@dataclasses.dataclass(frozen=True)
class Opened:
    """Members with the bench that runs them, and where their task format came from.

    Attributes:
        format_origin: in words, for the user.
        task: what their answers are.
    """

    bench: StoredBench
    members: Members
    task_format: TaskFormat
    format_origin: str
    task: Task = Task()


def open_members(
    name: str,
    machine: Machine,
    reporter: Reporter,
    *,
    task_format: TaskFormat | None = None,
    label_by: str = "generate",
) -> Opened:
    """Open an ensemble folder, a model or adapter folder, a built-in name or a hub id.

    Args:
        name: what to open.
        machine: where to run it.
        reporter: told of progress.
        task_format: used instead of the one saved with it.
        label_by: see ``Config.label_by``.

    Raises:
        ModelError, PrerequisiteError: it cannot be opened, or is damaged.
    """
    folder = Path(name)
    form, origin = _format(folder, task_format)
    trust = machine.trust_remote_code
    if is_ensemble_folder(folder):
        settings = read_settings(folder)
        _verify(folder)
        task = _task(settings)
        base = settings["base"]
        bench = machine.bench(base, base, form, reporter, label_by=label_by, task=task.kind, head=task.head)
        bench.shelf.use_tokenizer("weak", load_tokenizer(folder, trust_remote_code=trust))
        experts = tuple(
            Expert("weak", _own_identity(bench, folder, f"{child}/"), folder / child) for child in settings["experts"]
        )
        members = Members(experts, tuple(settings["alphas"]), settings["rule"], settings.get("rule_state") or {})
        return Opened(bench, members, form, origin, task)
    if folder.is_dir() and (folder / CHECKSUMS).is_file():
        _verify(folder)
    task = _task(read_model_json(folder / ORIGIN_FILE)) if (folder / ORIGIN_FILE).is_file() else Task()
    adapter = is_adapter_folder(folder)
    if not adapter:
        model_folder(name, trust_remote_code=trust)
    base = adapter_base(folder) if adapter else name
    bench = machine.bench(base, base, form, reporter, label_by=label_by, task=task.kind, head=task.head)
    if adapter:
        bench.shelf.use_tokenizer("strong", load_tokenizer(folder))
    if adapter or task.kind == "binary":  # a trained classifier's folder is no base model
        member = Expert("strong", _own_identity(bench, folder), folder)
    else:
        member = bench.pretrained("strong")
    return Opened(bench, Members.single(member), form, origin, task)


def as_teacher(opened: Opened, bench: StoredBench) -> Members:
    """Opened members as the weak side of another bench, whose ``weak`` is what they were fine-tuned from."""
    bench.shelf.use_tokenizer("weak", opened.bench.tokenizer(opened.members.experts[0].role))
    experts = tuple(dataclasses.replace(expert, role="weak") for expert in opened.members.experts)
    return dataclasses.replace(opened.members, experts=experts)


def _task(settings: Mapping[str, Any]) -> Task:
    return Task(settings.get("task", "generation"), settings.get("head", "tokens"))


def _format(folder: Path, given: TaskFormat | None) -> tuple[TaskFormat, str]:
    if given is not None:
        return given, "the one given"
    if (folder / FORMAT_FILE).is_file():
        return TaskFormat.from_dict(read_json(folder / FORMAT_FILE)), f"the one saved in {folder / FORMAT_FILE}"
    return TaskFormat(), "the plain default (none is saved with this model)"


def _verify(folder: Path) -> None:
    try:
        verify_checksums(folder)
    except CacheError as error:
        raise ModelError(f"{folder} is not whole: {error}") from error


def _own_identity(bench: StoredBench, folder: Path, child: str = "") -> str:
    """Of an expert in ``folder/child``: its files, and for an adapter also the base that it changes.

    Sums come from the list that was just verified; a folder without one, as other programs write it, is hashed.
    """
    if (folder / CHECKSUMS).is_file():
        sums = read_json(folder / CHECKSUMS)
    else:
        sums = {path.name: file_fingerprint(path) for path in folder.iterdir() if path.is_file()}
    own = {name: value for name, value in sums.items() if name.startswith(child)}
    base = bench.pretrained("weak").identity if is_adapter_folder(folder / child) else None
    return fingerprint([own, base])

"""Fingerprints: what a result was made from, in a form that can be hashed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemw2s import parallel
from ensemw2s.artifacts import file_sha256, fingerprint
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.errors import CacheError
from ensemw2s.experiment.config import plain
from ensemw2s.models.loading import model_folder
from ensemw2s.training.settings import TrainSettings

_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")
_NOT_THE_MODEL = {"recipe.json", "skills.json", "checksums.json", "stage.json"}


def model_fingerprint(name: str, trust_remote_code: bool = False) -> str:
    """SHA-256 over the names and bytes of a model folder's weights, configuration, tokenizer and code.

    Raises:
        ModelError: no such model; PrerequisiteError: the hub cannot be reached.
    """
    folder = model_folder(name, trust_remote_code=trust_remote_code)
    files = {
        path.name: path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.name not in _NOT_THE_MODEL
    }
    # Where code comes with the model, trusting it may choose another class; elsewhere it changes nothing.
    trusted = {"trusted": True} if trust_remote_code and any(name.endswith(".py") for name in files) else {}
    return fingerprint({name: file_fingerprint(path) for name, path in files.items()} | trusted)


def training_identity(settings: TrainSettings) -> dict[str, Any]:
    """The training settings that decide the weights.

    ``gradient_checkpointing`` computes the same numbers twice, bit for bit, and is left out. ``micro_batch_size``
    decides in which order gradients are summed, so it is in, as what it comes to: the batch or more is the same as
    none. ``robustness`` came later and is left out at 0, as what was trained before it had a name.
    """
    micro = settings.micro_batch_size
    whole = micro is None or micro >= settings.batch_size
    same = dataclasses.replace(settings, gradient_checkpointing=False, micro_batch_size=None if whole else micro)
    found: dict[str, Any] = plain(same)
    found["robustness"] = float(found["robustness"])
    if not found["robustness"]:
        del found["robustness"]
    return found


def rows_fingerprint(rows: Sequence[Row], *, answers: bool) -> str:
    """SHA-256 of what the rows ask, and with ``answers`` of what they answer."""
    return fingerprint(
        [
            [r.id, r.question, r.context, list(r.choices) if r.choices else None, r.answer if answers else None]
            for r in rows
        ]
    )


def tensor_fingerprint(tensor: Tensor | None) -> str | None:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    if tensor is None:
        return None
    head = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(head + tensor.contiguous().numpy().tobytes()).hexdigest()


def reading_format(task_format: TaskFormat) -> dict[str, Any]:
    """The part of a task format that decides tokens; how answers are compared is no part of it."""
    values = task_format.to_dict()
    found = {name: values[name] for name in ("template", "show_choices", "max_length", "too_long")}
    return found | ({"preamble": task_format.preamble} if task_format.preamble else {})


def numerics(device: torch.device, dtype: str) -> dict[str, Any]:
    """What decides the floats besides the inputs (docs/adr/0010): equal values give equal bits."""
    from importlib.metadata import version

    return {
        "device": device.type,
        "hardware": _hardware(device),
        "dtype": dtype,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "matmul": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        **_processes(),
        **{name: version(name) for name in ("transformers", "tokenizers", "numpy")},
    }


def _hardware(device: torch.device) -> str:
    """What decides which kernels are taken: the CPU's vector instructions, the GPU's name."""
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return platform.machine()


def _processes() -> dict[str, Any]:
    """How a run is shared: sums over processes are rounded in another order. Nothing for one process."""
    alone = parallel.world() == 1
    return {} if alone else {"processes": parallel.world(), "sharding": parallel.sharding()}


def versions() -> dict[str, str]:
    """Versions of the program and of what its numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("ensemw2s", "torch", "transformers", "peft", "tokenizers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes, read again only when its size, its times or its place on the disk differ."""
    try:
        stat = path.stat()
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror or error}") from error
    return _read_fingerprint(path.absolute(), (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))


@functools.lru_cache(maxsize=1024)
def _read_fingerprint(path: Path, stamp: tuple[int, ...]) -> str:
    return file_sha256(path)


@functools.cache
def program_fingerprint() -> str:
    """SHA-256 over this package's own files and the plug-ins beside it, by name and version.

    The built-in models are left out: where one is used, its own fingerprint counts.
    """
    from importlib.metadata import entry_points

    package = Path(__file__).parents[1]
    models = package / "models" / "zoo"
    files = {
        path.relative_to(package).as_posix(): file_sha256(path)
        for path in package.rglob("*")
        if path.is_file() and models not in path.parents and path.suffix != ".pyc"
    }
    found = entry_points()
    plugins = sorted(
        [group, point.name, point.dist.name if point.dist else "", point.dist.version if point.dist else ""]
        for group in found.groups
        if group.startswith("ensemw2s.")
        for point in found.select(group=group)
    )
    return fingerprint({"files": files, "plugins": plugins})

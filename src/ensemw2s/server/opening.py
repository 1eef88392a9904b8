"""What is served: an ensemble's folder, a student's, a plain model's or an adapter's, all as one ensemble."""

from __future__ import annotations

from pathlib import Path

from ensemw2s.artifacts import CHECKSUMS, read_json
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.engine.choose import load_experts
from ensemw2s.ensemble.folder import FORMAT_FILE, check_whole, is_ensemble_folder
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ModelError
from ensemw2s.experiment.opening import ORIGIN_FILE
from ensemw2s.models.devices import resolve_device, resolve_dtype
from ensemw2s.models.loading import load_tokenizer, model_folder, quiet


def open_served(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "float32",
    engine: str = "auto",
    trust_remote_code: bool = False,
) -> Ensemble:
    """Load what is to be served.

    Args:
        name: an ensemble folder or a hub repository that holds one, a model or adapter folder, a built-in name.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: float32, bfloat16, float16 or auto.
        engine: of an ensemble, see ``Ensemble.from_pretrained``.
        trust_remote_code: run code that comes with a model.

    Returns:
        With its tokenizer and its saved task format (the plain default where none was saved).

    Raises:
        ModelError: nothing that writes text, or it is damaged.
        PrerequisiteError: the hub or the device is out of reach.
        ConfigError: an unknown device, dtype or engine.
    """
    resolve_dtype(dtype)
    options = {"dtype": dtype, "device": str(resolve_device(device)), "trust_remote_code": trust_remote_code}
    if is_ensemble_folder(name):
        return Ensemble.from_pretrained(name, engine=engine, **options)
    folder = model_folder(name, trust_remote_code=trust_remote_code)
    if is_ensemble_folder(folder):
        return Ensemble.from_pretrained(folder, engine=engine, **options)
    if (folder / CHECKSUMS).is_file():
        check_whole(folder)
    if (folder / ORIGIN_FILE).is_file() and read_json(folder / ORIGIN_FILE).get("task") == "binary":
        raise ModelError(f"{name} tells yes from no and writes no text: use 'ensemw2s label' or 'evaluate'")
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    saved = folder / FORMAT_FILE
    task_format = TaskFormat.from_dict(read_json(saved)) if saved.is_file() else TaskFormat()
    with quiet():
        experts = load_experts([folder], **options)  # type: ignore[arg-type]
    return Ensemble.of(experts, [1.0], "mean", tokenizer, task_format, {"base": name}, pack=True)


def served_name(name: str) -> str:
    """What ``/v1/models`` calls it where nobody says: the folder's name, or the hub id as it is.

    >>> served_name("runs/one/ensemble/")
    'ensemble'
    """
    return Path(name).resolve().name if Path(name).is_dir() else name

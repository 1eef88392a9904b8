"""What goes wrong with a folder of files: its JSON, its weights, its names."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
import struct
from pathlib import Path
from typing import Any

from fuzzkit.engine import SENTINEL
from fuzzkit.mutate import as_json, damaged, mutated


class Evil:
    """A pickle that makes the sentinel file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import os; open(os.environ['{SENTINEL}'], 'w').close()",)


EVIL_CODE = f"import os\nopen(os.environ['{SENTINEL}'], 'w').close()\n"


def files_in(folder: Path) -> list[Path]:
    """Plain files below a folder, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def mutate_folder(rng: random.Random, folder: Path, only: Any = None, times: int | None = None) -> str:
    """Spoil one or a few files of a folder; says what was done. ``only`` chooses among the files."""
    told = []
    for _ in range(times or rng.choice((1, 1, 1, 2))):
        found = [path for path in files_in(folder) if only is None or only(path)]
        if found:
            told.append(_spoil(rng, rng.choice(found), folder))
    return "; ".join(told) or "nothing"


def _spoil(rng: random.Random, path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix()
    draw = rng.random()
    if draw < 0.45 and path.suffix in (".json", ".lock"):
        return f"{name}: {spoil_json(rng, path)}"
    if draw < 0.5 and path.suffix == ".safetensors":
        return f"{name}: {spoil_safetensors(rng, path)}"
    if draw < 0.75:
        data, what = damaged(rng, path.read_bytes())
        path.write_bytes(data)
        return f"{name}: bytes, {what}"
    return f"{name}: {_spoil_entry(rng, path, folder)}"


def spoil_json(rng: random.Random, path: Path) -> str:
    """Mutate a JSON file's content."""
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        return "no JSON any more"
    if rng.random() < 0.05:
        levels = rng.choice((1000, 100_000))
        path.write_bytes(b"[" * levels + b"]" * levels)
        return f"nested {levels} deep"
    tree, what = mutated(rng, tree)
    path.write_bytes(as_json(tree))
    return what


def spoil_safetensors(rng: random.Random, path: Path) -> str:
    """Mutate the header of a weights file, with a length that fits it or not, or its body."""
    data = path.read_bytes()
    if len(data) < 8:
        return "too short to spoil"
    (size,) = struct.unpack("<Q", data[:8])
    body = data[8 + size :] if size < len(data) else b""
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError:
        return "no header any more"
    what = rng.choice(("header", "header", "length", "body", "names", "offsets"))
    if what == "header":
        header, what = mutated(rng, header)
    elif what == "names" and len(header) > 2:
        one, two = rng.sample([key for key in header if key != "__metadata__"], 2)
        header[one], header[two] = header[two], header[one]
    elif what == "offsets":
        entry = header[rng.choice([key for key in header if key != "__metadata__"])]
        if isinstance(entry, dict):
            entry[rng.choice(("data_offsets", "shape"))] = rng.choice(
                ([0, 0], [-1, 4], [2**63, 2**64], [4, 0], [0, 2**40])
            )
    elif what == "body":
        body = damaged(rng, body)[0]
    text = as_json(header)
    length = rng.choice((0, 1, size + 1, 2**40, 2**64 - 1)) if what == "length" else len(text)
    path.write_bytes(struct.pack("<Q", length) + text + body)
    return f"safetensors, {what}"


def _spoil_entry(rng: random.Random, path: Path, folder: Path) -> str:
    """The name is there (or not), and what it names is something else."""
    action = rng.choice(
        (
            "gone",
            "folder",
            "self link",
            "dangling",
            "pipe",
            "other",
            "renamed",
            "link out",
            "strange name",
            "evil",
            "full folder",
        )
    )
    if action == "other":
        other = rng.choice(files_in(folder))
        shutil.copyfile(other, path.with_name(f"{path.name}.aside"))
        path.with_name(f"{path.name}.aside").replace(path)
        return f"content of {other.relative_to(folder).as_posix()}"
    if action == "strange name":
        with contextlib.suppress(OSError):
            Path(os.fsdecode(os.fsencode(path.parent) + b"/bad-\xff\xfe\n.json")).write_bytes(b"{}")
        return action
    if action == "evil":
        return spoil_evil(rng, path.parent)
    if action == "link out":
        target = folder.parent / f"outside-{path.name}"
        if not target.exists():
            shutil.copyfile(path, target)
        path.unlink()
        path.symlink_to(target)
        return action
    path.unlink()
    if action == "folder":
        path.mkdir()
    elif action == "full folder":
        path.mkdir()
        (path / "inside.json").write_text("{}")
    elif action == "self link":
        path.symlink_to(path.name)
    elif action == "dangling":
        path.symlink_to("nowhere/at-all")
    elif action == "pipe":
        os.mkfifo(path)
    elif action == "renamed":
        path.with_name(path.name.upper() if path.name.islower() else f"{path.name}.txt").write_bytes(b"{}")
    return action


def spoil_evil(rng: random.Random, folder: Path) -> str:
    """Pickles and Python code beside (or instead of) the weights; loading either makes the sentinel."""
    payload = pickle.dumps({"weights": Evil()})
    name = rng.choice(("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "model.pt", "optimizer.pt"))
    (folder / name).write_bytes(payload)
    told = name
    if rng.random() < 0.5:
        for path in folder.glob("*.safetensors"):
            path.unlink()
        told += ", no safetensors"
    config = folder / "config.json"
    if config.is_file() and rng.random() < 0.6:
        for module in ("configuration_evil.py", "modeling_evil.py", "tokenization_evil.py"):
            (folder / module).write_text(EVIL_CODE)
        with contextlib.suppress(ValueError):
            tree = json.loads(config.read_bytes())
            if isinstance(tree, dict):
                tree["auto_map"] = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
                if rng.random() < 0.5:
                    tree["model_type"] = "evil"
                config.write_bytes(as_json(tree))
                told += ", own code"
        tokenizer = folder / "tokenizer_config.json"
        with contextlib.suppress(ValueError, OSError):
            tree = json.loads(tokenizer.read_bytes())
            tree["auto_map"] = {"AutoTokenizer": ["tokenization_evil.T", "tokenization_evil.T"]}
            tokenizer.write_bytes(as_json(tree))
    return told

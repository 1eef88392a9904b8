"""What the tests of archives share: the tracked files, what lies in an archive, a build."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# What lies about in a tree that was worked in, and may be in no archive.
LITTER = (
    "src/ensemw2s/__pycache__/paths.cpython-311.pyc", "src/ensemw2s/cli/.DS_Store", "src/ensemw2s/.mypy_cache/x.data",
    "tests/unit/__pycache__/y.pyc", ".pytest_cache/v", "runs/one/results.pickle",
)  # fmt: skip


class Built(NamedTuple):
    """A copy of the tracked tree, the names in it, its wheel, its source archive, and the wheel of that."""

    tree: Path
    tracked: list[str]
    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


def tracked(root: Path) -> list[str]:
    """Names of the files that git tracks and that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    return sorted(name for name in listed.stdout.split("\0") if name and (root / name).is_file())


def names(archive: Path) -> list[str]:
    """Files inside a wheel or a source archive, the latter's without their common folder."""
    if archive.suffix == ".whl":
        return sorted(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as file:
        return sorted(one.name.partition("/")[2] for one in file.getmembers() if one.isfile())


def clean_environment() -> dict[str, str]:
    """Without paths of the repository, and with nothing to fetch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ENSEMW2S", "PIP"))}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_NO_INPUT": "1"}


def build(tree: Path, out: Path, *what: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", *what, "--outdir", str(out)]
    done = subprocess.run(
        [*command, str(tree)], env=clean_environment(), capture_output=True, text=True, cwd=out.parent
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def package_files(built: Built) -> list[str]:
    """The tracked files of the package, as they are named in the tree."""
    return [name for name in built.tracked if name.startswith("src/ensemw2s/")]

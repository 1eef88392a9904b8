"""One build of wheel and source archive for all tests here, from a copy of the tracked tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # archivekit

from archivekit import LITTER, ROOT, Built, build, clean_environment, tracked


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pytest.importorskip("build", reason="needs the extra 'dev'")
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: what is tracked is what is packed")
    base = tmp_path_factory.mktemp("packaging")
    tree = base / "tree"
    names = tracked(ROOT)
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    for name in LITTER:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"litter")
    (base / "one").mkdir()
    (base / "two").mkdir()
    build(tree, base / "one")  # a source archive, and the wheel of it
    shutil.rmtree(tree / "build", ignore_errors=True)
    build(tree, base / "two", "--wheel")
    (sdist,), (inner,), (wheel,) = (
        list((base / place).glob(kind)) for place, kind in (("one", "*.gz"), ("one", "*.whl"), ("two", "*.whl"))
    )
    return Built(tree, names, wheel, sdist, inner)


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was installed into, with nothing else."""
    target = tmp_path_factory.mktemp("installed") / "here"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(target)]
    done = subprocess.run([*command, str(built.wheel)], env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target

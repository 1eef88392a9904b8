"""What is in the wheel and in the source archive, and that a wheel installed alone works."""

from __future__ import annotations

import email
import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import archivekit as kit
import pytest

# Kinds of data the code opens. A kind that is missing here, or one that is not packed, is noticed below.
DATA = {
    "py.typed": 1, "models/zoo/*/model.safetensors": 10, "models/zoo/*/tokenizer.json": 10, "models/zoo/*/config.json": 10,
    "data/datasets.yaml": 1, "experiment/presets/*.yaml": 6, "experiment/studies/*.yaml": 3,
    "experiment/planning/hardware.yaml": 1, "experiment/planning/shapes.yaml": 1, "report/templates/*.jinja": 2,
    "report/templates/*.css": 1, "viewer/assets/*.js": 1, "viewer/assets/*.css": 2,
    "report/templates/*.js": 1, "server/page/*.jinja": 1, "server/page/*.css": 1, "server/page/*.js": 1,
}  # fmt: skip


def contents(wheel: Path) -> dict[str, str]:
    """SHA-256 by name."""
    with zipfile.ZipFile(wheel) as file:
        return {name: hashlib.sha256(file.read(name)).hexdigest() for name in file.namelist()}


def test_the_wheel_holds_the_tracked_package_and_nothing_else(built: kit.Built) -> None:
    inside = kit.names(built.wheel)
    package = [name for name in inside if not name.split("/")[0].endswith(".dist-info")]
    assert package == [name.removeprefix("src/") for name in kit.package_files(built)]
    about = sorted(name.partition(".dist-info/")[2] for name in set(inside) - set(package))
    assert about == ["METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"]


@pytest.mark.parametrize("pattern", DATA)
def test_every_kind_of_data_is_inside(built: kit.Built, pattern: str) -> None:
    inside = [Path(name) for name in kit.names(built.wheel)]
    assert sum(path.match(f"ensemw2s/{pattern}") for path in inside) >= DATA[pattern]


def test_every_ending_of_a_data_file_is_known_here(built: kit.Built) -> None:
    """A new kind of data file is added to ``DATA``, so that its place in the wheel is looked at."""
    endings = {Path(name).suffix for name in kit.names(built.wheel) if name.startswith("ensemw2s/")}
    assert endings <= {".py", ".typed", ".json", ".yaml", ".safetensors", ".md", ".jinja", ".css", ".js"}


def test_the_source_archive_builds_the_same_wheel(built: kit.Built) -> None:
    assert built.wheel.name == built.wheel_of_sdist.name
    one, other = contents(built.wheel), contents(built.wheel_of_sdist)
    assert one == other


def test_the_source_archive_holds_no_tests_and_no_caches(built: kit.Built) -> None:
    inside = kit.names(built.sdist)
    places = {name.split("/")[0] for name in inside}
    assert places == {
        "benchmarks", "docs", "examples", "scripts", "src", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE",
        "MANIFEST.in", "PKG-INFO", "README.md", "constraints.txt", "mkdocs.yml", "pyproject.toml", "setup.cfg", "setup.py",
    }  # fmt: skip
    assert not [name for name in inside if "cache" in name.split("/")[-2:][0] or name.endswith((".pyc", ".DS_Store"))]
    own = [name for name in inside if name.startswith("src/ensemw2s/")]
    assert own == kit.package_files(built)


def test_what_is_archived_belongs_to_nobody_on_this_machine(built: kit.Built) -> None:
    with tarfile.open(built.sdist) as file:
        for member in file.getmembers():
            assert member.isfile() or member.isdir(), member.name
            assert not member.name.startswith(("/", ".."))
            assert ".." not in Path(member.name).parts


def test_metadata_is_valid(built: kit.Built) -> None:
    from packaging.metadata import Metadata

    with zipfile.ZipFile(built.wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith("/METADATA")]
        text = file.read(name)
    found = Metadata.from_email(text, validate=True)
    assert (found.name, found.license_expression) == ("ensemw2s", "Apache-2.0")
    assert str(found.requires_python) == ">=3.11"
    assert "Typing :: Typed" in (found.classifiers or [])
    raw = email.message_from_bytes(text)
    assert all("\n" not in str(raw[key]) for key in ("Summary", "Version"))


def _run(installed: Path, folder: Path, *arguments: str) -> str:
    environment = kit.clean_environment() | {"PYTHONPATH": str(installed), "ENSEMW2S_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_alone_runs(installed: Path, built: kit.Built, tmp_path: Path) -> None:
    program = str(installed / "bin" / "ensemw2s") if os.name == "posix" else "-m"
    arguments = [] if os.name == "posix" else ["ensemw2s"]
    version = built.wheel.name.split("-")[1]
    assert _run(installed, tmp_path, program, *arguments, "--version").split() == ["ensemw2s", version]
    listed = _run(installed, tmp_path, program, *arguments, "list")
    for name in ("w2s-weak", "w2s-large", "arc", "quickstart", "tiny", "product", "cross_entropy"):
        assert name in listed
    planned = _run(installed, tmp_path, program, *arguments, "run", "tiny", "--dry-run")
    assert "w2s-strong" in planned


READS_DATA = """
import sys, ensemw2s
from pathlib import Path
assert Path(ensemw2s.__file__).is_relative_to(sys.argv[1]), ensemw2s.__file__
from ensemw2s.data.hub import DATASETS
from ensemw2s.experiment.grid import STUDIES
from ensemw2s.experiment.planning import hardware, shapes
from ensemw2s.report.html import _TEMPLATES
from ensemw2s.viewer.assets import FOLDER, asset
for module in [m for name, m in sys.modules.items() if name.startswith("ensemw2s")]:
    assert Path(module.__file__).is_relative_to(sys.argv[1]), module.__file__
print(len(list(DATASETS)), len(list(STUDIES.glob("*.yaml"))), len(list(_TEMPLATES.iterdir())), sum(bool(asset(p.name)) for p in FOLDER.iterdir()))
"""


def test_nothing_is_read_from_the_repository(installed: Path, built: kit.Built, tmp_path: Path) -> None:
    found = [int(word) for word in _run(installed, tmp_path, "-c", READS_DATA, str(installed)).split()]
    assert found[0] >= 9
    files = [Path(name) for name in kit.package_files(built)]
    for count, pattern in zip(
        found[1:], ("experiment/studies/*.yaml", "report/templates/*", "viewer/assets/*"), strict=True
    ):
        assert count == sum(path.match(f"src/ensemw2s/{pattern}") for path in files) >= 3

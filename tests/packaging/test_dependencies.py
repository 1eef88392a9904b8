"""What the code imports is what is declared, and the licences of all of it are allowed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from email.message import Message
from importlib.machinery import SourceFileLoader
from importlib.metadata import packages_distributions
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RULES = PROJECT["tool"]["ensemw2s"]["licences"]
BASE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
FOR_USERS = ("hub", "eval", "trackio", "wandb", "ray", "serve")
FOR_TOOLS = ("dev", "docs", "release")
#: Extras that nothing else contains: they may be absent where the tests run.
ALONE = ("trackio", "wandb", "release")
RELEASING = (ROOT / "docs/releasing.md").read_text(encoding="utf-8")


def _licences() -> Any:
    loader = SourceFileLoader("licences", str(ROOT / "scripts" / "licences"))
    spec = spec_from_loader("licences", loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


licences = _licences()


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported() -> dict[str, set[str]]:
    """Top-level modules of others, by the files that import them."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            else:
                continue
            for module in (name.split(".")[0] for name in modules):
                if module not in sys.stdlib_module_names and module != "ensemw2s":
                    found.setdefault(module, set()).add(path.name)
    return found


def test_every_import_is_declared() -> None:
    declared = names(BASE) | names([text for extra in FOR_USERS for text in EXTRAS[extra]])
    where = packages_distributions()
    undeclared = {}
    for module, files in imported().items():
        owners = {canonicalize_name(name) for name in where.get(module, [module])}
        if not owners & declared:
            undeclared[module] = sorted(files)
    assert undeclared == {}


def test_every_base_dependency_is_used() -> None:
    where = packages_distributions()
    used = {canonicalize_name(name) for module in imported() for name in where.get(module, [module])}
    assert names(BASE) - used == {"tensorboard"}  # torch.utils.tensorboard imports it


def test_extras_are_small_named_and_told_apart() -> None:
    assert set(EXTRAS) == {*FOR_USERS, *FOR_TOOLS}
    assert all(re.fullmatch(r"[a-z]+", name) for name in EXTRAS)
    for extra in FOR_USERS:
        assert len(EXTRAS[extra]) <= 4
        assert not names(EXTRAS[extra]) & names(BASE)
    for text in BASE:
        assert str(Requirement(text).specifier).startswith(">="), f"{text}: a lower bound, and no upper one"


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_the_licences_of_all_that_is_installed_are_allowed(extra: str | None) -> None:
    found, missing = licences.closure([*BASE, *(licences.needs(extra, EXTRAS) if extra else [])])
    if extra in ALONE and missing:
        pytest.skip(f"{', '.join(missing)} of the extra '{extra}' is not installed here")
    assert names(BASE) <= set(found)
    assert missing == []
    assert len(found) > len(BASE)
    but = licences.exceptions(extra, EXTRAS, RULES) if extra else {}
    told = {name: licences.licence_of(one, RULES) for name, one in found.items()}
    refused = {name: licence for name, licence in told.items() if not licences.may_come(name, licence, RULES, but)}
    assert refused == {}
    unneeded = {name for name in but if name not in found or licences.may_come(name, told[name], RULES, {})}
    assert unneeded == set(), "an exception that nothing needs any more"


def test_exceptions_are_named_reasoned_and_never_of_the_package_itself() -> None:
    assert set(RULES["extras"]) <= set(EXTRAS)
    for extra, but in RULES["extras"].items():
        for name, one in but.items():
            assert set(one) == {"licence", "why"}, name
            assert len(one["why"]) > 20, f"{name}: say why it may be there"
            assert not licences.allowed(one["licence"], RULES["allow"])
            assert extra in FOR_TOOLS or f"`{name}`" in RELEASING, f"docs/releasing.md does not name {name}"


def test_an_exception_holds_for_one_extra_one_package_and_one_licence() -> None:
    rules = {"allow": ["MIT"], "vendors": [], "extras": {"one": {"thing": {"licence": "LGPL-2.1-only", "why": "so"}}}}
    extras = {"one": ["thing"], "other": ["thing"], "all": ["ensemw2s[one]", "more"]}
    assert set(licences.exceptions("one", extras, rules)) == set(licences.exceptions("all", extras, rules)) == {"thing"}
    assert licences.exceptions("other", extras, rules) == {}
    assert licences.needs("all", extras) == ["more", "thing"]
    but = licences.exceptions("one", extras, rules)
    assert licences.may_come("thing", "LGPL-2.1-only", rules, but)
    assert not licences.may_come("thing", "GPL-3.0-only", rules, but)
    assert not licences.may_come("another", "LGPL-2.1-only", rules, but)
    assert licences.may_come("another", "MIT", rules, but)


def test_without_arguments_every_extra_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(licences, "closure", lambda wanted: asked.append(wanted) or ({}, []))
    assert licences.main([]) == 0
    assert asked == [BASE, *([*BASE, *licences.needs(extra, EXTRAS)] for extra in EXTRAS)]
    assert set(EXTRAS["eval"]) <= set(asked[-1]), "dev contains eval"
    assert licences.main(["nothing"]) == 2
    assert "no extra 'nothing': there are hub, eval" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expression", "right"),
    [
        ("MIT", True), ("GPL-3.0-only", False), ("", False), ("MIT AND GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True), ("GPL-3.0-only OR MIT", True), ("MIT AND (GPL-3.0-only OR ISC)", True),
        ("MIT AND ISC OR GPL-3.0-only AND LGPL-2.1-only", True), ("GPL-2.0-only OR MIT AND AGPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True), ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("(MIT", False), ("MIT MIT", False), ("MIT OR", True), ("MIT AND", False),
    ],
)  # fmt: skip
def test_expressions(expression: str, right: bool) -> None:
    assert licences.allowed(expression, RULES["allow"]) is right


class Package:
    """A distribution that has metadata only."""

    def __init__(self, **lines: Any) -> None:
        self.metadata = Message()
        for name, value in {"Name": "thing", **lines}.items():
            for one in value if isinstance(value, list) else [value]:
                self.metadata[name.replace("_", "-")] = one


@pytest.mark.parametrize(
    ("package", "licence"),
    [
        (Package(License_Expression="MIT"), "MIT"),
        (Package(License="apache 2.0"), "Apache-2.0"),
        (Package(License="Copyright (c) " + "x" * 300, Classifier=["License :: OSI Approved :: BSD License"]), "BSD-3-Clause"),
        (Package(License="Dual License", Classifier=["License :: OSI Approved :: BSD License",
                                                     "License :: OSI Approved :: Apache Software License"]),
         "BSD-3-Clause OR Apache-2.0"),
        (Package(License="Beerware-ish"), "Beerware-ish"),
        (Package(Classifier=["Programming Language :: Python"]), ""),
        (Package(Name="matplotlib"), "PSF-2.0"),
    ],
)  # fmt: skip
def test_what_metadata_say(package: Any, licence: str) -> None:
    assert licences.licence_of(package, RULES) == licence


def test_a_missing_package_and_an_unknown_licence_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, missing = licences.closure(["no-such-thing-anywhere", "numpy; python_version < '3'"])
    assert (found, missing) == ({}, ["no-such-thing-anywhere"])
    monkeypatch.setattr(licences, "closure", lambda wanted: ({}, ["torch"]))
    assert licences.main([]) == 2
    assert "torch is not installed here" in capsys.readouterr().err


def test_constraints_cover_the_base() -> None:
    """Every direct dependency is pinned, once, to a version its own bound allows."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in pinned}
    assert len(versions) == len(pinned)
    for text in BASE:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        assert name in versions, f"{name} is not in constraints.txt"
        assert wanted.specifier.contains(versions[name])


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_a_bill_of_materials_needs_a_wheel(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "sbom", tmp_path / "none.whl"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2
    assert f"error: no wheel {tmp_path / 'none.whl'}" in done.stderr

"""Every defect of docs/pitfalls.md has tests, under the names that the page gives."""

from __future__ import annotations

import ast
import re

from dockit.pages import ROOT

LINES = [
    line for line in (ROOT / "docs/pitfalls.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
][2:]


def test_every_defect_names_tests_that_are_there() -> None:
    assert len(LINES) >= 19
    for line in LINES:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line)
        assert named, f"no test in: {line}"
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            found = {node.name: " ".join(map(ast.unparse, node.decorator_list))
                     for node in tree.body if isinstance(node, ast.FunctionDef)}  # fmt: skip
            assert test in found, f"{file} has no {test}"
            assert "mark.exhaustive" not in found[test], f"{file}::{test} does not run every time"

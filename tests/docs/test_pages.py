"""What concept pages and pictures say is what the package computes; formats are those of a real run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from dockit.pages import ROOT, blocks, commands

DOCS = ROOT / "docs"


def rows_of(text: str, head: str) -> list[list[str]]:
    """The cells below the table head that begins with ``head``."""
    lines = text[text.index(head) :].splitlines()[2:]
    table = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_the_example_by_hand_adds_up() -> None:
    """Against the formulas written out once more, without the package."""
    from math import exp, log

    import by_hand

    story = by_hand.story()
    assert story.prior == pytest.approx(log(2))
    weights = [1 / 6] * 6
    for wrong, record, after in zip(by_hand.EXPERTS_WRONG, story.records, story.weights[1:], strict=True):
        error = sum(w for w, bad in zip(weights, wrong, strict=True) if bad)
        alpha = log((1 - error) / error) + log(2)
        assert (record.error, record.alpha) == pytest.approx((error, alpha))
        raised = [w * (exp(0.5 * alpha) if bad else 1) for w, bad in zip(weights, wrong, strict=True)]
        weights = [w / sum(raised) for w in raised]
        assert list(after) == pytest.approx(weights)


def test_the_tables_and_sentences_hold_these_numbers() -> None:
    import by_hand

    story = by_hand.story()
    page = (DOCS / "concepts/boosting.md").read_text(encoding="utf-8")
    shown = rows_of(page, "| token | at first")
    assert [row[0].strip("`") for row in shown] == list(by_hand.TOKENS)
    for place, row in enumerate(shown):
        assert row[1:] == [f"{weights[place]:.3f}" for weights in story.weights]
    for number in (story.prior, story.records[0].error, *(record.alpha for record in story.records)):
        assert f"= {number:.3f}" in page
    combining = (DOCS / "concepts/combining.md").read_text(encoding="utf-8")
    assert f"= {by_hand.mixture()[0]:.3f}." in combining


def test_pictures_are_those_that_the_script_draws() -> None:
    import pictures

    assert {path.stem for path in (DOCS / "concepts").glob("*.svg")} == set(pictures.PICTURES)
    for name, draw in pictures.PICTURES.items():
        stored = (DOCS / "concepts" / f"{name}.svg").read_text(encoding="utf-8")
        assert stored == str(draw()), f"{name}.svg is old: python docs/pictures.py"


def test_the_picture_of_the_gap_is_that_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (DOCS / "concepts/pgr.md").read_text(encoding="utf-8")
    hard = {
        name: re.search(rf"^     {name} .*?\]\s+([\d.]+) \[", readme, re.MULTILINE)
        for name in ("weak expert", "student", "ceiling")
    }
    weak, student, ceiling = (float(found[1]) for found in hard.values() if found)
    for score in (weak, student, ceiling):
        assert f"{score} %" in page
        assert f"{score:.1f} %" in (DOCS / "concepts/pgr.svg").read_text(encoding="utf-8")
    assert f"{student - weak:.1f} / {ceiling - weak:.1f} = {(student - weak) / (ceiling - weak):.2f}" in page


def test_formats_are_those_of_a_run(prepared: Path) -> None:
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    results = json.loads((prepared / "my-run/results.json").read_text())
    told = {name for row in rows_of(page, "| key | content") for name in re.findall(r"`(\w+)`", row[0])}
    assert set(results) == told | {"schema"}
    names = " ".join(row[0] for row in rows_of(page, "| name | content"))
    for path in (prepared / "my-run").iterdir():
        assert path.name in names, path.name
    header = (prepared / "my-run/scores.csv").read_text().splitlines()[0]
    assert header.replace(",", ", ") in page
    ensemble = json.loads((prepared / "my-run/ensemble/ensemble.json").read_text())
    assert [key for key in ensemble if f"`{key}`" not in page] == []
    label = json.loads((prepared / "labels.jsonl").read_text().splitlines()[0])
    assert {"label", "confidence", "agreement"} <= set(label)


def test_the_page_of_plug_ins_names_every_registry() -> None:
    page = (DOCS / "how-to/plugin.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    kinds = set(re.findall(r'= Registry\("([a-z]+)"\)', code))
    # A family changes the frozen world, so it is added in the package alone.
    assert set(re.findall(r"`ensemw2s\.(\w+)` \|", page)) == kinds - {"families"}


def test_the_page_of_plug_ins_shows_the_tested_files() -> None:
    shown = [block.text for block in blocks((DOCS / "how-to/plugin.md").read_text(encoding="utf-8")) if block.language]
    files = ("src/ensemw2s_example/systems.py", "pyproject.toml")
    assert shown == [(ROOT / "examples/plugin" / name).read_text(encoding="utf-8").rstrip() for name in files]


def test_blocks_and_commands_are_found() -> None:
    text = "# T\n\n    ensemw2s list   what it is\n    $ A=1 scripts/x  # why\n\n- item\n\n    no code\n\nend\n\n```python\nx = 1\n```\n"
    assert [(block.language, block.line) for block in blocks(text)] == [("", 3), ("python", 13)]
    found = [command.words for command in commands("docs/index.md")]
    assert ("scripts/quickstart",) in found
    assert ("ensemw2s", "generate", "--model", "student", "a question") in found


def test_an_indented_block_is_commands_or_none() -> None:
    """A command that the reader of pages does not know would be run by nobody."""
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/index.md",
        *(f"docs/how-to/{p.name}" for p in DOCS.glob("how-to/*")),
    ):
        lines = {command.line for command in commands(page)}
        for block in blocks((ROOT / page).read_text(encoding="utf-8")):
            text = block.text if block.language == "" else ""
            unknown = [line for at, line in enumerate(text.splitlines(), block.line) if at not in lines]
            assert not unknown or block.text.startswith("$ "), f"{page}:{block.line}: {unknown[0]}"

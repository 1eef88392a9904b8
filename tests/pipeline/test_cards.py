"""The cards of a run's folders: what they tell is what the run found, and their code loads what lies beside them."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ensemw2s import api
from ensemw2s.artifacts import read_json
from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.card import is_own_card
from ensemw2s.experiment.cards import story_of_rows
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.run import execute
from ensemw2s.training.settings import TrainSettings

CONFIG = load_config("tiny", ["systems=[ensemble,student,ceiling]", "evaluation.staged=false"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    base = tmp_path_factory.mktemp("cards")
    folder, results = execute(CONFIG, base / "out", store=base / "store")
    return folder, results, base / "store"


@pytest.mark.parametrize("system", ["ensemble", "student"])
def test_scores_stand_as_in_the_results(finished: tuple, system: str) -> None:
    folder, results, _ = finished
    text = (folder / system / "README.md").read_text(encoding="utf-8")
    assert is_own_card(text)
    own = [one for one in results["scores"] if one["system"] == system and one["metric"] == "exact_match"]
    assert len(own) == 2
    for one in own:
        assert f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}] | {one['n']} |" in text
    assert f"**{system}**" in text
    assert "`boost.rounds`" in text or system == "student"
    rows = results["splits"]["weak_train" if system == "ensemble" else "pool"]["rows"]
    assert f"Data: {rows} rows of the built-in world of ensemw2s" in text
    if system == "student":
        quality = next(one for one in results["pseudo_labels"] if one["teacher"] == "ensemble")
        assert quality["taught"] == quality["n"]
        assert f"How many of these labels are right: {100 * quality['value']:.1f} %" in text


def test_a_card_tells_of_the_labels_that_the_student_learned_from(tmp_path: Path) -> None:
    words = ["systems=[ensemble,student]", "selection.name=confident", "selection.fraction=0.25", "student_rows=all",
             "boost.level=row", "split.weak_train=24", "split.test_id=8", "split.test_ood=8", "evaluation.examples=0"]  # fmt: skip
    _, results = execute(load_config("tiny", words), tmp_path / "out", store=tmp_path / "store")
    (quality,) = [one for one in results["pseudo_labels"] if one["teacher"] == "ensemble"]
    assert quality["taught"] == 16
    text = (tmp_path / "out" / "student" / "README.md").read_text(encoding="utf-8")
    assert "Data: 40 rows" in text
    assert "for 16 of them, right ones for the 24 labelled easy rows" in text
    assert f"How many of these labels are right: {100 * quality['taught_right']:.1f} %" in text
    assert "at the level of rows" in (tmp_path / "out" / "ensemble" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("system", ["ensemble", "student"])
def test_the_cards_code_answers_as_the_program_does(
    finished: tuple, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = finished
    question = "sort 3 1 2"
    text = (folder / system / "README.md").read_text(encoding="utf-8").replace("your question", question)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert ("ensemw2s" in code) == (system == "ensemble")
    monkeypatch.chdir(folder)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "card", "exec"), {})
    assert said.getvalue().strip() == api.generate(folder / system, question)[0].strip()


def test_an_edited_card_outlives_the_next_run(finished: tuple) -> None:
    folder, _, store = finished
    before = {name: (folder / name / "README.md").read_text(encoding="utf-8") for name in ("ensemble", "student")}
    for name, text in before.items():
        (folder / name / "README.md").write_text(text + "\nand a word of mine\n", encoding="utf-8")
    (folder / "ensemble" / "ensemble.json").unlink()  # harmed: the folder is made again
    execute(CONFIG, folder, store=store)
    assert (folder / "ensemble" / "ensemble.json").is_file()
    for name, text in before.items():
        assert (folder / name / "README.md").read_text(encoding="utf-8") == text + "\nand a word of mine\n"
        (folder / name / "README.md").unlink()
    execute(CONFIG, folder, store=store)
    for name, text in before.items():
        assert (folder / name / "README.md").read_text(encoding="utf-8") == text, "equal runs, equal cards"


@pytest.mark.parametrize("form", ["additive", "discrete", "real"])
def test_a_card_lists_the_settings_that_the_form_uses(form: Any) -> None:
    told = story_of_rows([Row("a", "q", "b")], "right ones", boost=BoostSettings(form=form)).settings
    shared, adaboost = {"boost.form", "boost.rounds", "boost.shrinkage"}, {"boost.mode", "boost.prior", "boost.level"}
    adaboost |= {"boost.error_clamp", "boost.count", "boost.prior_error", "boost.error_on"}
    assert set(told) == shared | ({"boost.top_k"} if form == "additive" else adaboost)


def test_steps_on_their_own_say_what_they_know(tmp_path: Path) -> None:
    rows = [{"id": str(n), "question": f"count {n}", "answer": "1"} for n in range(4)]
    data = tmp_path / "private place" / "rows.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    budget = TrainSettings(epochs=1, batch_size=4)
    ensemble = api.boost(data, "w2s-weak", tmp_path / "e", rounds=1, training=budget)
    student = api.train_student("w2s-weak", data, tmp_path / "s", training=budget, tuning="lora")
    for folder in (ensemble, student):
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert "Data: 4 rows of the file rows.jsonl" in text
        assert "None are known: no run measured it" in text
        assert "private place" not in text
        assert "`boost.mode`" not in text, "additive boosting, the default, draws nothing"
        assert str(tmp_path) not in text
    assert "peft" in (student / "README.md").read_text(encoding="utf-8")
    assert read_json(ensemble / "ensemble.json")["card"]["rows"] == 4

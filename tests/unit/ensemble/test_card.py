"""Model cards: what they say, when they are kept, and that nothing depends on them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.artifacts import read_json, verify_checksums, write_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.ensemble.bases import base_origin, shown_base
from ensemw2s.ensemble.card import CardFacts, Score, Story, edited_card, is_own_card, render_card, with_base
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.models.loading import load_tokenizer

IDS = torch.tensor([[1, 3, 4, 5, 9], [1, 8, 2, 7, 6]])
SCORES = (
    Score(system="ensemble", split="test_id", metric="exact_match", value=0.726, low=0.699, high=0.752, n=1000, chance=0.1),
    Score(system="ensemble", split="test_id", metric="nll", value=0.5, low=0.25, high=1.0, n=1000),
    Score(system="weak", split="test_id", metric="exact_match", value=0.5, low=0.4, high=0.6, n=1000),
)  # fmt: skip
STORY = Story(
    source="allenai/sciq (sciq)", datasets=("allenai/sciq",), rows=640, fingerprint="f" * 64, labels="right ones",
    settings={"boost.rounds": "2"}, system="ensemble", main_metric="exact_match", scores=SCORES,
    pgr=(Score(system="ensemble", split="test_ood", metric="exact_match", value=None),), warnings=("it is small",),
)  # fmt: skip


def facts(tokenizer: Any, **changes: Any) -> CardFacts:
    settings = {"name": "mine", "kind": "ensemble", "base": "owner/base", "tuning": "full", "task_format": TaskFormat(),
                "tokenizer": tokenizer, "alphas": [1.5, 0.25], "rule": "mean"}  # fmt: skip
    return CardFacts(**settings | changes)


def metadata(text: str) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    found: dict[str, Any] = ModelCard(text).data.to_dict()
    return found


def told(ensemble: Any, place: Path, **meta: Any) -> str:
    ensemble.meta = {**ensemble.meta, **meta}
    ensemble.save_pretrained(place)
    return (place / "README.md").read_text(encoding="utf-8")


def test_the_hub_reads_the_metadata(tokenizer: Any) -> None:
    found = metadata(render_card(facts(tokenizer), STORY))
    assert (found["base_model"], found["library_name"], found["datasets"]) == (
        "owner/base",
        "ensemw2s",
        ["allenai/sciq"],
    )
    assert found["tags"] == ["ensemw2s", "weak-to-strong", "ensemble"]
    assert "language" not in found
    assert "license" not in found
    (index,) = found["model-index"]
    (result,) = index["results"]
    assert result["dataset"] == {"name": "allenai/sciq (sciq)", "type": "allenai/sciq", "split": "test_id"}
    assert {one["type"]: one["value"] for one in result["metrics"]} == {"exact_match": 0.726, "nll": 0.5}


def test_the_card_tells_the_form_of_boosting_and_every_base(tokenizer: Any) -> None:
    plain = " ".join(render_card(facts(tokenizer), STORY).split())
    assert "2 weak experts, fine-tuned from `owner/base` with AdaBoost at the level of tokens" in plain
    changes = {"rule": "additive", "more_bases": ["w2s-weak-5", "other|base"]}
    both = " ".join(render_card(facts(tokenizer, **changes), STORY).split())
    assert "from `owner/base`, `w2s-weak-5` and `other\\|base` in turn, by additive boosting at the level" in both


def test_scores_stand_with_their_intervals(tokenizer: Any) -> None:
    text = render_card(facts(tokenizer), STORY)
    assert "| test ID (easy) | exact match | 72.6 % [69.9, 75.2] | 1000 | 10.0 % |" in text
    assert "0.500 [0.250, 1.000]" in text
    assert "| **ensemble** | 72.6 % [69.9, 75.2] |" in text
    assert "| weak | 50.0 % [40.0, 60.0] |" in text
    assert "test OOD (hard): withheld" in text
    for part in (
        "640 rows of allenai/sciq (sciq)",
        "f" * 64,
        "- it is small",
        "| 1 | 1.5 |",
        "arxiv.org/abs/2410.04571",
    ):
        assert part in text
    unknown = render_card(facts(tokenizer), Story())
    assert "None are known: no run measured it" in unknown
    assert "Which rows it was trained on is not recorded" in unknown
    assert "model-index" not in unknown


def test_no_path_of_a_machine_is_published(tokenizer: Any, tmp_path: Path) -> None:
    for base in (str(tmp_path / "base"), "/somewhere/else/base"):
        assert base_origin(base) == "folder"
        assert shown_base(base) == "base"
        text = render_card(facts(tokenizer, base=base), Story())
        assert base not in text
        assert "base_model" not in metadata(text)
    assert base_origin("w2s-weak") == "built-in"
    assert "base_model" not in metadata(render_card(facts(tokenizer, base="w2s-weak"), Story()))
    assert base_origin("") == "unknown"
    assert base_origin("owner/base") == "hub"
    assert shown_base("C:\\models\\base") == shown_base("/models/base/") == "base"


@pytest.mark.parametrize(
    "changes", [{}, {"tuning": "lora"}, {"kind": "student"}, {"kind": "student", "tuning": "lora"}], ids=str
)
def test_a_base_that_gets_an_address_makes_the_card_that_it_would_have_had(tokenizer: Any, changes: dict) -> None:
    here, there = (
        render_card(facts(tokenizer, base=base, **changes), STORY) for base in ("/nowhere/base", "owner/base")
    )
    assert here != there
    assert with_base(here, "/nowhere/base", "owner/base") == there
    assert with_base(here.replace("\n", "\r\n"), "/nowhere/base", "owner/base") == there


def test_the_ensembles_own_words_load_it(full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card's code is run as it stands, and answers as the ensemble itself does (its tokenizer ends texts: a trap)."""
    ensemble = full(1, 2)
    text = told(ensemble, tmp_path / "saved")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "[:, :-1]  # without the end token" in code
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "card", "exec"), {})
    (answer,) = ensemble.decode([ensemble.task_format.prompt(_row())])
    assert said.getvalue().strip() == ensemble.tokenizer.decode(answer.token_ids, skip_special_tokens=True).strip()
    assert said.getvalue().strip()


def _row() -> Any:
    from ensemw2s.data.rows import Row

    return Row(id="x", question="your question")


def test_a_students_words_need_no_package_of_ours(tokenizer: Any) -> None:
    text = render_card(facts(tokenizer, kind="student", base="owner/base"), Story())
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "ensemw2s" not in code
    compile(code, "card", "exec")
    assert metadata(text)["library_name"] == "transformers"
    adapter = render_card(facts(tokenizer, kind="student", tuning="lora", base="w2s-strong"), Story())
    (code,) = re.findall(r"```python\n(.*?)```", adapter, re.DOTALL)
    assert 'model_folder("w2s-strong")' in code
    compile(code, "card", "exec")
    assert metadata(adapter)["library_name"] == "peft"


@pytest.mark.parametrize(
    "task_format", [TaskFormat(), TaskFormat(template="{question} ="), TaskFormat(template="chat")]
)
def test_the_prompt_is_read_as_in_training(task_format: TaskFormat) -> None:
    from ensemw2s.data.encoding import encode_prompts

    tokenizer = load_tokenizer("w2s-weak")
    if task_format.template == "chat":
        tokenizer.chat_template = "{% for m in messages %}Question: {{ m.content }}{% endfor %}"
    text = render_card(facts(tokenizer, kind="student", task_format=task_format), Story())
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    lines = [line for line in code.splitlines() if line.startswith(("prompt = ", "ids = "))]
    space: dict[str, Any] = {"tokenizer": tokenizer}
    exec("\n".join(lines), space)
    (wanted,) = encode_prompts([_row()], tokenizer, task_format, None).rows
    assert space["ids"][0].tolist() == wanted.input_ids


def test_a_chat_format_without_a_chat_template_still_has_a_card(tokenizer: Any) -> None:
    assert is_own_card(render_card(facts(tokenizer, task_format=TaskFormat(template="chat")), Story()))


def test_an_edited_card_is_kept_and_harms_nothing(full: Any, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    text = told(full(1), place)
    assert edited_card(place) is None
    assert "README.md" not in read_json(place / "checksums.json")
    own = text.replace("Nothing here was checked", "I checked")
    assert own != text
    (place / "README.md").write_text(own, encoding="utf-8")
    Ensemble.from_pretrained(place)  # its checksums are verified
    full(1, 2).save_pretrained(place)
    assert (place / "README.md").read_text(encoding="utf-8") == own
    full(3).save_pretrained(place)
    assert (place / "README.md").read_text(encoding="utf-8") == own, "kept for good, not once"
    (place / "README.md").unlink()
    verify_checksums(place)
    full(1).save_pretrained(place)
    assert (place / "README.md").read_text(encoding="utf-8") == text


def test_a_card_of_the_program_is_written_anew(full: Any, tmp_path: Path) -> None:
    first = told(full(1), tmp_path / "saved")
    (tmp_path / "saved" / "README.md").write_bytes(first.replace("\n", "\r\n").encode())
    second = told(full(1, 2), tmp_path / "saved")
    assert (first.count("\n| 2 | "), second.count("\n| 2 | ")) == (0, 1)


def test_folders_without_a_card_and_with_one_among_the_checksums_are_read(full: Any, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    full(1).save_pretrained(place)
    (place / "README.md").unlink()
    settings = read_json(place / "ensemble.json")
    assert "card" not in settings
    write_checksums(place)
    Ensemble.from_pretrained(place)
    (place / "expert-1" / "README.md").write_text("inside an expert it is a file like any other")
    write_checksums(place)
    assert "expert-1/README.md" in read_json(place / "checksums.json")


def test_what_was_measured_stays_until_the_ensemble_changes(lora: Any, tmp_path: Path) -> None:
    story = STORY.model_dump(mode="json")
    first = told(lora(1, 2), tmp_path / "one", card=story)
    assert "72.6 % [69.9, 75.2]" in first
    again = Ensemble.from_pretrained(tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / "README.md").read_text() == first.replace("# one\n", "# two\n").replace(
        '"one"', '"two"'
    ).replace("name: one", "name: two").replace(_seal(first), _seal((tmp_path / "two" / "README.md").read_text()))
    again.reweight([1.0, 5.0])
    again.save_pretrained(tmp_path / "three")
    changed = (tmp_path / "three" / "README.md").read_text()
    assert "measured before its experts, weights or rule changed" in changed
    assert "72.6" not in changed
    assert "640 rows" in changed
    assert read_json(tmp_path / "three" / "ensemble.json")["card"]["stored"] == "changed"
    other = Ensemble.from_pretrained(tmp_path / "one")
    other.remove_expert(1)
    other.save_pretrained(tmp_path / "four")
    assert "72.6" not in (tmp_path / "four" / "README.md").read_text()


def _seal(text: str) -> str:
    return text.splitlines()[-1]


def test_a_card_tells_what_was_changed_after_training(full: Any, tmp_path: Path) -> None:
    """Of an ensemble that no run measured too; weights set twice in a row are told once."""
    rounds = [{"outcome": "ok", "error": 0.25, "train_token_error": 0.125}, {"outcome": "ok", "error": 0.0625}]
    first = told(full(1, 2), tmp_path / "one", rounds=rounds, card={"settings": {"boost.rounds": "2"}})
    assert "Changed after its training" not in first
    ensemble = Ensemble.from_pretrained(tmp_path / "one")
    ensemble.reweight(ensemble.alphas)
    assert "changes" not in ensemble.meta, "the same weights are no change"
    ensemble.reweight([1.0, 5.0])
    ensemble.reweight([2.0, 5.0])
    second = told(ensemble, tmp_path / "two")
    assert "**Changed after its training**: the experts' weights were set anew.\n" in second
    assert "before it was changed" in second.split("## Training")[1]
    assert "| 1 | 2 | 0.25 | 0.125 |" in second, "its errors are still the expert's"
    again = Ensemble.from_pretrained(tmp_path / "two")
    again.remove_expert(0)
    again.add_expert(full(3).models[0], 0.5)
    third = told(again, tmp_path / "three")
    assert "were set anew; expert 1 of 2 was removed; an expert was added as number 2.\n" in third
    assert "| 1 | 5 | 0.0625 | – |\n| 2 | 0.5 | – | – |" in third, "the second round is the first expert's now"
    assert "0.25 |" not in third
    assert len(read_json(tmp_path / "three" / "ensemble.json")["changes"]) == 3


ROUNDS = [{"outcome": "ok", "error": 0.5, "train_token_error": 0.125}, {"outcome": "ok", "error": 0.75},
          {"outcome": "ok", "error": 0.875}, {"outcome": "no better than the prior", "error": 0.9}]  # fmt: skip
GONE, SET, CAME = (
    "expert {} of {} was removed",
    "the experts' weights were set anew",
    "an expert was added as number {}",
)


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ([], ["0.5", "0.75", "0.875"]),
        ([GONE.format(2, 3)], ["0.5", "0.875"]),
        ([GONE.format(1, 3), SET, GONE.format(1, 2)], ["0.875"]),
        ([GONE.format(3, 3), CAME.format(3), GONE.format(1, 3)], ["0.75", "–"]),
        ([CAME.format(4), GONE.format(4, 4)], ["0.5", "0.75", "0.875"]),
        ([GONE.format(1, 4)], ["–", "–"]),  # of another ensemble than the rounds tell of
        ([GONE.format(0, 3)], ["–", "–"]),
        (["something else"], ["–", "–"]),
    ],
    ids=str,
)
def test_errors_stay_with_their_experts(changes: list[str], errors: list[str], tokenizer: Any) -> None:
    told = {"rounds": ROUNDS, "changes": changes, "alphas": [2.0] * len(errors), "more_bases": ["w2s-weak-2"]}
    text = render_card(facts(tokenizer, **told), Story())
    assert re.findall(r"^\| \d+ \| 2 \| (\S+) \|", text, re.MULTILINE) == errors
    plain = " ".join(text.split())
    if changes:
        start = f"{len(errors)} weak expert{'s' * (len(errors) > 1)} of an ensemble that was fine-tuned from"
        assert f"{start} `owner/base` and `w2s-weak-2`, with AdaBoost" in plain
    else:
        assert "3 weak experts, fine-tuned from `owner/base` and `w2s-weak-2` in turn, with AdaBoost" in plain


def test_what_a_weighted_error_of_a_sum_means_is_told(tokenizer: Any) -> None:
    words, alphas = "so it may be large", [1.0, 0.5, 0.5]
    assert words in render_card(facts(tokenizer, rule="additive", rounds=ROUNDS, alphas=alphas), Story())
    assert words not in render_card(facts(tokenizer, rule="mean", rounds=ROUNDS, alphas=alphas), Story())
    assert words not in render_card(facts(tokenizer, rule="additive", alphas=alphas), Story())


@pytest.mark.parametrize("harm", ["text", 3, [1, {"a": 2}], None])
def test_changes_that_are_none_are_left_out(harm: Any, full: Any, tmp_path: Path) -> None:
    assert "Changed after its training" not in told(full(1), tmp_path / "saved", changes=harm)


def test_why_a_pgr_is_withheld_is_told(tokenizer: Any) -> None:
    score = Score(system="ensemble", split="test_ood", metric="exact_match", value=None, reason="too few rows differ")
    text = render_card(facts(tokenizer), STORY.model_copy(update={"pgr": (score,)}))
    assert "test OOD (hard): withheld (too few rows differ)." in text


def test_full_weights_that_changed_are_noticed(full: Any, tmp_path: Path) -> None:
    told(full(1, 2), tmp_path / "one", card=STORY.model_dump(mode="json"))
    same = Ensemble.from_pretrained(tmp_path / "one", pack=False, engine="turns")
    same.save_pretrained(tmp_path / "same")
    assert "72.6" in (tmp_path / "same" / "README.md").read_text()
    with torch.no_grad():
        next(same.models[0].parameters())[0, 0] += 1
    same.save_pretrained(tmp_path / "other")
    assert "72.6" not in (tmp_path / "other" / "README.md").read_text()


@pytest.mark.parametrize("harm", ["text", 3, {"scores": [{"system": 1}]}, {"rows": "many"}, {"settings": [1]}, None])
def test_a_story_that_is_none_is_left_out(harm: Any, full: Any, tmp_path: Path) -> None:
    text = told(full(1), tmp_path / "saved", card=harm, rounds="no list")
    assert is_own_card(text)
    assert "None are known" in text
    json.dumps(read_json(tmp_path / "saved" / "ensemble.json"))
    shutil.rmtree(tmp_path / "saved")


WORDS = st.text(max_size=40) | st.sampled_from(["| a | b", "<!-- x -->", "``` `", "---\nlicense: mit", "{{ 7 * 7 }}"])


@given(name=WORDS, source=WORDS, warning=WORDS, value=st.floats(0, 1), low=st.none() | st.floats(0, 1))
def test_any_story_gives_a_card_that_reads_back(name: str, source: str, warning: str, value: float, low: Any) -> None:
    score = Score(system=name, split=source, metric="exact_match", value=value, low=low, high=low, n=3)
    story = Story(source=source, system=name, scores=(score,), warnings=(warning,), settings={name: warning}, rows=1)
    text = render_card(facts(load_tokenizer("w2s-weak"), name="n", base=""), story)
    assert is_own_card(text)
    assert metadata(text)["library_name"] == "ensemw2s"
    assert "license" not in metadata(text)
    assert not is_own_card(text.replace("## Scores", "## scores"))
    assert "{{" not in text.replace("{{ 7 * 7 }}", "")

"""``ensemw2s label`` into a folder, as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from clikit import COMMAND, here, refused

from ensemw2s.data.rows import Row

QUESTIONS = [{"question": f"What is {a} {b} {c} put from small to large?", "id": f"q{a}{b}{c}", "note": {"mine": a},
              **({"choices": [f"{a} {b} {c}", f"{c} {b} {a}"], "answer": 0} if a % 2 else {})}
             for a in range(10) for b in range(3) for c in range(2)]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions, and an ensemble of the built-in model twice."""
    from ensemw2s.data.formatting import TaskFormat
    from ensemw2s.ensemble.folder import write_ensemble
    from ensemw2s.models.loading import load_tokenizer, model_folder

    folder = tmp_path_factory.mktemp("label")
    (folder / "pool.jsonl").write_text("".join(json.dumps(record) + "\n" for record in QUESTIONS))
    weak = model_folder("w2s-weak")
    write_ensemble(folder / "ens", [weak, weak], [1.0, 0.5], "mean", tokenizer=load_tokenizer("w2s-weak"),
                   task_format=TaskFormat(max_new_tokens=8), base="w2s-weak", kind="full", meta={})  # fmt: skip
    return folder


LABEL = ("label", "--ensemble", "ens", "--in", "pool.jsonl", "--out")


def records(folder: Path) -> list[dict]:
    return [record for part in sorted(folder.glob("*.parquet")) for record in pq.read_table(part).to_pylist()]


def test_a_folder_holds_the_labels_of_the_file_form(home: Path) -> None:
    one = here(*LABEL, "stream/", "--soft", "3", "--votes", cwd=home)
    assert one.stdout.startswith("60 labels of 60 questions in stream/ (1 parts), 0 left out as unsure")
    here(*LABEL, "labels.jsonl", cwd=home)
    lines = {r["id"]: r for r in map(json.loads, (home / "labels.jsonl").read_text().splitlines())}
    found = records(home / "stream")
    assert [r["id"] for r in found] == [r["id"] for r in QUESTIONS]
    for record in found:
        twin = lines[record["id"]]
        assert (record["label"], json.loads(record["extra"])) == (twin["label"], {"note": twin["note"]})
        assert record["confidence"] == pytest.approx(twin["confidence"], abs=2e-6)
        assert record["agreement"] == pytest.approx(twin["agreement"], abs=2e-6)
        assert {len(votes) for votes in record["votes"]} == {2}
        assert {len(top) for top in record["top_ids"]} == {3}
    # One table for whoever reads Parquet folders; what is ours beside the parts does not disturb them.
    assert pq.read_table(home / "stream").num_rows == 60
    again = here(*LABEL, "stream/", "--soft", "3", "--votes", cwd=home)
    assert "(1 parts, 1 of them found finished)" in again.stdout


def test_a_student_trains_on_a_part(home: Path) -> None:
    here(*LABEL, "named", cwd=home)  # no ending: a folder
    here("student", "--strong", "w2s-strong", "--train", "named/part-00000.parquet", "--out", "stu", "--epochs", "1",
             cwd=home)  # fmt: skip
    assert (home / "stu" / "model.safetensors").is_file()


def test_other_settings_or_questions_are_refused_and_restart_begins_anew(home: Path) -> None:
    here(*LABEL, "kept/", cwd=home)
    assert "other settings (votes was false, now true)" in refused(*LABEL, "kept/", "--votes", cwd=home)
    (home / "more.jsonl").write_text((home / "pool.jsonl").read_text() + '{"question": "One more?"}\n')
    more = ("label", "--ensemble", "ens", "--in", "more.jsonl", "--out", "kept")
    assert "holds labels of other questions: name another folder" in refused(*more, cwd=home)
    assert "another ensemble" in refused("label", "--ensemble", "w2s-weak", *LABEL[3:], "kept", cwd=home)
    assert "61 labels of 61 questions" in here(*more, "--restart", cwd=home).stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--out", "l.jsonl", "--votes"), "need a folder to write to, got l.jsonl: give a name that ends in /"),
        (("--out", "l.csv", "--soft", "2"), "need a folder"),
        (("--out", "new/", "--soft", "1000"), "soft_top_k is 1000: it must lie between 0"),
        (("--out", "new/", "--min-confidence", "2"), "min_confidence must lie in [0, 1)"),
        (("--out", "ens/expert-1"), "holds files that are no labels of ours"),
        (("--out", "ens"), "ens is what is read as ensemble, and would be overwritten"),
    ],
)
def test_one_line_a_mistake(home: Path, words: tuple[str, ...], told: str) -> None:
    assert told in refused("label", "--ensemble", "ens", "--in", "pool.jsonl", *words, cwd=home)
    assert not (home / "new").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"question": "Again?", "id": "q000"}', "line 61: id 'q000' stands already at bad.jsonl, line 1"),
        ('{"question": ""}', "line 61: the question is blank"),
        ("{", "line 61: not JSON"),
    ],
)
def test_a_bad_line_is_told_before_any_work(home: Path, line: str, told: str) -> None:
    (home / "bad.jsonl").write_text((home / "pool.jsonl").read_text() + line + "\n")
    words = ("label", "--ensemble", "no-such-model", "--in", "bad.jsonl", "--out", "new/")
    assert told in refused(*words, cwd=home)
    (home / "empty.jsonl").write_text("\n")
    assert "holds no rows" in refused("label", "--ensemble", "ens", "--in", "empty.jsonl", "--out", "new/", cwd=home)
    assert not (home / "new").exists()


def test_questions_that_do_not_fit_are_counted(home: Path) -> None:
    long = {"question": "What is " + "7 " * 400, "id": "endless"}
    (home / "long.jsonl").write_text(json.dumps(QUESTIONS[0]) + "\n" + json.dumps(long) + "\n")
    config = json.loads((home / "ens" / "task_format.json").read_text())
    assert config["too_long"] == "cut"
    done = here("label", "--ensemble", "ens", "--in", "long.jsonl", "--out", "cut/", cwd=home)
    assert "2 labels of 2 questions" in done.stdout  # cut from the left, as everywhere


def test_interrupted_it_says_how_to_go_on_and_does(home: Path) -> None:
    asked = [f"What is {n} {n + 1} 3 put from small to large?" for n in range(2100)]  # three parts
    (home / "many.jsonl").write_text("".join(json.dumps({"question": one}) + "\n" for one in asked))
    words = ["label", "--ensemble", "ens", "--in", "many.jsonl", "--out", "many/", "--min-confidence", "0.01"]
    child = subprocess.Popen([*COMMAND, *words], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list((home / "many").glob("_parts/*.json")) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate()
    assert child.returncode == 128 + signal.SIGINT
    assert "To go on from there:\n  ensemw2s label --ensemble ens --in many.jsonl --out many/" in error
    done = here(*words, cwd=home)
    assert " of 2100 questions in many/ (" in done.stdout
    assert "of them found finished" in done.stdout


def test_a_yes_no_ensemble_gives_hard_labels_only(home: Path) -> None:
    from ensemw2s.data.formatting import TaskFormat
    from ensemw2s.ensemble.folder import write_ensemble
    from ensemw2s.models.loading import load_tokenizer, model_folder

    weak = model_folder("w2s-weak")
    write_ensemble(home / "binary", [weak, weak], [1.0, 0.5], "mean", tokenizer=load_tokenizer("w2s-weak"),
                   task_format=TaskFormat(), base="w2s-weak", kind="full", meta={"task": "binary", "head": "tokens"})  # fmt: skip
    chosen = [{k: v for k, v in r.items() if k != "answer"} for r in QUESTIONS if len({*r.get("choices", ())}) == 2]
    (home / "chosen.jsonl").write_text("".join(json.dumps(record) + "\n" for record in chosen))
    words = ("label", "--ensemble", "binary", "--in", "chosen.jsonl", "--out")
    for flag in (("--votes",), ("--soft", "2")):
        assert "a yes/no ensemble writes none" in refused(*words, "yesno/", *flag, cwd=home)
    assert f"{len(chosen)} labels of {len(chosen)} questions" in here(*words, "yesno/", cwd=home).stdout
    here(*words, "yesno.jsonl", cwd=home)
    lines = [json.loads(line) for line in (home / "yesno.jsonl").read_text().splitlines()]
    found = records(home / "yesno")
    assert [(r["id"], r["label"], json.loads(r["extra"])["candidate"]) for r in found] == [
        (r["id"], r["label"], r["candidate"]) for r in lines
    ]
    assert [r["confidence"] for r in found] == pytest.approx([r["confidence"] for r in lines], abs=2e-6)


def test_the_folder_feeds_a_students_soft_training_from_python(home: Path) -> None:
    from ensemw2s import label
    from ensemw2s.data.encoding import encode_rows
    from ensemw2s.data.formatting import TaskFormat
    from ensemw2s.labelling import read_labelled, read_soft_targets
    from ensemw2s.models.loading import load_tokenizer

    checks = [Row(f"v{n}", f"What is {n} 1 put from small to large?", f"1 {n}") for n in range(1, 9)]
    labels = label(home / "ens", home / "pool.jsonl", home / "soft", soft_top_k=4, validation=checks)
    assert labels.expected_accuracy is not None
    assert labels.expected_accuracy["n"] == 8
    assert labels.records == []
    assert labels.report is not None
    assert labels.report.labelled == 60
    rows = list(read_labelled(home / "soft"))
    encoded = encode_rows(rows, load_tokenizer("w2s-weak"), TaskFormat(max_new_tokens=8), 256).rows
    targets = read_soft_targets(home / "soft", encoded)
    assert targets.ids.shape == (sum(len(row.input_ids) - row.prompt_length for row in encoded), 4)

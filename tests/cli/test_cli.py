"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from clikit import COMMAND, here, process, refused

from ensemw2s.api import as_labelled
from ensemw2s.data.sources import read_rows

TRAIN = [{"question": f"What is {a} {b} {c} put from small to large?", "answer": " ".join(map(str, sorted((a, b, c))))}
         for a, b, c in [(3, 9, 1), (7, 2, 5), (8, 0, 4), (6, 1, 2), (9, 9, 3), (5, 4, 0)]]  # fmt: skip


def jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an ensemble, labels and a student, all made from the command line."""
    folder = tmp_path_factory.mktemp("cli")
    store = {"ENSEMW2S_CACHE": str(folder / "store")}
    jsonl(folder / "train.jsonl", TRAIN)
    jsonl(
        folder / "pool.jsonl", [{"question": "What is 9 8 7 1 put from small to large?", "note": {"mine": 1}, "id": 7}]
    )
    process("boost", "--train", "train.jsonl", "--weak", "w2s-weak", "--rounds", "2", "--out", "ens", "--epochs", "1",
            "--max-new-tokens", "12", cwd=folder, **store)  # fmt: skip
    here("label", "--ensemble", "ens", "--in", "pool.jsonl", "--out", "labels.jsonl", cwd=folder, **store)
    here("student", "--strong", "w2s-strong", "--train", "labels.jsonl", "--out", "stu", "--epochs", "1", cwd=folder,
         **store)  # fmt: skip
    return folder


def test_boosting_is_additive_unless_adaboost_is_asked_for(made: Path) -> None:
    assert json.loads((made / "ens" / "ensemble.json").read_text())["alphas"] == [1.0, 0.1]
    words = ("boost", "--train", "train.jsonl", "--rounds", "2", "--epochs", "1", "--max-new-tokens", "12")
    two = ("--weak", "w2s-weak", "--weak", "w2s-weak-5")
    for name, flags, rule, alphas in (
        ("two", two, "additive", [1.0, 0.5]),
        ("ada", (*two, "--prior", "none"), "mean", None),
        ("vote", ("--weak", "w2s-weak", "--rule", "vote"), "vote", None),
    ):
        here(*words, "--out", name, *flags, cwd=made, ENSEMW2S_CACHE=str(made / "store"))
        told = json.loads((made / name / "ensemble.json").read_text())
        assert told["rule"] == rule
        assert (told["alphas"] == alphas) == (rule == "additive")
        assert told.get("more_bases", []) == (["w2s-weak-5"] if "w2s-weak-5" in flags else [])
    message = refused(*words, "--out", "no", *two, "--form", "additive", "--rule", "mean", cwd=made)
    assert "--form=discrete" in message
    assert "--form=discrete" in refused(*words, "--out", "no", *two, "--form", "additive", "--level", "row", cwd=made)


def test_robustness_is_for_losses_that_have_such_a_form(made: Path) -> None:
    words = ("boost", "--train", "train.jsonl", "--weak", "w2s-weak", "--rounds", "2", "--epochs", "1", "--out")
    message = refused(*words, "no", "--robustness", "2", cwd=made)
    assert "--robustness must lie in [0, 1], got 2.0" in message
    here(*words, "robust", "--robustness", "0.7", cwd=made, ENSEMW2S_CACHE=str(made / "store"))
    told = json.loads((made / "robust" / "ensemble.json").read_text())
    assert json.dumps(told).count('"expert.robustness": "0.7"') == 1
    student = ("student", "--strong", "w2s-strong", "--train", "labels.jsonl", "--robustness", "0.7", "--out", "no")
    for more in ((), ("--dry-run",)):
        assert "loss 'confidence' has no robust form" in refused(*student, "--loss", "confidence", *more, cwd=made)
    assert not (made / "no").exists()
    message = refused("run", "tiny", "student.robustness=0.5", "loss.name=confidence", "--out", "no", cwd=made)
    assert "student.robustness is 0.5 and loss 'confidence' has no robust form" in message


def test_labels_keep_the_questions_columns(made: Path) -> None:
    (record,) = [json.loads(line) for line in (made / "labels.jsonl").read_text().splitlines()]
    assert (record["id"], record["note"]) == (7, {"mine": 1})
    assert record["label"]
    assert 0 < record["confidence"] <= 1
    assert 0 <= record["agreement"] <= 1


def test_expected_accuracy_and_min_confidence(made: Path) -> None:
    done = here(
        "label", "--ensemble", "ens", "--in", "pool.jsonl", "--out", "l.csv", "--validation", "train.jsonl", cwd=made
    )
    assert "expected accuracy of the labels" in done.stdout
    assert "6 validation rows" in done.stdout
    strict = here(
        "label",
        "--ensemble",
        "ens",
        "--in",
        "pool.jsonl",
        "--out",
        "none.jsonl",
        "--min-confidence",
        "0.9999999",
        cwd=made,
    )
    assert "0 labels" in strict.stdout
    assert (made / "none.jsonl").read_text() == ""


def test_evaluate_writes_scores(made: Path) -> None:
    for model in ("ens", "stu", "w2s-weak"):
        here("evaluate", "--model", model, "--data", "train.jsonl", "--out", "s.json", cwd=made)
        scores = {s["metric"]: s for s in json.loads((made / "s.json").read_text())["scores"]}
        assert scores["exact_match"]["n"] == 6
        assert set(scores) == {"exact_match", "token_accuracy", "nll", "brier", "ece"}


def test_generate_says_which_format_it_applied(made: Path) -> None:
    done = here("generate", "--model", "stu", "What is 4 2 put from small to large?", cwd=made)
    assert "task_format.json" in done.stderr
    raw = here("generate", "--model", "ens", "--raw", "In order, 4 2 1 is", cwd=made)
    assert "as it stands" in raw.stderr
    assert raw.stdout.strip()


def test_the_student_is_an_ordinary_model_folder(made: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(made / "stu")
    AutoTokenizer.from_pretrained(made / "stu")


def test_lists_version_help_and_dry_run(made: Path) -> None:
    listed = here("list", cwd=made).stdout
    for name in ("w2s-weak", "arc_easy", "quickstart", "mean"):
        assert name in listed
    assert here("--version", cwd=made).stdout.startswith("ensemw2s ")
    for verb in ("run", "boost", "label", "student", "evaluate", "generate", "report", "list"):
        assert "Usage" in here(verb, "--help", cwd=made).stdout
    planned = here("run", "tiny", "--dry-run", cwd=made).stdout
    assert "student (w2s-strong)" in planned
    assert "about" in planned
    assert not (made / "runs").exists()
    assert (
        "would train 3 x"
        in here("boost", "--train", "train.jsonl", "--weak", "w2s-weak", "--rounds", "3", "--dry-run", cwd=made).stdout
    )


def test_bad_input_is_one_line_and_exit_2(made: Path) -> None:
    jsonl(made / "bad.jsonl", [{"question": "a"}])
    (made / "binary.jsonl").write_bytes(b"\x00\xff\xfe")
    (made / "empty.jsonl").touch()
    (made / "hollow").mkdir(exist_ok=True)
    (made / "other").mkdir(exist_ok=True)
    (made / "other" / "file").write_text("x")
    boost = ("boost", "--weak", "w2s-weak", "--out", "new")
    for words, message in [
        ((*boost, "--train", "bad.jsonl"), "no column 'answer'"),
        ((*boost, "--train", "binary.jsonl"), "binary"),
        ((*boost, "--train", "empty.jsonl"), "is empty"),
        ((*boost, "--train", "train.jsonl", "--rounds", "0"), "at least 1"),
        ((*boost, "--train", "train.jsonl", "--rule", "maen"), "did you mean 'mean'"),
        ((*boost, "--train", "train.jsonl", "--device", "cudda"), "cudda"),
        (("boost", "--weak", "hollow", "--train", "train.jsonl", "--out", "new"), "hollow"),
        (("boost", "--weak", "./nowhere", "--train", "train.jsonl", "--out", "new"), "nowhere"),
        (("boost", "--weak", "w2s-weak", "--train", "train.jsonl", "--out", "other"), "holds something else"),
        (("label", "--ensemble", "hollow", "--in", "pool.jsonl"), "hollow"),
        (("label", "--ensemble", "ens", "--in", "pool.jsonl", "--min-confidence", "2"), "min_confidence"),
        (("generate", "--model", "ens", " "), "prompt is empty"),
        (("report", "hollow"), "results.json"),
        (("run", "boost.ruonds=3"), "did you mean 'rounds'"),
        (("list", "model"), "did you mean 'models'"),
    ]:
        assert message in refused(*words, cwd=made), words
    for words in ((*boost, "--train", "bad.jsonl"), ("list", "model")):  # and in a process: no traceback either
        assert refused(*words, cwd=made, by=process) == refused(*words, cwd=made)
    assert not (made / "new").exists()


def test_rows_without_answers_are_told_in_the_words_of_the_verb(tmp_path: Path) -> None:
    """These commands map a column by an option, a run by a setting."""
    jsonl(tmp_path / "bare.jsonl", [{"question": "a", "id": "1"}])
    jsonl(tmp_path / "good.jsonl", TRAIN)
    for words in (
        ("evaluate", "--model", "w2s-weak", "--data", "bare.jsonl"),
        ("boost", "--weak", "w2s-weak", "--train", "bare.jsonl"),
        ("rate", "bare.jsonl", "--model", "w2s-weak"),
        ("label", "--ensemble", "w2s-weak", "--in", "good.jsonl", "--validation", "bare.jsonl"),
    ):
        message = refused(*words, cwd=tmp_path)
        told = "columns there: question, id. Rename the column that holds it to 'answer', or map it with --column answer=NAME"
        assert told in message, words
        assert "columns.answer" not in message
    message = refused("student", "--strong", "w2s-weak", "--train", "bare.jsonl", cwd=tmp_path)
    assert "a student reads the column 'label', or else 'answer'; columns there: question, id" in message
    assert message.endswith("name the column with the answers: --column answer=NAME")
    assert "map it with data.columns.answer" in refused("run", "tiny", "data.source=bare.jsonl", cwd=tmp_path)


def test_columns_of_other_names(made: Path) -> None:
    """Every verb that reads rows maps their columns; the numbers are those of a file that has our names."""
    theirs = [{"prompt": row["question"], "target": row["answer"]} for row in TRAIN]
    jsonl(made / "theirs.jsonl", theirs)
    asked, both = ("--column", "question=prompt"), ("--column", "question=prompt", "--column", "answer=target")
    store = {"ENSEMW2S_CACHE": str(made / "store")}
    boost = ("boost", "--weak", "w2s-weak", "--rounds", "2", "--epochs", "1", "--max-new-tokens", "12")
    here(*boost, "--train", "theirs.jsonl", *both, "--held-out", "theirs.jsonl", "--out", "mapped", cwd=made, **store)
    here(*boost, "--train", "train.jsonl", "--out", "plain", cwd=made, **store)
    for name in ("expert-1", "expert-2"):
        (one, two) = ((made / ens / name / "model.safetensors").read_bytes() for ens in ("mapped", "plain"))
        assert one == two
    label = ("label", "--ensemble", "plain", "--in", "theirs.jsonl")
    here(*label, *both, "--validation", "theirs.jsonl", "--out", "theirs-labels.jsonl", cwd=made, **store)
    labels = [json.loads(line) for line in (made / "theirs-labels.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in labels] == [row["prompt"] for row in theirs]
    here(*label, *asked, "--out", "theirs-labels/", cwd=made, **store)
    message = refused(*label, "--column", "question=target", "--out", "theirs-labels/", cwd=made)
    assert "holds labels of other questions" in message
    student = ("student", "--strong", "w2s-strong", "--epochs", "1", "--out", "theirs-stu")
    here(*student, "--train", "theirs-labels.jsonl", *asked, cwd=made, **store)
    evaluate = ("evaluate", "--model", "plain", "--metric", "exact_match", "--metric", "nll")
    scores = [
        json.loads((made / name).read_text())["scores"]
        for name, words in (("a.json", ("--data", "theirs.jsonl", *both)), ("b.json", ("--data", "train.jsonl")))
        if here(*evaluate, *words, "--out", name, cwd=made, **store)
    ]
    assert scores[0] == scores[1]
    rate = ("--model", "w2s-weak", "--folds", "2", "--epochs", "1", "--out")
    here("rate", "theirs.jsonl", *rate, "theirs-rated.jsonl", *both, cwd=made, **store)
    here("rate", "train.jsonl", *rate, "rated.jsonl", cwd=made, **store)
    one, two = (list(read_rows(made / name)) for name in ("theirs-rated.jsonl", "rated.jsonl"))
    assert [(row.id, row.question, row.difficulty) for row in one] == [
        (row.id, row.question, row.difficulty) for row in two
    ]
    assert "none is mapped" in refused("rate", "sciq", *rate, "no.jsonl", "--column", "group=support", cwd=made)


def test_a_file_with_columns_of_both_names(made: Path) -> None:
    """What our names hold there is kept aside where labels and ratings are written, and read as nothing."""
    clash = [
        {"id": 7, "question": "not this", "prompt": row["question"], "label": place, "choices": ["0", row["answer"]]}
        for place, row in zip([1, 0, 1, 1], TRAIN, strict=False)
    ]
    jsonl(made / "clash.jsonl", [{**row, "key": f"k{place}"} for place, row in enumerate(clash)])
    named = [word for pair in ("question=prompt", "id=key", "answer=label") for word in ("--column", pair)]
    store = {"ENSEMW2S_CACHE": str(made / "store")}
    answers = [TRAIN[0]["answer"], "0", TRAIN[2]["answer"], TRAIN[3]["answer"]]
    columns = dict(pair.split("=") for pair in named[1::2])
    assert [row.answer for row in as_labelled(made / "clash.jsonl", columns)] == answers
    here(
        "label", "--ensemble", "w2s-weak", "--in", "clash.jsonl", "--out", "clash-out.jsonl", *named, cwd=made, **store
    )
    here("label", "--ensemble", "w2s-weak", "--in", "clash.jsonl", "--out", "clash-out/", *named, cwd=made, **store)
    records = [json.loads(line) for line in (made / "clash-out.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == ["k0", "k1", "k2", "k3"]
    assert [(record["id_given"], record["question_given"]) for record in records] == [(7, "not this")] * 4
    assert [record["label_given"] for record in records] == [1, 0, 1, 1]
    part = pq.read_table(made / "clash-out").to_pylist()
    assert [record["label"] for record in part] == [record["label"] for record in records]
    assert {json.loads(record["extra"])["question_given"] for record in part} == {"not this"}
    here("rate", "clash.jsonl", "--model", "w2s-weak", "--folds", "2", "--epochs", "1", "--out", "clash-rated.jsonl",
         *named, cwd=made, **store)  # fmt: skip
    again = read_rows(made / "clash-rated.jsonl")
    assert [(row.id, row.question, row.answer) for row in again] == [
        (f"k{place}", row["prompt"], answers[place]) for place, row in enumerate(clash)
    ]


def test_a_label_of_zero_is_a_label(made: Path) -> None:
    jsonl(made / "zero.jsonl", [{"question": "What is 0?", "label": 0}, {"question": "What is 1?", "label": "1"}])
    assert [row.answer for row in as_labelled(made / "zero.jsonl")] == ["0", "1"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (("prompt",), "--column 'prompt' is not of the form OURS=THEIRS: write, say, --column question=prompt"),
        (("question=",), "--column 'question=' is not of the form"),
        (("question=a", "question=b"), "--column names 'question' twice, as 'a' and as 'b': keep one"),
        (("qestion=prompt",), "unknown column 'qestion': "),
        (("question=promt",), "no column 'promt' for the question; columns there: question, answer"),
        (("context=passage",), "no column 'passage' for the context: "),
    ],
)
def test_a_wrong_column_is_one_line(made: Path, columns: tuple[str, ...], told: str) -> None:
    named = [word for column in columns for word in ("--column", column)]
    words = ("evaluate", "--model", "w2s-weak", "--data", "train.jsonl", *named)
    assert told in refused(*words, cwd=made)


def test_settings_are_called_by_the_verbs_own_options(tmp_path: Path) -> None:
    jsonl(tmp_path / "good.jsonl", TRAIN)
    boost = ("boost", "--weak", "w2s-weak", "--train", "good.jsonl")
    student = ("student", "--strong", "w2s-weak", "--train", "good.jsonl")
    for words, message in (
        ((*boost, "--form", "soft"), "unknown --form 'soft': "),
        ((*boost, "--form", "additive", "--level", "row"), "so --level=row has no meaning: leave it at token"),
        ((*boost, "--form", "real", "--level", "row"), "use --level=token, or --form=discrete"),
        ((*boost, "--mode", "reweight", "--error-on", "out-of-bag"), "use --mode=resample, or --error-on=held-out"),
        ((*boost, "--train-batch-size", "0"), "--train-batch-size must be"),
        ((*boost, "--max-length", "1"), "--max-length must be"),
        ((*student, "--loss", "los"), "--loss: unknown name 'los'"),
        (("run", "boost.form=soft"), "unknown boost.form 'soft'"),
    ):
        assert message in refused(*words, cwd=tmp_path), words


def test_notes_call_settings_by_the_verbs_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemw2s.cli.flags import FLAGS
    from ensemw2s.cli.screen import Screen

    screen, told = Screen(), []
    monkeypatch.setattr(screen.console, "print", told.append)
    for options in (("--shrinkage",), ()):
        monkeypatch.setattr(FLAGS, "options", frozenset(options))
        screen.note("lower boost.shrinkage")
    assert [line.partition("[/] ")[2] for line in told] == ["lower --shrinkage", "lower boost.shrinkage"]
    monkeypatch.setattr(FLAGS, "options", frozenset({"--form", "--train", "--batch-size"}))
    said = "data/train.form.jsonl, boost.form, data.source, train.batch_size"
    assert FLAGS.speak(said) == "data/train.form.jsonl, --form, --train, train.batch_size"


def test_a_damaged_ensemble_is_refused(made: Path) -> None:
    shutil.copytree(made / "ens", made / "hurt", dirs_exist_ok=True)
    weights = next((made / "hurt" / "expert-1").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "damaged" in refused("generate", "--model", "hurt", "What?", cwd=made)


def test_no_write_permission_is_one_line(made: Path) -> None:
    if os.name == "nt":
        pytest.skip("permissions work differently on Windows")
    message = refused("evaluate", "--model", "w2s-weak", "--data", "train.jsonl", "--out", "/proc/s.json", cwd=made)
    assert "/proc/s.json" in message


def test_python_in_as_many_lines(made: Path) -> None:
    from ensemw2s import boost, evaluate, generate, label, read_rows, train_student

    ensemble = boost(made / "train.jsonl", "w2s-weak", made / "py-ens", rounds=2)
    labels = label(ensemble, made / "pool.jsonl", made / "py.jsonl", validation=read_rows(made / "train.jsonl"))
    assert labels.expected_accuracy
    student = train_student("w2s-strong", made / "py.jsonl", made / "py-stu")
    assert evaluate(student, made / "train.jsonl")["scores"][0]["metric"] == "exact_match"
    text, _ = generate(student, "What is 4 2 put from small to large?")
    assert text


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive)]
)
def test_a_stop_keeps_what_is_finished_and_prints_the_command_that_resumes(
    tmp_path: Path, number: int, code: int
) -> None:
    environment = {**os.environ, "ENSEMW2S_CACHE": str(tmp_path / "store")}
    words = ["run", "tiny", "--out", "out", "expert.epochs=400", "weak_epochs=[1,400]"]
    running = subprocess.Popen(
        [*COMMAND, *words], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").glob("expert/[!.]*/checksums.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    # One expert is finished, and the next trains for 400 epochs. (A name with a dot in front is a stage still being written.)
    running.send_signal(number)
    _, error = running.communicate(timeout=240)
    assert running.returncode == code
    assert "Traceback" not in error
    assert "ensemw2s run tiny --out out expert.epochs=400 'weak_epochs=[1,400]'" in error
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(list((tmp_path / "store").glob("expert/[!.]*/checksums.json"))) == 1
    assert not (tmp_path / "out" / "results.json").exists()

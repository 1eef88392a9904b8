"""``rate`` with real models: by the file it writes, against transformers, and from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from clikit import here
from scipy import stats

from ensemw2s.data.difficulty import rate_by
from ensemw2s.data.encoding import encode_rows
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.records import read_records, write_records
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import read_rows
from ensemw2s.data.splits import SplitSettings, question_text, split_rows
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.experiment.config import build_config
from ensemw2s.experiment.opening import Machine
from ensemw2s.experiment.rating import rate_rows
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.sources import load_splits
from ensemw2s.methods.rating import cross_fitted_ratings
from ensemw2s.training.settings import TrainSettings
from ensemw2s.world.buckets import draw_rows

BUDGET = TrainSettings(epochs=1)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """24 rows of the built-in world; the last two ask what the first two do."""
    drawn = draw_rows(
        22, families=("reverse", "largest", "facts"), levels=(1, 3, 5), bucket="question", seed=0, purpose="rate"
    )
    copies = [
        dataclasses.replace(row, id=f"copy-{row.id}", raw={**row.raw, "id": f"copy-{row.id}"}) for row in drawn[:2]
    ]
    return [*drawn, *copies]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine("cpu", store=tmp_path / "store")


class Stages(Reporter):
    """Remembers which stages were made and which were found."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.found: list[str] = []

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        (self.found if reused else self.made).append(title)


@pytest.mark.parametrize("by", ["loss", "accuracy"])
def test_ratings_are_what_transformers_says_of_a_model_that_did_not_see_the_row(
    rows: list[Row], machine: Machine, by: str
) -> None:
    from transformers import AutoModelForCausalLM

    bench = machine.bench("w2s-weak", "w2s-weak", TaskFormat(), Reporter())
    trained: dict[str, set[str]] = {}
    judge: dict[str, Path] = {}

    class Watched:
        def fine_tune(self, role, some: Sequence[Row], *rest, **options):  # type: ignore[no-untyped-def]
            expert = bench.fine_tune(role, some, *rest, **options)
            trained[str(expert.folder)] = {question_text(row) for row in some}
            return expert

        def token_table(self, expert, some: Sequence[Row]):  # type: ignore[no-untyped-def]
            judge.update({row.id: expert.folder for row in some})
            return bench.token_table(expert, some)

    found = cross_fitted_ratings(Watched(), rows, BUDGET, folds=3, by=by, seed=1)  # type: ignore[arg-type]
    assert set(found) == {row.id for row in rows}
    assert len(trained) == 3
    tokenizer = bench.tokenizer("weak")
    models = {folder: AutoModelForCausalLM.from_pretrained(folder).eval() for folder in trained}
    for row in rows:
        folder = str(judge[row.id])
        assert question_text(row) not in trained[folder]
        assert len(trained[folder]) >= 14  # and it saw the other folds
        (encoded,) = encode_rows([row], tokenizer, TaskFormat(), None).rows
        ids, start = torch.tensor([encoded.input_ids]), encoded.prompt_length
        with torch.no_grad():
            logits = models[folder](ids).logits[0, start - 1 : -1]
        if by == "loss":
            total = torch.nn.functional.cross_entropy(logits.double(), ids[0, start:], reduction="sum")
            assert found[row.id] == pytest.approx(float(total) / len((row.answer or "").encode()), rel=1e-3, abs=1e-5)
        else:
            assert found[row.id] == pytest.approx(float((logits.argmax(-1) != ids[0, start:]).double().mean()))


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_the_file_has_every_row_and_can_be_read_as_rows_and_as_ratings(
    rows: list[Row], machine: Machine, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"rated{ending}"
    rated = rate_rows(rows, ["w2s-weak"], out, folds=2, training=BUDGET, machine=machine)
    again = read_rows(out)
    assert [(r.id, r.question, r.answer, r.choices) for r in again] == [
        (r.id, r.question, r.answer, r.choices) for r in rows
    ]
    assert [row.difficulty for row in again] == pytest.approx([row.difficulty for row in rated.rows])
    records = [record for _, record in read_records(out)]
    for record, row in zip(records, rows, strict=True):
        assert float(record["difficulty_given"]) == row.difficulty
        assert (record["family"], record["rated_by"]) == (row.raw["family"], "loss")
        assert record["rating_models"] in (["w2s-weak"], '["w2s-weak"]')
    assert not [name for name in records[0] if name == "difficulty_w2s-weak"]  # it would be the rating once more
    # The next study: cut by this rating, from the rows or joined to the bare questions.
    bare = [dataclasses.replace(row, difficulty=None) for row in rows]
    assert [r.difficulty for r in rate_by(bare, str(out))] == pytest.approx([r.difficulty for r in again])
    report = split_rows(again, SplitSettings(respect_source_split=False), 0)
    assert max(r.difficulty for r in report.weak_train) <= min(r.difficulty for r in report.pool)  # type: ignore[type-var]


def test_several_models_and_what_is_told_of_them(rows: list[Row], machine: Machine, tmp_path: Path) -> None:
    out, told = tmp_path / "rated.jsonl", Stages()
    rated = rate_rows(rows, ["w2s-weak", "w2s-strong"], out, folds=2, training=BUDGET, machine=machine, reporter=told)
    records = [record for _, record in read_records(out)]
    weak, strong = ([record[f"difficulty_{name}"] for record in records] for name in ("w2s-weak", "w2s-strong"))
    both = [record["difficulty"] for record in records]
    assert both == pytest.approx([(a + b) / 2 for a, b in zip(weak, strong, strict=True)])
    assert rated.between_models == {"w2s-strong": pytest.approx(stats.spearmanr(weak, strong).statistic)}
    assert rated.with_given == pytest.approx(stats.spearmanr(both, [row.difficulty for row in rows]).statistic)
    assert rated.quantiles[0] == min(both)
    assert rated.quantiles[4] == max(both)
    assert list(rated.quantiles) == sorted(rated.quantiles)
    assert (len(told.made), len(told.found), rated.unrated) == (8, 0, 0)  # 2 models x 2 folds x (train, score)
    alone = rate_rows(rows, ["w2s-weak"], folds=2, training=BUDGET, machine=machine, reporter=told)
    assert (len(told.made), len(told.found)) == (8, 4)  # the weak model's stages were stored
    assert [row.difficulty for row in alone.rows] == pytest.approx(weak)
    assert alone.between_models == {}


def test_the_order_of_the_rows_changes_no_rating(rows: list[Row], machine: Machine) -> None:
    one = rate_rows(rows, ["w2s-weak"], folds=2, training=BUDGET, machine=machine)
    two = rate_rows(rows[::-1], ["w2s-weak"], folds=2, training=BUDGET, machine=machine)
    assert {row.id: row.difficulty for row in one.rows} == {row.id: row.difficulty for row in two.rows}
    assert [row.id for row in two.rows] == [row.id for row in rows[::-1]]


def test_rows_without_columns_of_ours_and_models_of_one_name(machine: Machine, tmp_path: Path) -> None:
    """A mapped file's records get our columns beside their own; two folders named alike get columns of their own."""
    from ensemw2s.models.loading import model_folder

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name, builtin in (("a", "w2s-weak"), ("b", "w2s-strong")):
        (tmp_path / name / "model").symlink_to(model_folder(builtin), target_is_directory=True)
    models = [str(tmp_path / name / "model") for name in "ab"]
    write_records(tmp_path / "rows.jsonl", [{"prompt": f"What is {i} and 3?", "target": f"{i}"} for i in range(8)])
    own = read_rows(tmp_path / "rows.jsonl", columns={"question": "prompt", "answer": "target"})
    rate_rows(own, models, tmp_path / "rated.jsonl", folds=2, training=BUDGET, machine=machine)
    again, records = read_rows(tmp_path / "rated.jsonl"), [r for _, r in read_records(tmp_path / "rated.jsonl")]
    assert [(row.id, row.question, row.answer) for row in again] == [(row.id, row.question, row.answer) for row in own]
    assert all({"prompt", "target", *(f"difficulty_{name}" for name in models)} <= set(record) for record in records)
    assert all("difficulty_given" not in record for record in records)


def test_rows_over_the_length_limit_are_counted_and_written_without_a_rating(
    rows: list[Row], machine: Machine, tmp_path: Path
) -> None:
    long = Row("long", "Which? " + "1 " * 400, "2", difficulty=4.0, raw={"id": "long", "question": "Which?"})
    form = TaskFormat(max_length=200, too_long="drop")
    rated = rate_rows(
        [*rows, long], ["w2s-weak"], tmp_path / "r.jsonl", folds=2, training=BUDGET, task_format=form, machine=machine
    )
    assert rated.unrated == 1
    assert [row.id for row in rated.rows if row.difficulty is None] == ["long"]
    last = [record for _, record in read_records(tmp_path / "r.jsonl")][-1]
    assert (last["difficulty"], last["difficulty_given"]) == (None, 4.0)


def test_bad_requests_are_refused_before_any_work(rows: list[Row], machine: Machine, tmp_path: Path) -> None:
    told = Stages()
    for settings, error, message in [
        ({"out": tmp_path / "rated.txt"}, DataError, "let the name end in .jsonl"),
        ({"by": "los"}, ConfigError, "did you mean 'loss'"),
        ({"folds": 1}, ConfigError, "at least 2 are needed"),
        ({"folds": 23}, DataError, "22 different questions cannot be dealt into 23 folds"),
        ({"models": []}, ConfigError, "name at least one"),
        ({"models": ["w2s-weak", "w2s-weak"]}, ConfigError, "each once"),
        ({"rows": [*rows, rows[0]]}, DataError, "two rows have the id"),
        ({"rows": [row.with_answer(None) for row in rows]}, DataError, "has no answer: only labelled rows"),
    ]:
        wanted = {"rows": rows, "models": ["w2s-weak"], "machine": machine, "reporter": told, **settings}
        with pytest.raises(error, match=message):
            rate_rows(wanted.pop("rows"), wanted.pop("models"), wanted.pop("out", None), **wanted)
    assert not told.made
    assert not (tmp_path / "store").exists()


def command(*words: str, cwd: Path, code: int = 0) -> tuple[list[str], list[str]]:
    """Lines of standard output and of standard error."""
    done = here(*words, cwd=cwd, code=code)
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_the_terminal_tells_what_came_out(rows: list[Row], tmp_path: Path) -> None:
    write_records(tmp_path / "rows.csv", [dict(row.raw) for row in rows])
    words = ("rate", "rows.csv", "--model", "w2s-weak", "--model", "w2s-strong", "--folds", "2", "--epochs", "1",
             "--device", "cpu", "--out", "rated.csv")  # fmt: skip
    out, err = command(*words, cwd=tmp_path)
    rated = [row.difficulty for row in read_rows(tmp_path / "rated.csv")]
    assert out[:2] == [
        "24 rows rated in rated.csv: mean of 2 reference models, 2 folds",
        "difficulty, nats a byte of the answer (larger is harder):",
    ]
    assert out[2].split()[:2] == ["least", f"{min(rated):.3g}"]  # type: ignore[type-var]
    assert out[2].split()[-2:] == ["most", f"{max(rated):.3g}"]  # type: ignore[type-var]
    assert [line.rpartition(":")[0] for line in out[3:]] == [
        "rank correlation with the difficulty the rows had",
        "rank correlation of w2s-weak with w2s-strong",
    ]
    assert max(map(len, [*out, *err])) <= 80
    _, again = command("rate", "--in", *words[1:], cwd=tmp_path)
    assert "8 finished stages were found in the store and not repeated" in again


def test_rows_are_named_once(tmp_path: Path) -> None:
    for words in ((), ("a.jsonl", "--in", "b.jsonl")):
        _, err = command("rate", *words, "--model", "w2s-weak", cwd=tmp_path, code=2)
        assert err == ["error: name the rows to rate once: ensemw2s rate ROWS, or --in ROWS"]


def test_a_run_takes_its_difficulty_and_levels_from_the_configuration(shared: Path, tmp_path: Path) -> None:
    ratings = shared / "data" / "arc_difficulty.jsonl.gz"
    config = build_config(
        {
            "data": {"source": str(shared / "data" / "arc_easy.jsonl.gz"), "difficulty": str(ratings)},
            "split": {"easy_levels": [1], "hard_levels": [2, 3]},
        }
    )
    splits = load_splits(config)
    assert {row.difficulty for row in (*splits.weak_train, *splits.validation, *splits.test_id)} == {1.0}
    assert {row.difficulty for row in (*splits.pool, *splits.test_ood)} == {2.0, 3.0}
    counted = build_config({"data": {"source": config.data.source, "difficulty": "question-words"}})
    by_count = load_splits(counted)
    assert {row.difficulty for row in by_count.pool}.isdisjoint({1.0, 2.0, 3.0})

"""Data files: rows, ratings, splits, in every format."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import os
import random
from pathlib import Path
from typing import Any

from ensemw2s.api.rows import as_labelled
from ensemw2s.artifacts import canonical_json
from ensemw2s.data.difficulty import rate_by
from ensemw2s.data.encoding import encode_prompts, encode_rows
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.records import write_records
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import read_rows
from ensemw2s.data.stream import check_file, own_columns, stream_rows
from ensemw2s.errors import DataError, EnsemW2SError
from ensemw2s.experiment.config import build_config
from ensemw2s.experiment.sources import load_splits
from ensemw2s.models.loading import context_length, load_model, load_tokenizer
from fuzzkit.engine import Case
from fuzzkit.mutate import as_json, damaged, mutated, short, value

SUFFIXES = (".jsonl", ".jsonl", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".ndjson")
_CELLS = (
    None, float("nan"), float("inf"), datetime.date(2024, 1, 2), datetime.datetime(1, 1, 1), decimal.Decimal("1.50"),
    b"\xff\x00", b"", datetime.timedelta(1), 2**62, True, ["a", None], {"a": 1},
)  # fmt: skip


def records(count: int = 8) -> list[dict[str, Any]]:
    """Good rows, with choices and without."""
    found: list[dict[str, Any]] = []
    for number in range(count):
        row: dict[str, Any] = {"id": f"r{number}", "question": f"how many a in {'a' * number} b", "answer": str(number)}
        row |= {"difficulty": number % 4 + 0.5, "context": "a note" if number % 3 else "", "solution": "one\ntwo"}
        if number % 2:
            row["choices"] = [str(number), str(number + 1), "none"]
        found.append(row)
    return found


def text_of_rows(rows: Any, suffix: str, rng: random.Random) -> bytes:
    """Rows in a format; what a format cannot hold becomes what a careless program writes."""
    listed = rows if isinstance(rows, list) else [rows]
    if suffix.startswith(".parquet"):
        return _parquet(listed, rng)
    if suffix.startswith(".csv"):
        plain = [row if isinstance(row, dict) else {"question": row} for row in listed]
        names = list(dict.fromkeys(str(key) for row in plain for key in row)) or ["question"]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows([[_cell(row.get(name)) for name in names] for row in plain])
        data = text.getvalue().encode("utf-8", "surrogatepass")
    else:
        escape = rng.random() < 0.5
        data = b"\n".join(as_json(row, escape=escape) for row in listed)
    return gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data


def _cell(item: Any) -> str:
    if isinstance(item, (list, dict)):
        return as_json(item).decode()
    return "" if item is None else short(item) if isinstance(item, int) else str(item)


def _parquet(rows: list[Any], rng: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = [row if isinstance(row, dict) else {"question": row} for row in rows]
    names = list(dict.fromkeys(str(key) for row in plain for key in row)) or ["question"]
    columns: dict[str, Any] = {}
    for name in names:
        cells = [row.get(name) for row in plain]
        if rng.random() < 0.15 and cells:
            cells = [rng.choice(_CELLS)] * len(cells)
        try:
            columns[name.encode("utf-8", "replace").decode()] = pa.array(cells)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError, RecursionError):
            texts = [None if cell is None else short(cell).encode("utf-8", "replace") for cell in cells]
            kind = rng.choice((pa.binary(), pa.string()))
            columns[name.encode("utf-8", "replace").decode()] = pa.array(texts, pa.binary()).cast(kind)
    if rng.random() < 0.1:  # bytes that are no UTF-8, called a text
        raw = pa.array([b"\xff\xfe"] * len(plain), pa.binary())
        buffers = raw.buffers()
        columns["question"] = pa.Array.from_buffers(pa.string(), len(raw), buffers)
    try:
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out)
    except pa.ArrowException:  # a table that Parquet cannot hold
        out = io.BytesIO()
        pq.write_table(pa.table({name: pa.array([str(n) for n in range(len(plain))]) for name in columns}), out)
    return out.getvalue()


class DataFiles:
    """Rows of every format, read in both ways, encoded, written again, cut into splits."""

    name, share, seconds = "data files", 0.42, 20.0

    def prepare(self, base: Path) -> None:
        """The tokenizer that rows are encoded with."""
        self.tokenizer = load_tokenizer("w2s-weak")
        self.context = context_length(load_model("w2s-weak"))

    def case(self, rng: random.Random, folder: Path) -> Case:
        """A file of spoilt rows or spoilt bytes, and one of the ways it is read."""
        path, what = self.file(rng, folder, "rows")
        columns = None if rng.random() < 0.75 else self.columns(rng)
        job = rng.choice(("read", "read", "read", "rate", "splits", "splits", "binary", "labelled"))
        note = f"{job} {path.name}: {what}" + (f", columns {short(columns)}" if columns is not None else "")
        need = rng.random() < 0.7
        if job == "read":
            suffix, form = rng.choice(SUFFIXES), self.form(rng)
            return Case(note, lambda: self.read(path, columns, need, folder / f"again{suffix}", form), [path])
        if job == "rate":
            good = [Row(id=r["id"], question=r["question"], answer=r["answer"], raw=r) for r in records()]
            how = rng.choice(
                (str(path), f"{path}:difficulty", f"{path}:question", f"{path}:", f":{path}", "steps", path.name)
            )
            return Case(note, lambda: rate_by(good, how), [path])
        if job == "labelled":
            return Case(note, lambda: as_labelled(path), [path])
        settings = self.settings(rng, path, columns, job)
        return Case(f"{note}, {short(settings)}", lambda: load_splits(build_config(settings)), [path])

    def file(self, rng: random.Random, folder: Path, stem: str) -> tuple[Path, str]:
        """A spoilt file."""
        suffix = rng.choice(SUFFIXES)
        path = folder / f"{stem}{suffix}"
        rows: Any = records(rng.choice((1, 2, 8, 8)))
        what = "good rows"
        if rng.random() < 0.75:
            rows, what = mutated(rng, rows)
        data = text_of_rows(rows, suffix, rng)
        if what == "good rows" or rng.random() < 0.2:
            data, more = damaged(rng, data)
            what += f"; bytes {more}"
        if rng.random() < 0.04:
            return path, self.no_file(rng, path)
        path.write_bytes(data)
        return path, what

    @staticmethod
    def no_file(rng: random.Random, path: Path) -> str:
        """Something else under the file's name."""
        what = rng.choice(("folder", "self link", "pipe", "missing", "dangling"))
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what in ("self link", "dangling"):
            path.symlink_to(path.name if what == "self link" else "nowhere")
        return what

    @staticmethod
    def columns(rng: random.Random) -> Any:
        """Names of columns that may not be there."""
        names = ("question", "answer", "context", "choices", "difficulty", "id", "split", "group", "zzz", "")
        return {
            rng.choice(names): rng.choice((*names, "solution", "\0", "x" * 3000)) for _ in range(rng.choice((1, 2)))
        }

    @staticmethod
    def form(rng: random.Random) -> TaskFormat:
        """Some task format."""
        return TaskFormat(
            template=rng.choice(("plain", "{question}", "{context}{question}{choices}\n")),
            normalisation=rng.choice(("default", "exact", "number", "choice")), show_choices=rng.random() < 0.5,
            too_long=rng.choice(("cut", "drop")),
        )  # fmt: skip

    def read(self, path: Path, columns: Any, need: bool, again: Path, form: TaskFormat) -> None:
        """Both readers agree; what they give can be encoded, compared, hashed and written, and read again."""
        streamed: Any = None
        try:
            streamed = list(stream_rows(path, columns=columns, need_answer=need))
            refusal = None
        except EnsemW2SError as error:
            refusal = error
        try:
            rows = read_rows(path, columns=columns, need_answer=need)
        except EnsemW2SError:
            assert refusal is not None, "read_rows refuses what stream_rows takes"
            raise
        assert refusal is None, f"stream_rows refuses what read_rows takes: {refusal}"
        assert [(r.id, r.question, r.answer) for r in rows] == [(r.id, r.question, r.answer) for r in streamed]
        assert check_file(path, columns=columns, need_answer=need).rows == len(rows)
        for row in rows:
            canonical_json([row.id, row.question, row.answer, row.context, row.choices, row.difficulty, row.split])
            canonical_json(own_columns(row))
            form.same_answer(row.answer or "", row.question, row)
        encode_prompts(rows, self.tokenizer, form, self.context)
        write_records(again, [{**row.raw, "label": "x"} for row in rows])
        if need:
            encode_rows(rows, self.tokenizer, form, self.context)
        try:
            back = read_rows(again, columns=columns, need_answer=False)
        except DataError as error:
            # A text of spaces is no cell of a CSV, and so on: told, not lost silently.
            raise DataError(f"read back: {error}") from error
        assert len(back) == len(rows)

    def settings(self, rng: random.Random, path: Path, columns: Any, job: str) -> dict[str, Any]:
        """A configuration that names the file."""
        data: dict[str, Any] = {"source": str(path)}
        if columns is not None:
            data["columns"] = columns
        if rng.random() < 0.3:
            data["limit"] = rng.choice((1, 3, 100, 0, -1))
        if rng.random() < 0.3:
            data["difficulty"] = rng.choice((str(path), f"{path}:difficulty", "steps", "question-words", "zzz", ""))
        if rng.random() < 0.3:
            other = self.file(rng, path.parent, "other")[0]
            data |= {"pool": str(other), "test_id": str(path), "test_ood": str(other)}
        split: dict[str, Any] = {
            "kind": rng.choice(("easy-to-hard", "random")),
            "unrated": rng.choice(("drop", "easy")),
        }
        for name in ("weak_train", "pool", "threshold", "easy_fraction"):
            if rng.random() < 0.15:
                split[name] = value(rng)
        return {"data": data, "split": split, "task": "binary" if job == "binary" else "generation"}

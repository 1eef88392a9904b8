"""Labels, scores and texts from Python."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ensemw2s import parallel
from ensemw2s.api.alone import one_writer
from ensemw2s.api.rows import Columns, Rows, apart, as_name, as_rows, columns_of
from ensemw2s.artifacts import fingerprint, write_json
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import is_data_file, write_records
from ensemw2s.data.stream import check_file, stream_rows
from ensemw2s.ensemble.combine import open_rule
from ensemw2s.errors import ConfigError, DataError, shown
from ensemw2s.evaluation.intervals import RESAMPLES, is_at_chance, score_interval
from ensemw2s.evaluation.metrics import METRICS, chance_level
from ensemw2s.experiment.identity import versions
from ensemw2s.experiment.measuring import measure_rows, metric_interval, right_answers
from ensemw2s.experiment.opening import Machine, Opened, open_members
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import label_record
from ensemw2s.labelling.labels import Label, Labelled, TokenColumns, usable_parts
from ensemw2s.labelling.labels import Progress as WindowProgress
from ensemw2s.labelling.stream import LabelReport, label_rows, label_stream
from ensemw2s.methods.bench import Answer

_ASKED = ("question", "context", "choices", "id")

# Rows labelled as one stored stage: an interrupted labelling goes on from the last full chunk.
LABEL_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Labels:
    """Pseudo-labels.

    Attributes:
        records: the questions' own columns and ``label``, ``confidence``, ``agreement``; the sure ones only. Empty
            where the labels went to a folder: ``labelling.read_labelled`` reads them.
        unsure: questions left out for low confidence.
        expected_accuracy: on the validation rows that were given, kept by the same confidence: ``{value, low,
            high, n, kept}`` with a 95 % interval; None without validation rows.
        report: of labels that went to a folder.
    """

    records: list[dict[str, Any]]
    unsure: int
    expected_accuracy: dict[str, Any] | None
    report: LabelReport | None = None


def is_label_folder(out: str | Path) -> bool:
    """Whether ``out`` names a folder of labels: it ends in "/", has no ending, or is a folder already."""
    ends = str(out).endswith(("/", os.sep))
    return ends or Path(out).is_dir() or (not Path(out).suffix and not is_data_file(str(out)))


@one_writer(inside=is_label_folder)
def label(
    ensemble: str | Path,
    questions: Rows,
    out: str | Path | None = None,
    *,
    min_confidence: float = 0.0,
    validation: Rows | None = None,
    label_by: Literal["generate", "options"] = "options",
    task_format: TaskFormat | None = None,
    soft_top_k: int = 0,
    votes: bool = False,
    restart: bool = False,
    columns: Columns = None,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> Labels:
    """Label questions with an ensemble (or any one model).

    With a folder as ``out`` (a name that ends in "/" or has no ending) the questions are a stream of any size: memory
    stays flat, the labels go to Parquet parts, and the same call again goes on where an earlier one stopped
    (``labelling.label_stream``).

    Args:
        ensemble: an ensemble folder, a model folder, a built-in name or a hub id.
        questions: rows or a file; answers in them are not looked at.
        out: where to write the labels: a file (.jsonl, .jsonl.gz, .csv, .parquet) or a folder; None writes nothing.
        min_confidence: labels below it are left out.
        validation: labelled rows that estimate how right the labels are.
        label_by: rows with choices get the likeliest of the "options", or a generated answer ("generate").
        task_format: instead of the one saved with the ensemble.
        soft_top_k: in a folder, also the mixture's k likeliest tokens at every token of a label; 0 stores none.
        votes: in a folder, also every expert's vote at every token of a label.
        restart: discard the labels that lie in the folder.
        columns: of files, their name for one of our columns, ``{"question": "prompt"}``.
        machine: device, dtype, store.
        reporter: told of progress.
    """
    if not 0 <= min_confidence < 1:
        raise ConfigError(f"min_confidence must lie in [0, 1), got {min_confidence}")
    machine, reporter = machine or Machine(), reporter or Reporter()
    if out is not None and is_label_folder(out):
        found, total, source = _question_stream(questions, columns)  # refuses unusable rows before any model is opened
        opened = open_members(as_name(ensemble), machine, reporter, task_format=task_format, label_by=label_by)
        with reporter.working("label questions", "row") as progress:
            common = {"min_confidence": min_confidence, "source": source, "total": total, "restart": restart,
                      "progress": lambda done, _: progress(done, total)}  # fmt: skip
            report = _label_folder(opened, found, Path(out), label_by, soft_top_k, votes, common)
        checks = opened.task.rows(as_rows(validation, columns=columns), 0) if validation is not None else []
        expected = _expected_accuracy(opened, checks, min_confidence) if checks else None
        return Labels([], report.unsure, expected, report)
    if soft_top_k or votes or restart:
        raise ConfigError(
            f"soft labels, votes and resuming need a folder to write to, got {'nothing' if out is None else out}: "
            "give a name that ends in /"
        )
    opened = open_members(as_name(ensemble), machine, reporter, task_format=task_format, label_by=label_by)
    rows = opened.task.rows(as_rows(questions, need_answer=False, columns=columns), 0)
    checks = opened.task.rows(as_rows(validation, columns=columns), 0) if validation is not None else []
    answers = _labels(opened, rows)
    sure = [row for row in rows if answers[row.id].confidence >= min_confidence and answers[row.id].text.strip()]
    records = [label_record(row.raw or columns_of(row), row.id, answers[row.id]) for row in sure]
    expected = _expected_accuracy(opened, checks, min_confidence) if checks else None
    if out is not None:
        parallel.on_main(write_records, Path(out), records)
    return Labels(records, len(rows) - len(sure), expected)


@one_writer()
def evaluate(
    model: str | Path,
    data: Rows,
    out: str | Path | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    task_format: TaskFormat | None = None,
    seed: int = 0,
    columns: Columns = None,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Score an ensemble or a model on labelled rows, of a file whose ``columns`` may have other names.

    Returns:
        ``{"scores": [{metric, value, low, high, n, chance, at_chance}], ...}``, also written to ``out``.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(f"unknown metric '{metric}'; allowed: {', '.join(METRICS)}")
    opened = open_members(as_name(model), machine or Machine(), reporter or Reporter(), task_format=task_format)
    rows = opened.task.rows(as_rows(data, columns=columns), seed)
    found = measure_rows(opened.bench, opened.members, rows, metrics, "test")
    by_id = {row.id: row for row in rows}
    scores = []
    for metric in metrics:
        interval = metric_interval(found, metric, seed=seed, resamples=RESAMPLES)
        if interval is None:
            continue
        ids = found.scores[metric].ids if metric in found.scores else found.right.ids
        chance = chance_level(metric, [by_id[row_id] for row_id in ids], [], opened.task_format.normalise)
        scores.append({"metric": metric, **interval._asdict(), "chance": chance,
                       "at_chance": is_at_chance(interval, chance)})  # fmt: skip
    result = {
        "model": str(model),
        "rows": len(rows),
        "format": opened.task_format.to_dict(),
        "scores": scores,
        "versions": versions(),
    }
    if out is not None:
        parallel.on_main(write_json, Path(out), result)
    return result


def generate(
    model: str | Path,
    prompt: str,
    *,
    use_format: bool = True,
    max_new_tokens: int | None = None,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> tuple[str, str]:
    """Decode one prompt with an ensemble or a model.

    Args:
        model: what answers.
        prompt: a question, put into the saved task format; with ``use_format=False`` the prompt as it stands.
        use_format: see there.
        max_new_tokens: instead of the format's.

    Returns:
        The text, and in words which format was applied.
    """
    if not prompt.strip():
        raise DataError("the prompt is empty: give a question")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # bytes of the terminal that are no UTF-8
        raise DataError(f"the prompt {shown(prompt)} is no Unicode text: type it in UTF-8") from error
    opened = open_members(as_name(model), machine or Machine(), reporter or Reporter())
    if opened.task.kind == "binary" and opened.task.head == "classifier":
        raise ConfigError(
            f"{model} tells yes from no by a classifier head and writes no text: use 'label' or 'evaluate'"
        )
    form, told = opened.task_format, f"task format: {opened.format_origin}"
    if not use_format:
        form = dataclasses.replace(form, template="{question}")
        told = "task format: none, the prompt as it stands"
    if max_new_tokens is not None:
        form = dataclasses.replace(form, max_new_tokens=max_new_tokens)
    opened.bench.settings = dataclasses.replace(opened.bench.settings, task_format=form)
    row = Row(id="prompt", question=prompt)
    return opened.bench.answer(opened.members, [row], purpose="prompt")["prompt"].text, told


def _question_stream(questions: Rows, columns: Columns) -> tuple[Iterable[Row], int, str | None]:
    """The rows, how many there are, and the fingerprint of what is read where they come from a file."""
    if isinstance(questions, (str, Path)) and (is_data_file(str(questions)) or Path(questions).exists()):
        found = check_file(questions, columns=columns, need_answer=False)
        # The same file with another column as question is another source: its labels do not go on with these.
        asked = {ours: theirs for ours, theirs in (columns or {}).items() if ours in _ASKED and ours != theirs}
        source = fingerprint([found.sha256, asked]) if asked else found.sha256
        rows = stream_rows(questions, columns=columns, need_answer=False)
        return (apart(row, columns) for row in rows), found.rows, source
    given = as_rows(questions, need_answer=False, columns=columns)
    return given, len(given), None


def _label_folder(
    opened: Opened,
    rows: Iterable[Row],
    out: Path,
    label_by: Literal["generate", "options"],
    soft_top_k: int,
    votes: bool,
    common: dict[str, Any],
) -> LabelReport:
    """``common``: arguments of both ``label_rows`` and ``label_stream``."""
    bench, members, form = opened.bench, opened.members, opened.task_format
    ensemble_id = fingerprint([expert.identity for expert in members.experts])
    if opened.task.kind == "binary":
        if soft_top_k or votes:
            raise ConfigError(
                "soft labels and votes are of an answer's tokens, and a yes/no ensemble writes none: its labels' "
                "confidence is the probability of the class"
            )
        who = {"models": ensemble_id, "alphas": list(members.alphas), "rule": members.rule,
               "rule_state": fingerprint(members.rule_state), "head": opened.task.head}  # fmt: skip
        return label_rows(
            _ClassLabeller(opened),
            _asked(opened, rows),
            out,
            ensemble=who,
            settings={"format": form.to_dict()},
            **common,
        )
    bench.shelf.keep(members.experts)
    models = bench.shelf.load_all(members.experts)
    return label_stream(
        models, members.alphas, open_rule(members.rule, members.rule_state or None), rows, out,
        tokenizer=bench.tokenizer(members.experts[0].role), task_format=form, label_by=label_by, soft_top_k=soft_top_k,
        votes=votes, batch_size=bench.settings.batch_size, ensemble_id=ensemble_id, **common,
    )  # fmt: skip


def _asked(opened: Opened, rows: Iterable[Row]) -> Iterator[Row]:
    """A binary task's questions one by one; with the answers hidden each depends on no other row."""
    for row in rows:
        yield from opened.task.rows([row.with_answer(None)], 0)


@dataclasses.dataclass(frozen=True)
class _ClassLabeller:
    """Implements ``labelling.Labeller`` for yes/no ensembles."""

    opened: Opened

    def label(self, rows: Sequence[Row], progress: WindowProgress) -> Labelled:
        """See ``Labeller``."""
        parts, skipped = usable_parts(rows, lambda some: _labels(self.opened, some))
        answers = {row_id: answer for _, found in parts for row_id, answer in found.items()}
        labels = {i: Label(a.text, a.confidence, a.agreement) for i, a in answers.items() if a.text}
        return Labelled(labels, {i: "the prompt is too long" for i, a in answers.items() if not a.text} | skipped)

    def tokens(self, rows: Sequence[Row]) -> TokenColumns | None:
        """None: a class is no text."""
        return None


def _labels(opened: Opened, rows: Sequence[Row]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for start in range(0, len(rows), LABEL_CHUNK):
        answers |= opened.bench.answer(opened.members, rows[start : start + LABEL_CHUNK], purpose="label")
    return answers


def _expected_accuracy(opened: Opened, rows: Sequence[Row], min_confidence: float) -> dict[str, Any]:
    answers = _labels(opened, rows)
    kept = [row for row in rows if answers[row.id].confidence >= min_confidence]
    if not kept:
        raise DataError(f"no validation label reaches min_confidence {min_confidence}: lower it")
    interval = score_interval(right_answers(answers, kept, opened.task_format))
    return {**interval._asdict(), "kept": len(kept) / len(rows)}

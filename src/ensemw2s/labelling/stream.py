"""Labels for a stream of rows of any size, in flat memory, to a folder of Parquet parts that can be resumed.

A window of rows is read, encoded, sorted by length and decoded in batches that finished rows leave
(``ensemble.decoding``), and written as one part in the order of the input; then it is forgotten. A part is a function
of its rows and the settings alone, so an interrupted labelling that is started again ends in the same bytes. So does
one that several processes share (``ensemw2s.parallel``): of W processes each labels every W-th part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ensemw2s import parallel
from ensemw2s.artifacts import fingerprint
from ensemw2s.data.encoding import end_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.stream import SeenIds
from ensemw2s.ensemble.combine import MixRule, expert_weights, open_rule
from ensemw2s.ensemble.experts import check_experts, context_limit, vocabulary_size
from ensemw2s.errors import ConfigError, DataError, nearest
from ensemw2s.labelling.folder import LabelFolder, PartRecord
from ensemw2s.labelling.identity import weights_fingerprint
from ensemw2s.labelling.labels import Labeller
from ensemw2s.labelling.memory import release
from ensemw2s.labelling.mixture import MixtureLabeller
from ensemw2s.labelling.parts import check_writing, part_table
from ensemw2s.labelling.tally import Tally
from ensemw2s.models.vocabulary import tokenizer_fingerprint

WINDOW = 1024  # rows a part: some batches to sort by length; 4096 was no faster, and took 40 MB more at its peak

Progress = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True)
class LabelReport:
    """What a labelling did.

    Attributes:
        folder: where the parts are.
        rows: read.
        labelled: written.
        unsure: left out for a confidence below the limit, or a blank label.
        skipped: left out because they cannot be labelled: too long for the context, or without a token.
        parts: files.
        reused: of them, found finished.
        examples: the first skipped rows, by id, with the reason; all stand in ``_skipped.jsonl``.
    """

    folder: Path
    rows: int
    labelled: int
    unsure: int
    skipped: int
    parts: int
    reused: int
    examples: Mapping[str, str]


def label_stream(
    models: Sequence[Any],
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    rows: Iterable[Row],
    folder: str | Path,
    *,
    tokenizer: Any,
    task_format: TaskFormat,
    label_by: Literal["generate", "options"] = "generate",
    soft_top_k: int = 0,
    votes: bool = False,
    min_confidence: float = 0.0,
    batch_size: int = 256,
    window: int = WINDOW,
    max_new_tokens: int | None = None,
    ensemble_id: str | None = None,
    source: str | None = None,
    total: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> LabelReport:
    """Label rows with an ensemble; the same call again goes on where an earlier one stopped.

    Memory grows neither with the rows nor with the answers: it holds one window, and the ids seen lie on disk.

    Args:
        models: T causal LMs over one vocabulary, on one device.
        alphas: ``[expert]``, any scale.
        rule: a name in :data:`~ensemw2s.ensemble.combine.RULES`, or an opened rule.
        rows: read once, lazily; their ids must be unique, their answers are not looked at.
        folder: new, empty, or of the same labelling before; see ``labelling.folder`` and the table in
            ``labelling.parts``.
        tokenizer: the experts'.
        task_format: how a question becomes a prompt, and the length limits.
        label_by: rows with choices get the likeliest of the "options", or a generated answer ("generate").
        soft_top_k: store the mixture's k likeliest tokens, and the mass of the others, at every token of the label
            (``data.targets.SoftTargets``); 0 stores none.
        votes: store every expert's own top token at every token of the label, and its probabilities of both.
        min_confidence: labels below it are left out, in [0, 1).
        batch_size: rows decoded together: speed and memory. It may change when a labelling is resumed, but equal
            bytes are promised for equal ones only (batches decide the last bits of float arithmetic).
        window: rows a part.
        max_new_tokens: instead of the format's.
        ensemble_id: stands for the experts' weights; None hashes them.
        source: fingerprint of the input where the caller knows one: another input is then refused before work
            begins. The rows of finished parts are compared in any case.
        total: rows in all where the caller knows, for ``progress``.
        restart: discard the labelling that lies in the folder.
        progress: called with (rows done, total).

    Raises:
        ConfigError: a setting out of range; a folder of another ensemble, of other settings or questions, or of
            something else.
        DataError: no rows, an id that stands twice, or what reading ``rows`` raises; finished parts are kept.
        ModelError: no expert, or different vocabularies.
        CacheError: the folder cannot be written.
    """
    check_experts(models)
    mixing = rule if isinstance(rule, MixRule) else open_rule(rule)
    weights = [float(alpha) for alpha in alphas]
    expert_weights(weights, len(models))
    _check_settings(models, label_by, soft_top_k, batch_size)
    form = task_format if max_new_tokens is None else dataclasses.replace(task_format, max_new_tokens=max_new_tokens)
    _check_room(form, context_limit(models))
    end_token(tokenizer)
    labeller = MixtureLabeller(models, weights, mixing, tokenizer, form, label_by, soft_top_k, votes, batch_size)
    ensemble = {
        "models": ensemble_id or weights_fingerprint(models),
        "vocabulary": tokenizer_fingerprint(tokenizer),
        "dtype": str(next(models[0].parameters()).dtype),
        "alphas": weights,
        "rule": mixing.name,
        "rule_state": fingerprint(mixing.state),
        "engine": labeller.bank.name,
    }
    settings = {"format": form.to_dict(), "label_by": label_by, "soft_top_k": soft_top_k, "votes": votes}
    first, rows = _peek(rows)
    form.prompt(first, tokenizer)  # a chat template that is missing is no fault of a row: refuse before work begins
    return label_rows(
        labeller, rows, folder, ensemble=ensemble, settings=settings, min_confidence=min_confidence, window=window,
        source=source, total=total, restart=restart, progress=progress,
    )  # fmt: skip


def label_rows(
    labeller: Labeller,
    rows: Iterable[Row],
    folder: str | Path,
    *,
    ensemble: Any,
    settings: Mapping[str, Any],
    min_confidence: float = 0.0,
    window: int = WINDOW,
    source: str | None = None,
    total: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> LabelReport:
    """The same with any labeller.

    Args:
        ensemble: JSON data that decides what the labeller answers.
        settings: JSON data, what else decides it.

    Other arguments and errors as :func:`label_stream`.
    """
    if not 0 <= min_confidence < 1:
        raise ConfigError(f"min_confidence must lie in [0, 1), got {min_confidence}")
    if window < 1:
        raise ConfigError(f"window is {window}: it must be at least 1")
    check_writing()
    _, rows = _peek(rows)
    settings = {**settings, "min_confidence": min_confidence, "window": window}
    identity = {"ensemble": ensemble, "settings": settings, "source": source}
    out = _open(Path(folder), identity, restart)
    tally, read = Tally(), 0
    for number, block in enumerate(_windows(_unique(rows), window)):
        if number % parallel.world() == parallel.rank():  # a part is nobody else's affair
            digest = rows_digest(block)
            record = out.finished(number, digest)
            tally.reused += record is not None
            if record is None:
                with parallel.alone():
                    tell = _counting(progress, read, total)
                    record = _make_part(out, number, labeller, block, digest, min_confidence, tell)
                release()
            tally.add(number, record)
        read += len(block)
        if progress is not None:
            progress(read, total)
    tally = Tally.sum(parallel.gather(tally))
    parallel.on_main(out.close, tally.counts["parts"], tally.counts)
    return LabelReport(
        folder=Path(folder), **tally.counts, reused=tally.reused,
        examples={row_id: reason for _, row_id, reason in tally.examples},
    )  # fmt: skip


def _open(folder: Path, identity: Mapping[str, Any], restart: bool) -> LabelFolder:
    """The folder, made or cleared by rank 0 before the others look into it."""
    if parallel.is_main():
        out = LabelFolder(folder, identity, restart=restart)
    parallel.barrier()
    if not parallel.is_main():
        out = LabelFolder(folder, identity)
    parallel.barrier()  # opening sweeps up what was half written, and from here on there is such
    return out


def _counting(progress: Progress | None, before: int, total: int | None) -> Callable[[int, int], None]:
    """Progress within a window as progress within the stream."""
    return lambda done, _: progress(before + done, total) if progress is not None else None


def rows_digest(rows: Sequence[Row]) -> str:
    """SHA-256 (hex) of all that the rows say, own columns included: what their part is made from."""
    found = hashlib.sha256()
    for row in rows:
        said = [row.id, row.question, row.context, row.choices, row.answer, row.difficulty, dict(row.raw)]
        found.update(json.dumps(said, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _plain(value: Any) -> Any:
    """What JSON has no form for: arrays as lists, dates and decimals as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _make_part(
    out: LabelFolder,
    number: int,
    labeller: Labeller,
    rows: Sequence[Row],
    digest: str,
    min_confidence: float,
    progress: Callable[[int, int], None],
) -> PartRecord:
    labels, skipped = labeller.label(rows, progress)
    sure = [
        row
        for row in rows
        if row.id in labels and labels[row.id].confidence >= min_confidence and labels[row.id].text.strip()
    ]
    tokens = labeller.tokens([row.with_answer(labels[row.id].text) for row in sure])
    table = part_table(sure, labels, tokens)
    in_order = {row.id: skipped[row.id] for row in rows if row.id in skipped}
    unsure = len(rows) - len(sure) - len(in_order)
    return out.write(number, table, PartRecord("", digest, len(rows), len(sure), unsure, in_order))


def _peek(rows: Iterable[Row]) -> tuple[Row, Iterable[Row]]:
    """The first row, and all of them."""
    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        raise DataError("no rows were given: give at least one")
    return first, itertools.chain([first], remaining)


def _windows(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while block := list(itertools.islice(rows, size)):
        yield block


def _unique(rows: Iterable[Row]) -> Iterator[Row]:
    with contextlib.closing(SeenIds()) as seen:
        for number, row in enumerate(rows, start=1):
            first = seen.get(row.id)
            if first is not None:
                raise DataError(f"row number {number}: id '{row.id}' is row {first}'s already; ids must be unique")
            seen[row.id] = number
            yield row


def _check_settings(models: Sequence[Any], label_by: str, soft_top_k: int, batch_size: int) -> None:
    if label_by not in ("generate", "options"):
        raise ConfigError(f"unknown label_by '{label_by}': {nearest(label_by, ('generate', 'options'))}")
    width = vocabulary_size(models[0])
    if isinstance(soft_top_k, bool) or not isinstance(soft_top_k, int) or not 0 <= soft_top_k <= width:
        raise ConfigError(
            f"soft_top_k is {soft_top_k!r}: it must lie between 0 (no soft labels) and the {width} tokens of the "
            "ensemble's vocabulary"
        )
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: it must be at least 1")


def _check_room(form: TaskFormat, context: int) -> None:
    limit = context if form.max_length is None else min(form.max_length, context)
    if form.max_new_tokens >= limit:
        raise ConfigError(
            f"max_new_tokens is {form.max_new_tokens}, and prompt and answer together may have {limit} tokens: lower it"
        )

"""Bytes that a stage leaves in the store, and the run in its folder."""

from __future__ import annotations

from ensemw2s.experiment.planning.bench import Work
from ensemw2s.experiment.planning.shapes import ModelShape
from ensemw2s.training.checkpoint import SECONDS

# Text around the numbers, as it is written: checksums.json and stage.json of a stage; of a row: names and numbers.
_STAGE, _TRAINED = 900, 5000
_ANSWER, _COUNT, _OPTION = 112, 67, 60
_TABLE_ROW, _TABLE_TOKEN, _LOSS = 8 + 7, 32, 26
CHECKPOINT_BYTES = 12  # a trainable weight and its two moments, float32
LABEL_ROW = 80  # of labels.jsonl beside the question's own columns
__all__ = ["CHECKPOINT_BYTES", "LABEL_ROW", "SECONDS", "label_bytes", "stored_bytes"]


def stored_bytes(work: Work, shape: ModelShape) -> float:
    """Bytes a work leaves in the store.

    Weights or adapters as safetensors (float32 for adapters), token tables at 32 bytes an answer token, soft labels at
    12 · k bytes an answer token (int64 ids, float32 probabilities), answers and counts as JSON.
    """
    load = work.load
    if work.kind in ("train", "average"):
        return shape.stored + 110 * shape.tensors + _TRAINED + _LOSS * load.steps
    if work.kind == "table":
        return _STAGE + _TABLE_ROW * load.rows + _TABLE_TOKEN * load.answers + work.letters + 500
    if work.kind == "answer":
        return _STAGE + _ANSWER * load.rows + work.letters
    if work.kind == "counts":
        return _STAGE + (_COUNT * load.rows + work.letters) * work.experts
    if work.kind == "options":
        return _STAGE + _OPTION * load.rows * work.experts
    return _STAGE + 12.0 * work.top_k * load.answers


def label_bytes(rows: float, text: float, answer_tokens: float, top_k: int) -> float:
    """Bytes of labels streamed to a folder of Parquet (docs/labelling.md), before compression.

    Args:
        rows: of the pool.
        text: characters of a question and its label.
        answer_tokens: in all labels.
        top_k: soft labels kept a token: int32 id and float32 log-probability each, 4 bytes for the tail.
    """
    a_token = 0 if top_k == 0 else 8 + 8 * top_k + 4
    return rows * (text + 40) + answer_tokens * a_token

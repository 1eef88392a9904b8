"""The shape of a file of results, told as data: a damaged or hand-edited one is refused by name before it is drawn.

A shape is a type or a tuple of types (numbers are finite, and no bool counts as one); ``[shape]``, a list of such;
``{"key": shape}``, a mapping that has these keys and maybe more (``"?key"`` may be missing or null); ``{str: shape}``,
a mapping of names to such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ensemw2s.errors import CacheError, shown

NUMBER = (int, float)
MAYBE = (int, float, type(None))  # a number, or null where there is none
_LARGEST = 1e15
_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", type(None): "null"}

_BAND = {"split": str, "metric": str, "value": NUMBER, "low": NUMBER, "high": NUMBER}
_SCORE = {"system": str, **_BAND}
_GROUP = {
    "axes": {str: str}, "seeds": [int], "over": str, "main_metric": str, "margin": NUMBER, "config": {str: object},
    "systems": {str: {"meaning": str}}, "scores": [_SCORE], "staged": [{**_BAND, "experts": NUMBER}],
    "pgr": [{"system": str, "split": str, "metric": str, "value": MAYBE, "low": MAYBE, "high": MAYBE}],
    "differences": [{**_SCORE, "against": str, "p_holm": MAYBE}],
    "equivalence": [{**_SCORE, "against": str, "equivalent": bool}],
    "detectable": [{"split": str, "detectable": NUMBER, "pair": [str]}],
    "cost": [{"system": str, **dict.fromkeys(("train_seconds", "train_tokens", "decode_seconds", "experts"), NUMBER)}],
    "warnings": [str],
}  # fmt: skip
STUDY = {
    "name": str, "axes": {str: [str]}, "groups": [_GROUP], "cells": [str],
    "wins": [{"system": str, "against": str, "split": str, "win": int, "tie": int, "loss": int}],
    "failed": [{"key": str, "error": str}], "versions": {str: object}, "hardware": {str: object}, "warnings": [str],
}  # fmt: skip
_VOTE = {"expert": (int, str), "?alpha": NUMBER, "?probability": NUMBER, "?text": str}
_TOKEN = {"?weights": [NUMBER], "?votes": [_VOTE], "?text": str, "?gold": str, "?mixture": str}
# What `report.results` does not look at itself; parts that older runs lack may be missing.
RESULTS = {
    "?preset": str, "?main_metric": str, "?systems": {str: {"?meaning": str}}, "?timings": {str: MAYBE},
    "?splits": {str: {"?rows": NUMBER, "?difficulty_low": NUMBER, "?difficulty_high": NUMBER}},
    "?scores": [{**_SCORE, "?chance": NUMBER}], "?staged": [{**_BAND, "experts": NUMBER}],
    "?rounds": [{"round": NUMBER, "?outcome": str}], "?bands": [{**_SCORE, "band": (str, int, float)}],
    "?pgr": [{"system": str, "split": str, "metric": str, "value": MAYBE, "?low": NUMBER, "?high": NUMBER,
              "?reason": str}],
    "?differences": [{**_SCORE, "against": str}], "?equivalence": [{**_SCORE, "against": str, "?margin": NUMBER}],
    "?power": [{"split": str, "detectable": MAYBE, "?pair": [str]}],
    "?pseudo_labels": [{"teacher": str, "metric": str, "value": NUMBER, "low": NUMBER, "high": NUMBER}],
    "?cost": [{"system": str}], "?calibration": [{"system": str, "split": str, "bins": [[MAYBE]]}],
    "?selection": [{"what": str, "candidates": [{"?value": object, "?score": MAYBE}]}],
    "?examples": [{"id": str, "question": str, "?tokens": [_TOKEN], "?systems": {str: object}}],
    "?diagnostics": {"?agreement": [[MAYBE]], "?error_correlation": [[MAYBE]], "?effective_share": [MAYBE],
                     "?suspicious": [{"?growth": NUMBER, "?instead": [object]}]},
    "?shift": {"?train_pool": {"?overlap": NUMBER}, "?tests": {"?overlap": NUMBER},
               "?weak_drop": {"?value": NUMBER, "?low": NUMBER, "?high": NUMBER}},
}  # fmt: skip

_LIKELY = {"text": str, "probability": NUMBER}
VIEWS = {
    "rule": str, "experts": [{"alpha": NUMBER, "weight": NUMBER, "?error": NUMBER, "?effective_sample_size": NUMBER}],
    "views": [{
        "id": str, "split": str, "kind": str, "question": str, "?answer": str, "?right": bool, "left_out": int,
        "answers": [{"system": str, "text": str, "right": bool}],
        "tokens": [{
            "text": str, "probability": NUMBER, "likeliest": bool, "top": [_LIKELY], "?weights": [NUMBER],
            "votes": [{**_LIKELY, "chosen": NUMBER, "agrees": bool}],
        }],
    }],
}  # fmt: skip


def check_shape(value: Any, shape: Any, source: str, place: str = "") -> None:
    """Compare parsed JSON with a shape.

    Args:
        value: the JSON.
        shape: see above.
        source: the file, for the message.
        place: of ``value`` inside it.

    Raises:
        CacheError: the first place that differs.
    """
    if isinstance(shape, list):
        if not isinstance(value, list):
            _refuse(value, "a list", source, place)
        for number, inner in enumerate(value):
            check_shape(inner, shape[0], source, f"{place}[{number}]")
    elif isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            _refuse(value, "a mapping", source, place)
        for key in shape:
            if key is not str and not key.startswith("?") and key not in value:
                _refuse(sorted(value)[:5], f"a mapping with '{key}'", source, place)
        for key, inner in value.items():
            wanted = shape.get(key, shape.get(str, object))
            if f"?{key}" in shape and inner is not None:
                wanted = shape[f"?{key}"]
            check_shape(inner, wanted, source, f"{place}.{key}" if place else key)
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        if not any(_is(value, kind) for kind in kinds):
            _refuse(value, " or ".join(_WORDS[kind] for kind in kinds), source, place)


def _is(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, kind) and not isinstance(value, bool) and abs(value) < _LARGEST
    return isinstance(value, kind)


def _refuse(value: Any, wanted: str, source: str, place: str) -> NoReturn:
    raise CacheError(
        f"{source} is not what this version writes: {place or 'it'} must be {wanted}, got {shown(value)}; "
        "run the same command again"
    )

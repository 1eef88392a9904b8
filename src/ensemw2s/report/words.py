"""How systems, splits and numbers are named and written, the same in every table and plot."""

from __future__ import annotations

from typing import Any, NamedTuple


class System(NamedTuple):
    """A system's plain name, its colour and its marker; both stay the same in every plot."""

    label: str
    colour: str
    marker: str


# Okabe and Ito's palette, told apart with every common colour blindness; each system has its own marker as well.
SYSTEMS = {
    "weak": System("weak expert", "#56b4e9", "o"),
    "ensemble": System("ensemble", "#0072b2", "s"),
    "uniform": System("uniform ensemble", "#cc79a7", "D"),
    "student": System("student", "#d55e00", "^"),
    "student_from_weak": System("student of weak", "#e69f00", "v"),
    "strong_on_easy": System("strong on easy", "#009e73", "P"),
    "ceiling": System("ceiling", "#1b1f24", "*"),
}
# Rivals that a run may add: labels of their own, spare colours.
RIVALS = {
    "weak_total": System("weak, total compute", "#8c6d31", "<"),
    "bagging": System("bagging", "#7a5195", "p"),
    "snapshot": System("snapshot ensemble", "#5f7f7f", "h"),
    "averaged": System("averaged experts", "#9c4f4f", "d"),
    "student_from_uniform": System("student of uniform", "#b0628f", ">"),
    "student_from_bagging": System("student of bagging", "#6a4c93", "H"),
    "student_from_total": System("student of weak, total", "#a08040", "8"),
    "student_iterated": System("student, iterated", "#c23b22", "1"),
    "few_shot": System("strong, few-shot", "#4f7f4f", "X"),
}
_SPARE = ("#7a5195", "#8c6d31", "#5f7f7f", "#9c4f4f")

MEANINGS = {
    "weak": "one weak model, fine-tuned on the labelled easy questions",
    "ensemble": "boosted weak experts, mixed token by token; the student's teacher",
    "uniform": "as many weak experts with different seeds, all of equal weight",
    "student": "the strong model, trained on the ensemble's labels of the hard pool",
    "student_from_weak": "the strong model, trained on the single weak expert's labels",
    "strong_on_easy": "the strong model, trained on the labelled easy questions",
    "ceiling": "the strong model, trained on the right answers of the hard pool",
}

SPLITS = {"test_id": "test ID (easy)", "test_ood": "test OOD (hard)", "validation": "validation (easy)"}
METRICS = {
    "exact_match": "exact match", "token_accuracy": "token accuracy", "option_accuracy": "option accuracy",
    "nll": "negative log-likelihood", "brier": "Brier score", "ece": "calibration error",
}  # fmt: skip
# Metrics that are no shares of rows or tokens: their unit, and fewer is better.
UNITS = {"nll": "nats a token", "brier": "", "ece": ""}

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"


def system(name: str) -> System:
    """Name and look of a system; one that is not known gets a spare colour that depends on its name only."""
    if name in SYSTEMS:
        return SYSTEMS[name]
    if name in RIVALS:
        return RIVALS[name]
    return System(plain(name), _SPARE[sum(name.encode()) % len(_SPARE)], "X")


def split_label(name: str) -> str:
    """A split's name for people."""
    return SPLITS.get(name, plain(name))


def metric_label(name: str) -> str:
    """A metric's name for people."""
    return METRICS.get(name, plain(name))


def plain(name: str) -> str:
    """``test_far`` to ``test far``."""
    return name.replace("_", " ")


def chosen_setting(name: str) -> str:
    """How people call what was chosen on validation rows."""
    known = {
        "weak_epochs": "epochs of the weak expert", "weak_base": "pretrained model of the weak expert",
        "first_base": "pretrained model that ensembles start from first",
    }  # fmt: skip
    return known.get(name, plain(name))


def in_unit(metric: str) -> str:
    """What stands in a heading behind a metric's name: "in %", "in nats a token, lower is better" ..."""
    if metric not in UNITS:
        return "in %"
    return f"in {UNITS[metric]}, lower is better" if UNITS[metric] else "from 0 to 1, lower is better"


def score(value: Any, metric: str) -> str:
    """A score as it is written for its metric: ``58.1`` (%), or ``0.581`` for those that are no shares."""
    return number(value, 3) if metric in UNITS else percent(value)


def gap(value: Any, metric: str) -> str:
    """A difference of two scores with its sign: points, or the metric's own unit."""
    return number(value, 3, sign=True) if metric in UNITS else points(value)


def p_value(value: Any) -> str:
    """A p-value: ``0.012``, ``< 0.001``."""
    if not is_number(value):
        return DASH
    return f"<{SPACE}0.001" if value < 0.001 else number(value, 3)


def is_number(value: Any) -> bool:
    """Whether it can be written as a number; None, text, booleans and template gaps cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def number(value: Any, digits: int = 2, sign: bool = False) -> str:
    """A number with a true minus, or a dash where there is none."""
    if not is_number(value):
        return DASH
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(value: Any, digits: int = 1) -> str:
    """0.5812 to ``58.1``; the unit stands in the heading."""
    return number(100 * value, digits) if is_number(value) else DASH


def points(value: Any, digits: int = 1) -> str:
    """A difference of two shares in percentage points with its sign: 0.031 to ``+3.1``."""
    return number(100 * value, digits, sign=True) if is_number(value) else DASH


def duration(seconds: Any) -> str:
    """Seconds as people write them: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not is_number(seconds):
        return DASH
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f}{SPACE}s"
    if whole < 60:
        return f"{whole}{SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{SPACE}min {whole % 60}{SPACE}s"
    return f"{whole // 3600}{SPACE}h {whole % 3600 // 60}{SPACE}min"


def megabytes(value: Any) -> str:
    """Memory in MB, or GB where that is shorter."""
    if not is_number(value):
        return DASH
    return f"{value / 1000:.1f}{SPACE}GB" if value >= 1000 else f"{value:.0f}{SPACE}MB"

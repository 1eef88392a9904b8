"""What the tables and figures of docs/results.md show."""

from __future__ import annotations

import results_tables_bases as from_bases
import results_tables_default as of_default
import results_tables_students as from_students
import results_tables_unseen_models as of_others
from results_figures import Figure
from results_kinds import NONE, Table
from results_store import BOTH, SPLITS, Who
from results_tables_four import four


def world(label: str, system: str) -> Who:
    """Of the study ``world``: seeds 0-4, every rival."""
    return Who(label, "world", system)


def boosting(label: str, system: str, group: str = "shrunk") -> Who:
    """Of the study ``boosting``: seeds 5-14, three forms of boosting."""
    return Who(label, "boosting", system, group)


WEAK, TOTAL, UNIFORM, BAGGING, SNAPSHOT = (
    boosting(label, system)
    for label, system in (
        ("weak expert", "weak"), ("weak, total compute", "weak_total"), ("uniform ensemble", "uniform"),
        ("bagging", "bagging"), ("snapshot ensemble", "snapshot"),
    )
)  # fmt: skip
PAPER, SHRUNK, ADDITIVE = (
    boosting(label, "ensemble", group)
    for label, group in (("AdaBoost, ν = 1 (paper)", "paper"), ("AdaBoost, ν = 0.3", "shrunk"), ("additive, ν = 0.1", "additive"))
)  # fmt: skip
OF_PAPER, OF_SHRUNK, OF_ADDITIVE = (
    boosting(f"student of {label}", "student", group)
    for label, group in (("AdaBoost, ν = 1", "paper"), ("AdaBoost, ν = 0.3", "shrunk"), ("additive", "additive"))
)
OF_WEAK, OF_UNIFORM = boosting("student of weak", "student_from_weak"), boosting("student of uniform", "student_from_uniform")  # fmt: skip
ON_EASY, CEILING = boosting("strong on easy", "strong_on_easy"), boosting("ceiling", "ceiling")

_CLAIMS = [
    world(label, system)
    for label, system in (
        ("weak expert", "weak"), ("weak, total compute", "weak_total"), ("uniform ensemble", "uniform"),
        ("bagging", "bagging"), ("snapshot ensemble", "snapshot"), ("AdaBoost, ν = 0.3", "ensemble"),
        ("averaged experts", "averaged"), ("student of AdaBoost", "student"), ("student of weak", "student_from_weak"),
        ("student of uniform", "student_from_uniform"), ("student of bagging", "student_from_bagging"),
        ("student, iterated", "student_iterated"), ("strong, few-shot", "few_shot"), ("strong on easy", "strong_on_easy"),
        ("ceiling", "ceiling"),
    )
]  # fmt: skip
_RULES = [Who(rule, "rules", "ensemble", rule) for rule in ("mean", "product", "vote", "best", "calibrated", "prefix", "gate")]  # fmt: skip
_TEN = [WEAK, TOTAL, UNIFORM, BAGGING, SNAPSHOT, PAPER, SHRUNK, ADDITIVE, OF_WEAK, OF_UNIFORM, OF_PAPER, OF_SHRUNK,
        OF_ADDITIVE, ON_EASY, CEILING]  # fmt: skip


_COUNTS, _SIZES = (1, 2, 4, 8, 16), (75, 300, 600, 1200)
#: label -> (system, group) of the studies with one group for each form of boosting
_FORMS = {
    "weak expert": ("weak", "shrunk"), "uniform ensemble": ("uniform", "shrunk"), "bagging": ("bagging", "shrunk"),
    "AdaBoost, ν = 0.3": ("ensemble", "shrunk"), "additive, ν = 0.1": ("ensemble", "additive"),
    "one expert, total compute": ("weak_total", "total"),
    "student of weak": ("student_from_weak", "additive"), "student of uniform": ("student_from_uniform", "additive"),
    "student of AdaBoost": ("student", "shrunk"), "student of additive": ("student", "additive"),
    "strong on easy": ("strong_on_easy", "additive"), "ceiling": ("ceiling", "additive"),
}  # fmt: skip
_WEAK_SIDE = ("weak expert", "uniform ensemble", "AdaBoost, ν = 0.3", "additive, ν = 0.1")
_STRONG_SIDE = ("student of weak", "student of additive", "strong on easy", "ceiling")


def of_form(study: str, label: str, where: str = "", shown: str = "") -> Who:
    """A system of a study with forms of boosting; ``where`` is the label of its other axis."""
    system, form = _FORMS[label]
    return Who(shown or label, study, system, "/".join(filter(None, (where, form))))


def every(study: str, labels: tuple[str, ...], where: str = "") -> tuple[Who, ...]:
    """Several systems of it."""
    return tuple(of_form(study, label, where) for label in labels)


def pairs_of(study: str, names: tuple[tuple[str, str], ...], where: str = "") -> tuple[tuple[Who, Who], ...]:
    """Systems to compare."""
    return tuple((of_form(study, a, where), of_form(study, b, where)) for a, b in names)


_GAINS = (
    ("additive, ν = 0.1", "weak expert"), ("additive, ν = 0.1", "uniform ensemble"), ("AdaBoost, ν = 0.3", "weak expert"),
    ("AdaBoost, ν = 0.3", "uniform ensemble"), ("student of additive", "student of weak"),
    ("student of additive", "strong on easy"), ("student of additive", "ceiling"),
)  # fmt: skip
_STUDENTS = ("student of weak", "student of AdaBoost", "student of additive", "strong on easy")
_ALONG_EXPERTS = ("one expert, total compute", "uniform ensemble", "bagging", "AdaBoost, ν = 0.3", "additive, ν = 0.1")
_ALONG_LABELS = (*_WEAK_SIDE, "student of weak", "student of additive", "strong on easy")


def experts(label: str, count: int) -> Who:
    """Of the study ``experts``: so many of them."""
    return of_form("experts", label, str(count), f"{label}, {count} experts")


#: of the study ``pairs``, with the larger student
_PAIR = {
    label: Who(label, "pairs", system, "weak-large")
    for label, system in (
        ("weak expert", "weak"), ("uniform ensemble", "uniform"), ("additive, ν = 0.1", "ensemble"),
        ("student of weak", "student_from_weak"), ("student of additive", "student"), ("strong on easy", "strong_on_easy"),
        ("ceiling", "ceiling"),
    )
}  # fmt: skip
_WAYS = ("to-facts", "to-words")
_BETWEEN = ("labelled families, easy", "other families, hard")
_TOGETHER = ("both tests",)
_RANDOM = tuple(
    who._replace(label="strong on labelled rows") if who.system == "strong_on_easy" else who
    for who in every(
        "random", tuple(label for label in _FORMS if label not in ("student of uniform", "one expert, total compute"))
    )
)


def both_splits(a: str, b: str, hard: tuple[Who, Who]) -> tuple[tuple[str, tuple[str, ...], Who, Who], ...]:
    """The same difference with a random split and from easy to hard."""
    return (
        ("random split", (BOTH,), of_form("random", a), of_form("random", b)),
        ("easy to hard", SPLITS, *hard),
    )


def _of(system: str, setting: str = "usual") -> Who:
    return of_default.default("", system, setting)


_PUBLISHED = (
    ("experts: boosted (AdaBoost) − one expert", "+4 % in, +6 % out of distribution", "ARC and QuaRTz, Pythia and Qwen pairs",
     both_splits("AdaBoost, ν = 0.3", "weak expert", (SHRUNK, WEAK))),
    ("experts: additive − one expert", NONE, NONE, both_splits("additive, ν = 0.1", "weak expert", (ADDITIVE, WEAK))),
    ("experts: AdaBoost − the best rival at equal compute (uniform seeds)", "+14 % over baselines, +5 % binary and +4 % generative on average (first version)",
     "SciQ and others, GPT-2, Pythia and Qwen pairs", both_splits("AdaBoost, ν = 0.3", "uniform ensemble", (SHRUNK, UNIFORM))),
    ("experts: additive − uniform seeds", NONE, NONE, both_splits("additive, ν = 0.1", "uniform ensemble", (ADDITIVE, UNIFORM))),
    ("experts: additive, from four pretrained models − the best single expert of the four", NONE, NONE,
     (("easy to hard", SPLITS, from_bases.ADDITIVE, from_bases.WEAK),
      ("easy to hard, unseen families", SPLITS, four("", "ensemble", "unseen"), four("", "weak", "unseen")))),
    ("experts: additive, from four pretrained models − one expert of one", NONE, NONE,
     (("easy to hard", SPLITS, from_bases.ADDITIVE, from_bases.ONE),)),
    ("experts: the default (additive, from eight models) − the best single expert of the eight", NONE, NONE,
     (("easy to hard", SPLITS, of_default.ENSEMBLE, _of("weak")),
      ("easy to hard, eight other models", SPLITS, of_others.ENSEMBLE, of_others.anew("", "weak")),
      ("easy to hard, *largest* and *story*", SPLITS, _of("ensemble", "unseen"), _of("weak", "unseen")))),
    ("experts: the default − one expert of one", NONE, NONE,
     (("easy to hard", SPLITS, of_default.ENSEMBLE, of_default.WEAK_OF_ONE),
      ("easy to hard, eight other models", SPLITS, of_others.ENSEMBLE, of_others.WEAK_OF_ONE))),
    ("students: of AdaBoost − of one expert", "+3.2 % in, +2.28 % out of distribution", "ARC and QuaRTz, Pythia and Qwen pairs",
     both_splits("student of AdaBoost", "student of weak", (OF_SHRUNK, OF_WEAK))),
    ("students: of additive − of one expert", NONE, NONE, both_splits("student of additive", "student of weak", (OF_ADDITIVE, OF_WEAK))),
    ("students: surest quarter and labelled rows, of additive from four models − the same of one expert", NONE, NONE,
     (("easy to hard", SPLITS, from_students.CHOSEN, from_students.student("one expert", "quarter-and-labelled")),
      ("easy to hard, unseen families", SPLITS, four("", "student", "unseen"), four("", "student_from_weak", "unseen")))),
    ("students: the default's (surest half and labelled rows, eight models) − the same of one expert", NONE, NONE,
     (("easy to hard", SPLITS, of_default.STUDENT, of_default.OF_SINGLE),
      ("easy to hard, eight other models", SPLITS, of_others.STUDENT, of_others.OF_SINGLE),
      ("easy to hard, *largest* and *story*", SPLITS, _of("student", "unseen"), _of("student_from_weak", "unseen")))),
    ("students: the default's − of one expert of one model, all labels", NONE, NONE,
     (("easy to hard", SPLITS, of_default.STUDENT, of_default.STUDENT_OF_ONE),
      ("easy to hard, eight other models", SPLITS, of_others.STUDENT, of_others.STUDENT_OF_ONE))),
    ("student of AdaBoost − ceiling", "equal in several cases (first version)", "not told which here",
     both_splits("student of AdaBoost", "ceiling", (OF_SHRUNK, CEILING))),
    ("student of additive − ceiling", NONE, NONE, both_splits("student of additive", "ceiling", (OF_ADDITIVE, CEILING))),
)  # fmt: skip

TABLES = {
    "claims": Table("scores", tuple(_CLAIMS)),
    "boosting": Table("scores", tuple(_TEN)),
    "boosting-experts": Table(
        "differences",
        (
            *((ADDITIVE, rival) for rival in (WEAK, TOTAL, UNIFORM, BAGGING, SNAPSHOT, SHRUNK, PAPER)),
            *((SHRUNK, rival) for rival in (WEAK, TOTAL, UNIFORM, BAGGING)),
            *((PAPER, rival) for rival in (WEAK, UNIFORM)),
        ),
    ),
    "boosting-students": Table(
        "differences",
        (
            (OF_ADDITIVE, ADDITIVE), (OF_ADDITIVE, OF_WEAK), (OF_ADDITIVE, OF_UNIFORM), (OF_ADDITIVE, OF_SHRUNK),
            (OF_SHRUNK, OF_WEAK), (OF_SHRUNK, OF_UNIFORM), (OF_ADDITIVE, ON_EASY), (OF_ADDITIVE, CEILING),
        ),
    ),
    "power": Table("power", ((ADDITIVE, UNIFORM), (ADDITIVE, WEAK), (OF_ADDITIVE, OF_WEAK), (OF_ADDITIVE, CEILING))),
    "bands": Table("bands", (WEAK, UNIFORM, SHRUNK, ADDITIVE, OF_ADDITIVE, ON_EASY, CEILING)),
    "families": Table("families", (WEAK, UNIFORM, SHRUNK, ADDITIVE, OF_ADDITIVE, CEILING)),
    "rounds": Table("rounds", (PAPER, SHRUNK, ADDITIVE, UNIFORM)),
    "rules": Table("scores", tuple(_RULES)),
    "experts": Table("sizes", tuple((str(n), every("experts", _ALONG_EXPERTS, str(n))) for n in _COUNTS), first="experts"),
    "experts-differences": Table(
        "differences",
        (
            *((experts("additive, ν = 0.1", 16), experts(*rival)) for rival in (("additive, ν = 0.1", 4), ("uniform ensemble", 16), ("one expert, total compute", 16))),
            *((experts("AdaBoost, ν = 0.3", 16), experts(*rival)) for rival in (("AdaBoost, ν = 0.3", 4), ("uniform ensemble", 16))),
            (experts("uniform ensemble", 16), experts("uniform ensemble", 4)),
            (experts("one expert, total compute", 16), experts("one expert, total compute", 4)),
        ),
    ),
    "labels": Table("sizes", tuple((f"{n:,}", every("labels", _ALONG_LABELS, str(n))) for n in _SIZES), first="labelled rows"),
    "labels-differences": Table(
        "differences",
        tuple(
            (of_form("labels", a, str(n), f"{n:,} rows: {a}"), of_form("labels", b, str(n)))
            for a, b in (_GAINS[1], _GAINS[4])
            for n in _SIZES
        ),
    ),
    "random": Table("scores", _RANDOM, sides=_TOGETHER, tests=(BOTH,)),
    "random-differences": Table("differences", pairs_of("random", _GAINS), sides=_TOGETHER, tests=(BOTH,)),
    "binary": Table("scores", every("binary", (*_WEAK_SIDE, "student of weak", "student of AdaBoost", *_STRONG_SIDE[1:]))),
    "binary-differences": Table(
        "differences", pairs_of("binary", (*_GAINS, ("student of AdaBoost", "student of weak"), ("student of additive", "additive, ν = 0.1")))
    ),
    **{f"transfer-{way}": Table("scores", every("transfer", (*_WEAK_SIDE, *_STRONG_SIDE), way), sides=_BETWEEN) for way in _WAYS},
    "transfer-differences": Table(
        "differences",
        tuple(
            (of_form("transfer", a, way, f"{way.replace('-', ' ')}: {a}"), of_form("transfer", b, way))
            for way in _WAYS
            for a, b in (_GAINS[0], _GAINS[1], _GAINS[3], _GAINS[4], _GAINS[6])
        ),
        sides=_BETWEEN,
    ),
    "unseen": Table("scores", every("families", (*_WEAK_SIDE, "student of uniform", *_STRONG_SIDE))),
    "unseen-differences": Table("differences", pairs_of("families", _GAINS)),
    "unseen-families": Table("families", every("families", (*_WEAK_SIDE, *_STRONG_SIDE))),
    "pairs": Table("scores", tuple(_PAIR.values())),
    "pairs-differences": Table("differences", tuple((_PAIR[a], _PAIR[b]) for a, b in (*_GAINS[:2], *_GAINS[4:]))),
    "published": Table("published", _PUBLISHED, sides=("in distribution", "out of distribution")),
    "ceilings": Table(
        "power", pairs_of("random", tuple((student, "ceiling") for student in _STUDENTS)), sides=_TOGETHER, tests=(BOTH,)
    ),
}  # fmt: skip

FIGURES = {
    "results-boosting": Figure("dots", tuple(_TEN)),
    "results-experts": Figure(
        "curves",
        tuple((label, tuple((n, of_form("experts", label, str(n))) for n in _COUNTS)) for label in _ALONG_EXPERTS),
        x="experts",
        logarithmic=True,
    ),
    "results-experts-nats": Figure(
        "curves",
        tuple((label, tuple((n, of_form("experts", label, str(n))) for n in _COUNTS)) for label in _ALONG_EXPERTS),
        x="experts",
        logarithmic=True,
        metric="nll",
    ),
    "results-labels": Figure(
        "curves",
        tuple((label, tuple((n, of_form("labels", label, str(n))) for n in _SIZES)) for label in _ALONG_LABELS),
        x="labelled rows",
        logarithmic=True,
    ),
    "results-random": Figure("dots", _RANDOM, sides=_TOGETHER, tests=(BOTH,)),
    "results-levels": Figure("levels", (WEAK, UNIFORM, SHRUNK, ADDITIVE, OF_ADDITIVE, ON_EASY, CEILING)),
}

#: name -> (a, b or None, test, digits) of the numbers in the page's text (``results_kinds.told``)
VALUES: dict[str, tuple[Who, Who | None, str, int]] = {
    "additive-over-weak": (ADDITIVE, WEAK, "test_id", 0),
    "total-under-additive": (ADDITIVE, TOTAL, "test_ood", 0),
    "student-under-ceiling": (OF_ADDITIVE, CEILING, "test_ood", 0),
}

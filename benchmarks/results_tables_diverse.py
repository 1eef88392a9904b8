"""Tables of docs/results.md on experts that differ in architecture, size or tokenizer."""

from __future__ import annotations

import mixed_tokenizers
from results_kinds import Table
from results_store import Who
from results_tables_scripts import of

#: how the page calls the pools of the study ``diverse``
POOLS = {
    "copies": "equal copies",
    "two-seeds": "two pretraining seeds",
    "two-architectures": "two architectures",
    "two-sizes": "two sizes",
    "four-seeds": "four pretraining seeds",
    "all-different": "all different",
}
_SYSTEMS = {
    "best single expert": ("weak", "shrunk"), "uniform ensemble": ("uniform", "shrunk"),
    "AdaBoost, ν = 0.3": ("ensemble", "shrunk"), "additive, ν = 0.5": ("ensemble", "additive"),
}  # fmt: skip


def diverse(label: str, pool: str, shown: str = "") -> Who:
    """A system of the study ``diverse``: seeds 5-9, four experts that start from a pool of pretrained models in turn."""
    system, form = _SYSTEMS[label]
    return Who(shown or label, "diverse", system, f"{pool}/{form}")


def among(label: str, pool: str) -> Who:
    """The same, named by its pool too."""
    return diverse(label, pool, f"{POOLS[pool]}: {label}")


SINGLE, UNIFORM, SHRUNK, ADDITIVE = _SYSTEMS
#: equal copies with the ν that was chosen for experts from one pretrained model
SLOW = Who("additive, ν = 0.1", "diverse", "ensemble", "copies/additive-slow")
_COPIES = SLOW._replace(label=f"{POOLS['copies']}: {SLOW.label}")

TABLES = {
    "diverse": Table(
        "sizes",
        (
            *((shown, tuple(diverse(label, pool) for label in _SYSTEMS)) for pool, shown in POOLS.items()),
            (f"{POOLS['copies']}, ν = 0.1", (*(diverse(label, "copies") for label in (SINGLE, UNIFORM, SHRUNK)), SLOW)),
        ),
        first="pool",
    ),
    "diverse-rivals": Table(
        "differences",
        (
            (_COPIES, diverse(SINGLE, "copies")),
            (_COPIES, diverse(UNIFORM, "copies")),
            *(
                (among(ADDITIVE, pool), diverse(rival, pool))
                for pool in POOLS
                if pool != "copies"
                for rival in (SINGLE, UNIFORM)
            ),
        ),
    ),
    "diverse-copies": Table(
        "differences",
        (
            *((among(ADDITIVE, pool), _COPIES) for pool in POOLS if pool != "copies"),
            *((among(UNIFORM, pool), among(UNIFORM, "copies")) for pool in POOLS if pool != "copies"),
        ),
    ),
    "diverse-pools": Table(
        "differences",
        tuple(
            (among(label, pool), among(label, other))
            for pool, other in (
                ("two-architectures", "two-seeds"),
                ("two-sizes", "two-seeds"),
                ("all-different", "four-seeds"),
            )
            for label in (UNIFORM, ADDITIVE)
        ),
    ),
    "diverse-rounds": Table("rounds", (_COPIES, *(among(ADDITIVE, pool) for pool in POOLS))),
    "mixed-tokenizers": of(mixed_tokenizers.table, "mixed_tokenizers"),
    "mixed-tokenizers-differences": of(mixed_tokenizers.differences, "mixed_tokenizers"),
}

VALUES = {
    f"diverse-over-copies-{side}": (diverse(ADDITIVE, "all-different"), SLOW, test, 0)
    for side, test in (("easy", "test_id"), ("hard", "test_ood"))
}

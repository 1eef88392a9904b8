"""Every system a configuration can name, each a few lines over the workshop.

A plug-in adds one with ``@SYSTEMS.register("name")`` over a ``System``, or under the entry point group
``ensemw2s.systems``:

    SYSTEMS.register("my_ensemble")(System(build, "weak side", "two models of mine", needs=("weak",)))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from ensemw2s.errors import ConfigError
from ensemw2s.methods.baselines import (
    averaged_model,
    bagging,
    best_base_weak,
    few_shot,
    snapshot_ensemble,
    total_compute_single,
    uniform_ensemble,
)
from ensemw2s.methods.bench import Members
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.methods.workshop import Workshop
from ensemw2s.registry import Registry

Side = Literal["weak side", "student", "control"]


@dataclasses.dataclass(frozen=True)
class System:
    """How one system is built.

    Attributes:
        build: from the workshop, in which all of ``needs`` are built, to members.
        side: "weak side" (trained on the easy labels, may teach), "student" (trained on a teacher's labels of the
            pool: has a PGR), "control" (the strong model without a teacher).
        meaning: what it is, in a line for people.
        needs: systems that must be built before.
        teacher: for students: whose labels they learn from.
    """

    build: Callable[[Workshop], Members]
    side: Side
    meaning: str
    needs: tuple[str, ...] = ()
    teacher: str | None = None


#: name -> system, in no order; ``build_order`` finds one.
SYSTEMS: Registry[System] = Registry("systems")


def build_order(wanted: Sequence[str]) -> list[str]:
    """``wanted`` and all they need, every one after what it needs.

    Raises:
        ConfigError: an unknown system, or systems that need each other.
    """
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ConfigError(f"systems need each other in a circle: {' -> '.join([*above, name])}")
        if name not in order:
            for other in SYSTEMS.get(name).needs:
                visit(other, (*above, name))
            order.append(name)

    for name in wanted:
        visit(name, ())
    return order


def _weak(shop: Workshop) -> Members:
    s = shop.settings
    members, choices = best_base_weak(
        shop.bench, shop.easy, shop.validation, s.expert, s.weak_epochs, seed=s.seed, bases=range(s.bases),
        search=s.weak_search,
    )  # fmt: skip
    shop.selections.extend(choices)
    return members


def _ensemble(shop: Workshop) -> Members:
    s = shop.settings
    shop.boosted = boost_experts(
        shop.bench, shop.easy, s.boost, s.expert, seed=s.seed, rule=s.rule, held_out=shop.validation,
        turns=shop.in_turn(),
    )  # fmt: skip
    shop.notes.extend(shop.boosted.messages)
    return shop.boosted.members


def _of_seeds(make: Callable[..., Members], shop: Workshop) -> Members:
    s = shop.settings
    return make(shop.bench, shop.easy, s.expert, s.boost.rounds, seed=s.seed, turns=shop.in_turn())


def _of_one(make: Callable[..., Members], shop: Workshop) -> Members:
    """From the pretrained model that the single weak expert starts from."""
    s, (weak,) = shop.settings, shop.systems["weak"].experts
    return make(shop.bench, shop.easy, s.expert, s.boost.rounds, seed=s.seed, base=weak.base)


def _iterated(shop: Workshop) -> Members:
    """The student relabels the pool and a fresh strong model learns from that, ``iterations`` times in all."""
    members = shop.systems["student"]
    for number in range(2, shop.settings.iterations + 1):
        name = f"student after {number - 1}"
        shop.systems[name] = members
        members = shop.student_of(name)
        del shop.systems[name]
    return members


def _student(name: str, teacher: str, meaning: str) -> None:
    SYSTEMS.register(name)(
        System(lambda shop: shop.student_of(teacher), "student", meaning, needs=(teacher,), teacher=teacher)
    )


SYSTEMS.register("weak")(System(_weak, "weak side", "one weak model, fine-tuned on the labelled easy questions"))
SYSTEMS.register("weak_total")(
    System(
        partial(_of_one, total_compute_single), "weak side",
        "one weak model, trained as long as all experts of the ensemble together", needs=("weak",),
    )
)  # fmt: skip
SYSTEMS.register("uniform")(
    System(
        partial(_of_seeds, uniform_ensemble), "weak side",
        "as many weak experts with different seeds, all of equal weight",
    )
)  # fmt: skip
SYSTEMS.register("bagging")(
    System(partial(_of_seeds, bagging), "weak side", "as many weak experts, each on rows drawn with replacement")
)
SYSTEMS.register("snapshot")(
    System(
        partial(_of_one, snapshot_ensemble), "weak side",
        "one weak model trained in as many cycles, a snapshot of each", needs=("weak",),
    )
)  # fmt: skip
SYSTEMS.register("ensemble")(
    System(_ensemble, "weak side", "boosted weak experts, mixed token by token; the student's teacher")
)
SYSTEMS.register("averaged")(
    System(
        lambda shop: averaged_model(shop.bench, shop.systems["ensemble"]), "weak side",
        "the boosted experts' weights averaged into one weak model", needs=("ensemble",),
    )
)  # fmt: skip
_student("student", "ensemble", "the strong model, trained on the ensemble's labels of the hard pool")
_student("student_from_weak", "weak", "the strong model, trained on the single weak expert's labels")
_student("student_from_uniform", "uniform", "the strong model, trained on the uniform ensemble's labels")
_student("student_from_bagging", "bagging", "the strong model, trained on the bagged ensemble's labels")
_student(
    "student_from_total", "weak_total", "the strong model, trained on the labels of the longest trained weak model"
)
SYSTEMS.register("student_iterated")(
    System(
        _iterated, "student", "a fresh strong model, trained on the labels that the student before it gave",
        needs=("student",), teacher="ensemble",
    )
)  # fmt: skip
SYSTEMS.register("few_shot")(
    System(
        lambda shop: few_shot(shop.bench, shop.easy, shop.settings.shots, seed=shop.settings.seed), "control",
        "the strong model as pretrained, with a few labelled easy questions in its prompt",
    )
)  # fmt: skip
SYSTEMS.register("strong_on_easy")(
    System(
        lambda shop: shop.strong_on(shop.easy, "strong_on_easy"), "control",
        "the strong model, trained on the labelled easy questions",
    )
)  # fmt: skip
SYSTEMS.register("ceiling")(
    System(
        lambda shop: shop.strong_on(shop.truth and shop.with_labelled(shop.truth), "ceiling"), "control",
        "the strong model, trained on the right answers of the hard pool",
    )
)  # fmt: skip

"""A method: two experts, each on one half of the labelled rows; and a student that they teach."""

from __future__ import annotations

from ensemw2s.methods.bench import Members
from ensemw2s.methods.systems import SYSTEMS, System
from ensemw2s.methods.workshop import Workshop
from ensemw2s.seeds import derive_seed


def halves(shop: Workshop) -> Members:
    """Every other row for one expert, the rest for the other; equal weights."""
    experts = [
        shop.bench.fine_tune(
            "weak", shop.easy[start::2], shop.settings.expert, seed=derive_seed(shop.settings.seed, "halves", start)
        )
        for start in (0, 1)
    ]
    return Members.equal(experts)


SYSTEMS.register("halves")(System(halves, "weak side", "two weak experts, each on half of the labelled rows"))
SYSTEMS.register("student_from_halves")(
    System(
        lambda shop: shop.student_of("halves"),
        "student",
        "the strong model, trained on the labels of the two halves",
        needs=("halves",),
        teacher="halves",
    )
)

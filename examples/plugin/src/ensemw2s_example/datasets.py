"""A data set: sums, in a file that comes with the package. For one on the hub only ``hub_id`` changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemw2s.data.hub import DATASETS, HubDataset


def read_sum(record: Mapping[str, Any]) -> dict[str, Any]:
    """From one record to our columns: question, answer, and maybe context, choices, difficulty."""
    left, right = record["left"], record["right"]
    return {
        "question": f"What is {left} + {right}?",
        "answer": str(left + right),
        "difficulty": float(record["digits"]),
    }


DATASETS.register("sums")(
    HubDataset(
        hub_id=str(Path(__file__).parent),  # a hub id such as "owner/name", or a local folder in the same form
        splits={"train": "train"},  # our split names to the source's
        formatter=read_sum,
    )
)

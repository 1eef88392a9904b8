"""What became of a labelling's parts, counted by every process and summed at the end."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from ensemw2s.labelling.folder import PartRecord

EXAMPLES = 20  # skipped rows that a report names; all of them are in the folder


@dataclasses.dataclass
class Tally:
    """What became of some parts.

    Attributes:
        counts: as in ``LabelReport``.
        reused: parts found finished.
        examples: (part, id, reason) of the first skipped rows.
    """

    counts: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"rows": 0, "labelled": 0, "unsure": 0, "skipped": 0, "parts": 0}
    )
    reused: int = 0
    examples: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)

    def add(self, number: int, record: PartRecord) -> None:
        """One part more."""
        for name, more in (("rows", record.rows), ("labelled", record.labelled), ("unsure", record.unsure),
                           ("skipped", len(record.skipped)), ("parts", 1)):  # fmt: skip
            self.counts[name] += more
        found = itertools.islice(record.skipped.items(), EXAMPLES - len(self.examples))
        self.examples += [(number, row_id, reason) for row_id, reason in found]

    @classmethod
    def sum(cls, tallies: Sequence[Tally]) -> Tally:
        """Of all processes."""
        counts = {name: sum(tally.counts[name] for tally in tallies) for name in cls().counts}
        examples = sorted((one for tally in tallies for one in tally.examples), key=lambda one: one[0])
        return cls(counts, sum(tally.reused for tally in tallies), examples[:EXAMPLES])

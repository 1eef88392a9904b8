"""What wrong labels did to a run: where the boosting weights went, who finds the wrong labels, who learned them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import Splits
from ensemw2s.evaluation.wronglabels import find_wrong, row_means, share_on_wrong
from ensemw2s.experiment.bench import Counts, StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.pipeline import Outcome
from ensemw2s.methods.boosted import Boosted
from ensemw2s.methods.systems import SYSTEMS

Record = dict[str, Any]


def noise_record(config: Config, outcome: Outcome, bench: StoredBench) -> Record | None:
    """The section ``noise`` of ``results.json``; None where no label was made wrong.

    Returns:
        ``rate`` and ``kind`` as asked for; ``splits``, rows and wrong ones; ``weights``, by round the share of the
        boosting weight on tokens of wrongly labelled rows against their share of the tokens, and how well a row's mean
        weight finds them; ``losses``, how well the mean nats a token of the given label find them, under every system
        trained on them; ``learned``, how many of the labels each of those gives back word by word.
    """
    right = outcome.splits.right.get("weak_train")
    if not right:
        return None
    bench.purpose = "look at the wrong labels"
    trained, truth = looked_at(outcome.splits)
    systems = [name for name in outcome.systems if SYSTEMS.get(name).side == "weak side"]
    given = {name: bench.token_counts(outcome.systems[name], trained)[-1] for name in systems}
    true = {name: bench.token_counts(outcome.systems[name], truth)[-1] for name in systems}
    return {
        "rate": config.noise.rate,
        "kind": config.noise.kind,
        "splits": {
            name: {"rows": len(getattr(outcome.splits, name)), "wrong": len(changed)}
            for name, changed in outcome.splits.right.items()
        },
        "weights": [] if outcome.boosted is None else _by_round(outcome.boosted, set(right)),
        "losses": [{"system": name, **_by_loss(given[name], set(right))} for name in systems],
        "learned": [{"system": name, **_learned(given[name], true[name], set(right))} for name in systems],
    }


def looked_at(splits: Splits) -> tuple[Sequence[Row], Sequence[Row]]:
    """The training rows as they are labelled, and those labelled wrongly with their right answers."""
    right = splits.right.get("weak_train", {})
    return splits.weak_train, [row.with_answer(right[row.id]) for row in splits.weak_train if row.id in right]


def _by_round(boosted: Boosted, changed: set[str]) -> list[Record]:
    """D_1 .. D_T, and last the weights that a further round would have had."""
    table = boosted.tables[0]
    owner = np.repeat(np.arange(len(table.ids)), table.offsets.diff().numpy())
    wrong = np.array([row_id in changed for row_id in table.ids])
    entries = []
    for number, weights in enumerate(boosted.weights, start=1):
        on_tokens = boosted.samples.share_tokens(weights.double()).numpy()
        # Where rows are weighed, a row's weight itself: shared out over its tokens it would favour short rows.
        own = boosted.samples.to_tokens(weights.double()).numpy()
        found = find_wrong(row_means(own, table.offsets.numpy()), wrong)
        entries.append(
            {"round": number, "token_share": float(wrong[owner].mean()),
             "weight_share": share_on_wrong(on_tokens, wrong[owner]), **(found._asdict() if found else {})}
        )  # fmt: skip
    return entries


def _by_loss(counts: Mapping[str, Counts], changed: set[str]) -> Record:
    loss = np.array([nats / tokens for _, tokens, nats in counts.values()])
    found = find_wrong(loss, np.array([row_id in changed for row_id in counts]))
    return found._asdict() if found else {}


def _learned(given: Mapping[str, Counts], true: Mapping[str, Counts], changed: set[str]) -> Record:
    """Shares of rows whose every token is the likeliest one, which is what greedy decoding would write."""
    wrong = [_whole(counts) for row_id, counts in given.items() if row_id in changed]
    others = [_whole(counts) for row_id, counts in given.items() if row_id not in changed]
    return {
        "wrong_rows": len(wrong),
        "memorised": _share(wrong),
        "corrected": _share([_whole(counts) for counts in true.values()]),
        "other_rows": len(others),
        "fitted": _share(others),
    }


def _whole(counts: Counts) -> bool:
    return counts[0] == counts[1]


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None

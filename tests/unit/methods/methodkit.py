"""A bench made of tables: experts are numbered, and everything asked for is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ensemw2s.data.rows import Row
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.methods.bench import Answer, Expert, Members

ROWS = [Row(f"r{i}", f"q{i}", f"a {i}") for i in range(4)]


class TableBench:
    """Experts are numbered; ``wrong[k]`` says where the k-th one errs. Everything asked for is written down."""

    def __init__(self, wrong: Sequence[Sequence[int]], scores: Mapping[float, float] | None = None) -> None:
        self.wrong = [torch.tensor(w, dtype=torch.bool) for w in wrong]
        self.trained: list[dict] = []
        self.scores = scores or {}
        self.before: list[Tensor] = []

    def each(self, calls):  # type: ignore[no-untyped-def]
        return [call() for call in calls]

    def pretrained(self, role: str, base: int = 0) -> Expert:
        return Expert(role, "pretrained" + "'" * base, None, base=base)  # type: ignore[arg-type]

    def vocabulary_size(self, role: str) -> int:
        return 50

    def fine_tune(self, role, rows, settings, *, seed, token_weights=None, base=0, **more) -> Expert:  # type: ignore[no-untyped-def]
        call = {"role": role, "rows": rows, "settings": settings, "seed": seed, "weights": token_weights, "base": base}
        self.trained.append({**call, **more})
        return Expert(role, str(len(self.trained)), None, base=base)

    def token_table(self, expert: Expert, rows: Sequence[Row]) -> ExpertTokens:
        if expert.identity.startswith("pretrained"):
            wrong = self.before[expert.base] if self.before else self.wrong[0]
        else:
            wrong = self.wrong[int(expert.identity)]
        return table(wrong, [row.id for row in rows])

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> dict[str, Answer]:
        call = self.trained[int(members.experts[0].identity) - 1]
        return {"score": Answer(str(call["settings"].epochs + 100 * call["base"]), 1.0, 1.0)}

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        return self.scores[float(answers["score"].text)]


def table(wrong: Tensor, ids: Sequence[str], log_prob: Tensor | None = None) -> ExpertTokens:
    """Two tokens a row; the label is 7, a wrong expert says 3."""
    count = len(wrong)
    offsets = torch.arange(0, count + 1, 2) if count else torch.zeros(1, dtype=torch.int64)
    label, zeros = torch.full((count,), 7), torch.zeros(count)
    top = torch.where(wrong, torch.tensor(3), label)
    return ExpertTokens(
        tuple(ids), offsets, label, zeros if log_prob is None else log_prob, top, zeros, zeros, zeros - 2
    )

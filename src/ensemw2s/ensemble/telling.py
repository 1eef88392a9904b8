"""What is told of chosen tokens: log-probabilities, the likeliest others, the experts' votes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemw2s.ensemble.asking import Ask, Told
from ensemw2s.ensemble.record import Vote


def tell(log_probs: Tensor, mixed: Tensor, chosen: Tensor, asks: Sequence[Ask]) -> list[Told]:
    """One :class:`Told` a row, with what its request asks for.

    Args:
        log_probs: ``[expert, batch, vocab]``.
        mixed: the mixture, ``[batch, vocab]``.
        chosen: int64 ``[batch]``.
        asks: one a row.
    """
    ids = chosen.tolist()
    own = mixed.gather(-1, chosen[:, None])[:, 0].tolist()
    tops = _tops(mixed, [ask.top for ask in asks])
    votes = _votes(log_probs, chosen, [place for place, ask in enumerate(asks) if ask.votes])
    return [
        Told(token, log_prob, tops.get(place, []), votes.get(place))
        for place, (token, log_prob) in enumerate(zip(ids, own, strict=True))
    ]


def _tops(mixed: Tensor, wanted: Sequence[int]) -> dict[int, list[tuple[int, float]]]:
    places = [place for place, count in enumerate(wanted) if count]
    if not places:
        return {}
    most = min(max(wanted), mixed.shape[-1])
    values, ids = mixed[torch.tensor(places, device=mixed.device)].topk(most, dim=-1)
    pairs = zip(places, values.tolist(), ids.tolist(), strict=True)
    return {place: list(zip(i, v, strict=True))[: wanted[place]] for place, v, i in pairs}


def _votes(log_probs: Tensor, chosen: Tensor, places: Sequence[int]) -> dict[int, list[Vote]]:
    if not places:
        return {}
    index = torch.tensor(places, device=log_probs.device)
    views = log_probs[:, index]  # [expert, rows, vocab]
    tops = views.argmax(dim=-1)
    picks = torch.stack([chosen[index].expand_as(tops), tops], dim=-1)
    probs = views.gather(-1, picks).exp().transpose(0, 1).tolist()  # [rows, expert, 2]
    return {
        place: [Vote(top, *pair) for top, pair in zip(own, both, strict=True)]
        for place, own, both in zip(places, tops.T.tolist(), probs, strict=True)
    }

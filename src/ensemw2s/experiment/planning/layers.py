"""Models of fewer layers that stand for one of many, where its layers are alike."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

_FEW = (2, 3)  # periods of layers that are traced forward; backward one more


def cut(config: Any, layers: int) -> Any:
    """The same configuration with its first ``layers`` layers only; lists with an entry a layer are cut with it."""
    depth = config.num_hidden_layers
    short = copy.deepcopy(config)
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == depth:
            setattr(short, name, value[:layers])
    short.num_hidden_layers = layers
    return short


def depths(config: Any, *, backward: bool) -> tuple[int, ...]:
    """Two numbers of layers from which the whole model's follows, or its own alone where none do.

    They are two and three periods, backward three and four (a model of alternating layers has a period of two), and
    what the whole has beyond whole periods.
    """
    depth = getattr(config, "num_hidden_layers", None)
    if depth is None or config.get_text_config() is not config:
        return (depth or 0,)
    kinds = [value for value in config.to_dict().values() if isinstance(value, list) and len(value) == depth]
    period = _period([tuple(map(str, kind)) for kind in zip(*kinds, strict=True)])
    few = [(times + backward) * period + depth % period for times in _FEW]
    return tuple(few) if few[-1] < depth else (depth,)


def _period(kinds: Sequence[Any]) -> int:
    """The least p with which every layer is of the kind of the one p before it; 1 where nothing is said of them."""
    for p in range(1, len(kinds)):
        if all(a == b for a, b in zip(kinds, kinds[p:], strict=False)):
            return p
    return max(1, len(kinds))


def stack(model: Any, layers: int) -> Any:
    """The list of a model's layers, the largest of so many modules; None where there is none."""
    from torch import nn

    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layers]
    return max(found, key=lambda some: sum(p.numel() for p in some.parameters()), default=None)

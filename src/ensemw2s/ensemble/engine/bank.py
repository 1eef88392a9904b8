"""A bank: all experts of an ensemble behind one forward pass. One class for every way to compute it.

``choose.make_bank`` takes the way that fits; whoever decodes or scores asks a bank and does not know which it is.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, StaticCache

from ensemw2s.ensemble.engine.cache import EnsembleCache
from ensemw2s.ensemble.engine.growing import ROOM, growing_cache
from ensemw2s.ensemble.engine.stacked import Switch
from ensemw2s.ensemble.experts import accepts, device_of, vocabulary_size


class Bank(nn.Module, abc.ABC):
    """Logits of all experts for one batch.

    Attributes:
        name: of the way, short.
        why: it was taken, in words.
        experts: models one by one, in the ensemble's order; each can be scored alone.
    """

    name = "bank"
    why = ""
    experts: Sequence[Any]

    @property
    def size(self) -> int:
        """Number of experts."""
        return len(self.experts)

    @property
    def vocabulary(self) -> int:
        """Width of the output layer."""
        return vocabulary_size(self.experts[0])

    @property
    def device(self) -> torch.device:
        """Where inputs have to be."""
        return device_of(self.experts[0])

    @abc.abstractmethod
    def new_cache(self, static: int | None = None, room: int = ROOM) -> EnsembleCache:
        """An empty cache.

        Args:
            static: the cache's length in tokens, for ever; None grows as needed.
            room: tokens expected after the first ones; a hint.
        """

    @abc.abstractmethod
    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: EnsembleCache | None = None,
        keep: int | Tensor = 0,
    ) -> Tensor:
        """Every expert's logits.

        Args:
            input_ids: int64 ``[batch, seq]``, the same for all experts.
            attention_mask: int64 ``[batch, cached + seq]``, 1 on real tokens; None without padding.
            position_ids: int64 ``[batch, seq]``; None counts from the cache's length.
            cache: of this bank; gets the new tokens.
            keep: positions to compute logits at: the last so many (0 is all of them), or these columns.

        Returns:
            ``[expert, batch, kept, vocab]`` in the experts' dtype.
        """


def _part(model: Any, static: int | None, room: int) -> Cache:
    config = model.config
    return growing_cache(config, room) if static is None else StaticCache(config=config, max_cache_len=static)


def run_model(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: Cache | None,
    keep: int | Tensor,
) -> Tensor:
    """One model's logits ``[rows, kept, vocab]``, asked with the arguments that its family knows."""
    options: dict[str, Any] = {}
    if position_ids is not None and accepts(model, "position_ids"):
        options["position_ids"] = position_ids
    picks = accepts(model, "logits_to_keep")
    if picks:
        options["logits_to_keep"] = keep
    if cache is not None:
        options["past_key_values"] = cache
    logits: Tensor = model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=cache is not None, **options
    ).logits
    if picks or (isinstance(keep, int) and keep == 0):
        return logits
    return logits[:, -keep:] if isinstance(keep, int) else logits[:, keep]


class Turns(Bank):
    """One expert after the other, each with its own cache: for any models over one vocabulary.

    Args:
        models: T causal LMs.
        why: this way was taken.
    """

    name = "turns"

    def __init__(self, models: Sequence[Any], why: str = "asked for") -> None:
        super().__init__()
        self.experts = nn.ModuleList(models)  # type: ignore[assignment]
        self.why = why

    def new_cache(self, static: int | None = None, room: int = ROOM) -> EnsembleCache:
        """See :class:`Bank`."""
        return EnsembleCache([_part(model, static, room) for model in self.experts])

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: EnsembleCache | None = None,
        keep: int | Tensor = 0,
    ) -> Tensor:
        """See :class:`Bank`. Experts on several devices each get their inputs there; logits come to the first's."""
        if cache is not None:
            cache.rows = len(input_ids)
        home, found = self.device, []
        for place, model in enumerate(self.experts):
            device = device_of(model)
            inputs = [None if t is None else t.to(device) for t in (input_ids, attention_mask, position_ids)]
            part = None if cache is None else cache.parts[place]
            found.append(run_model(model, inputs[0], inputs[1], inputs[2], part, keep).to(home))  # type: ignore[arg-type]
        return torch.stack(found)


class SideBySide(Bank):
    """One model whose layers hold all experts; it is fed expert-major rows.

    Args:
        model: the stacked model.
        experts: views of it, one expert each.
        switch: of its layers.
        name: of the way.
        why: it was taken.
    """

    def __init__(self, model: nn.Module, experts: Sequence[Any], switch: Switch, name: str, why: str) -> None:
        super().__init__()
        self.model, self.switch = model, switch
        self.experts = nn.ModuleList(experts)  # type: ignore[assignment]
        self.name, self.why = name, why

    def new_cache(self, static: int | None = None, room: int = ROOM) -> EnsembleCache:
        """See :class:`Bank`."""
        return EnsembleCache([_part(self.model, static, room)], copies=self.size)

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: EnsembleCache | None = None,
        keep: int | Tensor = 0,
    ) -> Tensor:
        """See :class:`Bank`."""
        if cache is not None:
            cache.rows = len(input_ids)
        if position_ids is None:  # made here, one for every row: no layer has to guess whose they are
            start = 0 if cache is None else cache.get_seq_length()
            places = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)
            position_ids = places.expand(len(input_ids), -1)
        rows = [None if t is None else t.repeat(self.size, 1) for t in (input_ids, attention_mask, position_ids)]
        part = None if cache is None else cache.parts[0]
        logits = run_model(self.model, rows[0], rows[1], rows[2], part, keep)  # type: ignore[arg-type]
        return logits.view(self.size, len(input_ids), logits.shape[1], logits.shape[2])


class ExpertView(nn.Module):
    """One expert of a stacked model, usable wherever a causal LM is scored or decoded alone.

    Args:
        model: the stacked model, shared by all views.
        switch: of its layers.
        number: the expert's place in the stack.
        total: experts in the stack.
        source: what the expert was made of, for saving it again.
        packed: whether the stack's weights may be packed.
    """

    def __init__(
        self, model: nn.Module, switch: Switch, number: int, total: int, source: Any, *, packed: bool = False
    ) -> None:
        super().__init__()
        self.model, self.switch, self.number, self.total, self.packed = model, switch, number, total, packed
        self._source = (source,)  # in a tuple, so that it is no part of this module

    @property
    def source(self) -> Any:
        """What the expert was made of."""
        return self._source[0]

    @property
    def config(self) -> Any:
        """The base's."""
        return self.model.config

    @property
    def generation_config(self) -> Any:
        """The base's."""
        return self.model.generation_config

    def get_base_model(self) -> Any:
        """The stacked model: what takes the arguments."""
        return self.model

    def get_output_embeddings(self) -> Any:
        """The stacked model's output layer."""
        return self.model.get_output_embeddings()  # type: ignore[operator]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base model's, for this expert alone."""
        with self.switch.at(self.number):
            return self.model(*args, **kwargs)

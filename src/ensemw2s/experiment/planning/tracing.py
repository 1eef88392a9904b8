"""Peak memory of a forward and a backward pass, by running them on tensors that have shapes and no numbers.

torch's fake tensors go through the model's own code, so whatever an architecture keeps for its backward pass (float32
norms, casts of weights under autocast, what checkpointing drops) is counted and not estimated. The usual closed form,
s·b·h·(34 + 5·a·s/h) bytes a layer (Korthikanti et al. 2022, arXiv:2205.05198, equation 1), holds for one architecture
in half precision with dropout; its attention term 5·a·s/h is not there with fused attention.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ensemw2s.experiment.planning.shapes import build
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.models.heads import answer_logits


class Peak(TorchDispatchMode):
    """Counts bytes of storages that come into being while it is on, and the most that live at once.

    Attributes:
        live: bytes alive now.
        peak: the most so far.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = weakref.WeakKeyDictionary[Any, int]()
        for tensor in known:  # these were there before
            self._seen[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = size
        weakref.finalize(storage, self._gone, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, size: int) -> None:
        self.live -= size


def _fake_model(config: Any, dtype: str, tuning: str, lora: LoraSettings) -> Any:
    """The model with fake tensors on a fake CPU; to be called, and used, inside ``FakeTensorMode``.

    It is built on the meta device first: PEFT moves its layers about in ways that fake tensors refuse.
    """
    with unset_fake_temporarily(), torch.device("meta"):
        model = build(config, dtype, tuning, lora)
    made: dict[int, Any] = {}  # tied parameters stay one
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return model


def training_peak(
    config: Any, dtype: str, tuning: str, lora: LoraSettings, *, rows: int, length: int, answers: int,
    checkpointing: bool = False,
) -> int:  # fmt: skip
    """Bytes that one micro-batch adds to weights and moments at its highest point, gradients among them.

    Args:
        config: of transformers.
        dtype: of the weights.
        tuning: "full" or "lora".
        lora: of the adapter.
        rows, length: of the micro-batch, padding included.
        answers: answer positions in it, at which the output layer runs.
        checkpointing: gradient checkpointing.
    """
    with FakeTensorMode():
        model = _fake_model(config, dtype, tuning, lora)
        for parameter in model.parameters():  # as ``training.finetune`` does
            if parameter.requires_grad and parameter.dtype == torch.bfloat16:
                parameter.data = parameter.data.float()
        if checkpointing:
            newer = getattr(model, "activation_checkpointing_enable", None)  # older transformers have the other name
            (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
        model.train()
        ids, positions = torch.zeros(rows, length, dtype=torch.int64), torch.zeros(answers, dtype=torch.int64)
        mixed = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()) or dtype == "bfloat16"
        with Peak([*model.parameters(), *model.buffers()]) as peak:
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                logits = answer_logits(model, ids, None, positions)
                loss = torch.nn.functional.cross_entropy(logits.float(), positions, reduction="sum")
            del logits
            loss.backward()
        return peak.peak


def reading_peak(config: Any, dtype: str, *, rows: int, length: int, answers: int, cached: bool = False) -> int:
    """Bytes that a forward pass without gradient adds to the weights at its highest point.

    Args:
        config, dtype, rows, length: as ``training_peak``.
        answers: positions at which the output layer runs; with ``cached`` it is the last one of every row.
        cached: keys and values are kept, and counted.
    """
    with FakeTensorMode():
        model = _fake_model(config, dtype, "full", LoraSettings()).eval()
        ids, positions = torch.zeros(rows, length, dtype=torch.int64), torch.zeros(answers, dtype=torch.int64)
        with torch.no_grad(), Peak([*model.parameters(), *model.buffers()]) as peak:
            if cached:
                model(input_ids=ids, use_cache=True, logits_to_keep=1)
            else:
                answer_logits(model, ids, None, positions)
        return peak.peak

"""Peak memory of a forward and a backward pass, by running them on tensors that have shapes and no numbers.

torch's fake tensors go through the model's own code, so whatever an architecture keeps for its backward pass (float32
norms, casts of weights under autocast, what checkpointing drops) is counted and not estimated. The usual closed form,
s·b·h·(34 + 5·a·s/h) bytes a layer (Korthikanti et al. 2022, arXiv:2205.05198, equation 1), holds for one architecture
in half precision with dropout; its attention term 5·a·s/h is not there with fused attention.

Deep models of like layers are traced with few layers. What lives in the first or the last layer, in the output layer,
and in the backward pass of either grows by the same bytes with every layer more, so two depths give each of these peaks
for any depth. In between what lives changes by the same bytes from layer to layer, so the highest is at an end. A few
allocations depend on what a neighbour left (casts that autocast kept); of models of seven layers and more the trace of
few was that of all to the byte, but for one at 2 % less (GPT-NeoX in bfloat16, LoRA, checkpointing, 32 tokens).
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ensemw2s.experiment.planning.layers import cut, depths, stack
from ensemw2s.experiment.planning.shapes import build
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.models.heads import answer_logits


class Peak(TorchDispatchMode):
    """Counts bytes of storages that come into being while it is on, and the most that live at once.

    Attributes:
        live: bytes alive now.
        parts: the most between one mark and the next; the last one is still growing.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live, self.parts = 0, [0]
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
        self.parts[-1] = max(self.parts[-1], self.live)

    @property
    def peak(self) -> int:
        """The most so far."""
        return max(self.parts)

    def mark(self) -> None:
        """Begin a new part."""
        self.parts.append(self.live)

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


@dataclasses.dataclass(frozen=True)
class Pass:
    """A pass over one batch.

    Attributes:
        dtype: of the weights.
        rows, length: of the batch, padding included.
        answers: positions in it at which the output layer runs; with ``cached`` it is the last one of every row.
        tuning: "full" or "lora".
        lora: of the adapter.
        backward: with gradients, as in training.
        checkpointing: gradient checkpointing.
        cached: keys and values are kept, and counted.
    """

    dtype: str
    rows: int
    length: int
    answers: int
    tuning: str = "full"
    lora: LoraSettings = LoraSettings()
    backward: bool = False
    checkpointing: bool = False
    cached: bool = False


def peak(config: Any, a_pass: Pass, *, whole: bool = False) -> int:
    """Bytes that a pass adds to weights and moments at its highest point, gradients among them.

    Args:
        config: of transformers.
        a_pass: what is done.
        whole: trace all layers, even where few give the same.
    """
    few = depths(config, backward=a_pass.backward)
    if whole or len(few) == 1:
        return max(trace(config, a_pass))
    cuts = [trace(cut(config, layers), a_pass, layers) for layers in few]
    if any(len(parts) != _parts(layers, a_pass) for layers, parts in zip(few, cuts, strict=True)):
        return max(trace(config, a_pass))  # layers that are not found, or of which not all take part
    period = few[1] - few[0]
    short, longer = ([parts[end] for end in _ends(n, period, a_pass)] for n, parts in zip(few, cuts, strict=True))
    times = (config.num_hidden_layers - few[1]) // period
    return max(b + times * (b - a) for a, b in zip(short, longer, strict=True))


def _parts(layers: int, a_pass: Pass) -> int:
    return 1 + layers * (2 if a_pass.backward else 1)


def _ends(layers: int, period: int, a_pass: Pass) -> list[int]:
    """Which of ``trace``'s parts bound all others: the outer layers at either end, and the output.

    Backward the two outermost periods count: the last layer's pass has the output layer's before it, and the first
    one's has nothing to hand on, so either may peak lower than its neighbour.
    """
    found = [*range(period), *range(layers - period, layers + 1)]
    if a_pass.backward:
        end = 2 * layers + 1
        found += [*range(layers + 1, layers + 1 + 2 * period), *range(end - 2 * period, end)]
    return found


def trace(config: Any, a_pass: Pass, layers: int | None = None) -> list[int]:
    """Peaks of a pass's parts, in bytes: up to the end of each layer, the output layer, and each layer backward.

    Args:
        config: of transformers.
        a_pass: what is done.
        layers: where to cut the pass; None gives one part.
    """
    with FakeTensorMode():
        model = _fake_model(config, a_pass.dtype, a_pass.tuning, a_pass.lora)
        ids = torch.zeros(a_pass.rows, a_pass.length, dtype=torch.int64)
        positions = torch.zeros(a_pass.answers, dtype=torch.int64)
        counter = Peak([*model.parameters(), *model.buffers()])
        if a_pass.backward:
            _prepare(model, a_pass)
            marks = _Marks(model, counter, layers)
            with counter:
                _there_and_back(model, ids, positions, a_pass, marks)
            return counter.parts
        model.eval()
        _Marks(model, counter, layers)
        with torch.no_grad(), counter:
            if a_pass.cached:
                model(input_ids=ids, use_cache=True, logits_to_keep=1)
            else:
                answer_logits(model, ids, None, positions)
        return counter.parts


class _Marks:
    """Marks a counter whenever a layer has been read, forward and backward; recomputed layers are not marked."""

    def __init__(self, model: Any, counter: Peak, layers: int | None) -> None:
        self.counter, self.forward = counter, True
        for layer in (stack(model, layers) or []) if layers is not None else []:
            layer.register_forward_hook(self._read)

    def _read(self, _module: Any, _arguments: Any, output: Any) -> None:
        if not self.forward:
            return
        self.counter.mark()
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _gradient: self.counter.mark())


def _prepare(model: Any, a_pass: Pass) -> None:
    """As ``training.finetune`` does."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    if a_pass.checkpointing:
        newer = getattr(model, "activation_checkpointing_enable", None)  # older transformers have the other name
        (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.train()


def _there_and_back(model: Any, ids: Tensor, positions: Tensor, a_pass: Pass, marks: _Marks) -> None:
    mixed = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()) or a_pass.dtype == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        logits = answer_logits(model, ids, None, positions)
        loss = torch.nn.functional.cross_entropy(logits.float(), positions, reduction="sum")
    del logits
    marks.forward = False
    loss.backward()

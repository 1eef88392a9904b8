"""The gradient of one optimiser step: micro-batches, memory that runs out, losses over the whole step, processes."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemw2s import parallel
from ensemw2s.errors import ModelError
from ensemw2s.seeds import derive_seed
from ensemw2s.training.batches import FlatRows
from ensemw2s.training.forward import output_width, plain_logits, short_logits, shortcut_agrees
from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings, Overview
from ensemw2s.training.settings import TrainSettings
from ensemw2s.training.sharing import all_sum, gather_notes, micro_batches, sum_gradients

log = logging.getLogger("ensemw2s.training")

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


class Stepper:
    """Computes the gradient of a step's rows into the parameters.

    Args:
        model: as in ``fine_tune``, or a sharded copy of it (``training.sharded``).
        rows: all rows of the run.
        settings: of the run.
        seed: of the run.
        loss_settings: what is minimised.
        autocast: opens the context that forward passes run in.
        device: where inputs go.

    Attributes:
        parameters: the trainable ones.
        micro_batch: rows a forward pass; None is the whole step. Halved where memory runs out.
    """

    def __init__(
        self,
        model: Any,
        rows: FlatRows,
        settings: TrainSettings,
        seed: int,
        loss_settings: LossSettings,
        autocast: Autocast,
        device: torch.device,
    ) -> None:
        self.model, self.rows, self.settings, self.seed = model, rows, settings, seed
        self.loss, self.loss_settings, self.autocast = LOSSES.get(loss_settings.name), loss_settings, autocast
        self.overview: Overview | None = getattr(self.loss, "overview", None)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = device
        self.micro_batch = settings.micro_batch_size
        self.shared, self.sharded = parallel.world() > 1, parallel.sharded()
        # The shortest and the longest row together: padding is in the probe.
        ends = np.unique([int(rows.lengths.argmin()), int(rows.lengths.argmax())])
        self._probe = rows.micro_batch(ends).to(device)
        with autocast():
            agrees = not parallel.largest(not shortcut_agrees(model, self._probe))[0]
        self.logits = short_logits if agrees else plain_logits

    def output_width(self) -> int:
        """How many tokens (or classes) the model tells apart."""
        with self.autocast():
            return output_width(self.model, self._probe)

    def gradient(self, batch: np.ndarray, step: int, progress: float) -> Tensor:
        """Leave the clipped mean gradient of these rows in the parameters.

        Args:
            batch: int64 ``[row]``, the step's rows, on all processes the same.
            step: number of the step, from 0.
            progress: share of the steps done.

        Returns:
            The mean loss and the gradient's norm before clipping, float32 ``[2]``, still on the device.

        Raises:
            ModelError: a single row does not fit the memory.
        """
        if self.shared:  # every process its own dropout; by step, so that a checkpoint need not hold all generators
            torch.manual_seed(derive_seed(self.seed, "dropout", parallel.rank(), step))
        summed, total = self._within_memory(batch, progress)
        if self.shared:
            sums = torch.stack([summed.double(), total.double()])
            summed, total = sum_gradients(self.parameters, sums, summed=self.sharded).unbind()
        dtype = torch.promote_types(torch.float32, self.parameters[0].dtype)  # the same where a process had no rows
        summed, total = summed.to(dtype), total.to(dtype)
        norm = self._finish(total)
        return torch.stack([summed / total, norm]).float()

    def _within_memory(self, batch: np.ndarray, progress: float) -> tuple[Tensor, Tensor]:
        """Sum of losses and of weights over this process's rows of the step, gradients left in the parameters.

        Where the memory does not suffice, the micro-batch is halved, for this step and all that follow.
        """
        while True:
            # Tried again from where the generators stood: the step comes out as with the smaller micro-batch from the
            # start. Against the larger one it differs in rounding and, with dropout, in the masks drawn (ADR 10).
            generators = torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda(self.device))
            size = min(self.micro_batch or len(batch), len(batch))
            try:
                return self._by(size, batch, progress)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._check_retry(size, batch, error)
            self.micro_batch = (size + 1) // 2
            log.warning("out of memory with %d rows at once: trying again with %d", size, self.micro_batch)
            for parameter in self.parameters:
                parameter.grad = None
            torch.set_rng_state(generators[0])
            for device, state in zip(cuda(self.device), generators[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _check_retry(self, size: int, batch: np.ndarray, error: BaseException) -> None:
        """Raises ModelError where nothing is gained by fewer rows, or this process cannot try again by itself."""
        if size == 1:
            longest = int(self.rows.lengths[batch].max())
            raise ModelError(
                f"out of memory: not even one row (of up to {longest} tokens) fits; shorten rows, use gradient "
                "checkpointing, LoRA or a smaller model"
            ) from error
        if self.sharded or (self.shared and self.overview is not None):
            raise ModelError(
                f"out of memory with {size} rows at once, in a step whose passes all processes take together: set "
                f"train.micro_batch_size to {(size + 1) // 2} or less"
            ) from error

    def _by(self, size: int, batch: np.ndarray, progress: float) -> tuple[Tensor, Tensor]:
        parts = micro_batches(batch, self.rows.lengths, size, even=self.sharded)
        noted = None
        if self.overview is not None and (self.shared or len(parts) > 1):
            noted = self._look_over(parts, batch, progress)
        sums, totals = [], []
        for part in parts:
            with self.autocast():
                summed, total = self.loss(self._see(part, batch, progress, noted), self.loss_settings)
            summed.backward()
            sums.append(summed.detach())
            totals.append(total)
        if not parts:  # more processes than rows
            return torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        return torch.stack(sums).sum(), torch.stack(totals).sum()

    def _see(self, part: np.ndarray, batch: np.ndarray, progress: float, noted: Tensor | None = None) -> LossBatch:
        """One forward pass over some rows.

        A process that is out of rows, but must take part in the pass, looks at one row that counts nothing.
        """
        micro = self.rows.micro_batch(part if len(part) else batch[:1]).to(self.device)
        weights = micro.weights if len(part) else torch.zeros_like(micro.weights)
        logits = self.logits(self.model, micro)
        return LossBatch(
            logits, micro.labels, weights, micro.soft_ids, micro.soft_probs, progress, noted, self.settings.robustness
        )

    def _look_over(self, parts: list[np.ndarray], batch: np.ndarray, progress: float) -> Tensor | None:
        """What the loss notes of the whole step, ``[tokens of the step, c]``: one more pass, without gradient."""
        assert self.overview is not None
        noted: list[Tensor | None] = []
        # The generators are put back, so that the pass with gradient sees the same dropout.
        with torch.no_grad(), torch.random.fork_rng(devices=cuda(self.device)), self.autocast():
            for part in parts:
                note = self.overview(self._see(part, batch, progress), self.loss_settings)
                noted.append(note if len(part) else None)
                if note is None and not self.sharded:
                    break
        found = gather_notes(noted, self.device)
        if found is None:
            self.overview = None
        return found

    def _finish(self, total: Tensor) -> Tensor:
        """Divide by the step's total weight, once, and clip; returns the norm before clipping."""
        gradients = [self._own(parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.sharded:  # the parts' squares add up to the whole's
            square = norm.square()
            all_sum([square])
            norm = square.sqrt()
        norm = norm / total
        scale = 1.0 / total
        if self.settings.gradient_clip is not None:
            scale = scale * (self.settings.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        return norm

    def finite(self) -> bool:
        """Whether all trainable weights are, on every process."""
        own = all(bool(self._own(parameter.detach()).isfinite().all()) for parameter in self.parameters)
        return not parallel.largest(not own)[0]

    def _own(self, tensor: Tensor) -> Tensor:
        """Our part of a tensor."""
        if not self.sharded:
            return tensor
        from ensemw2s.training.sharded import own_part

        return own_part(tensor)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the CPU (which has no error class for it)."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def cuda(device: torch.device) -> list[int]:
    """Devices, besides the CPU, whose generators are in use."""
    return [device.index or 0] if device.type == "cuda" else []

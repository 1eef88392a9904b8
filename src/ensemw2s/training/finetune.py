"""The one training loop: experts, students, ceilings and baselines all come through here."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ensemw2s import interrupts
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.seeds import derive_seed
from ensemw2s.training.batches import FlatRows, flatten_rows, plan_epoch
from ensemw2s.training.checkpoint import Checkpoints, Progressed
from ensemw2s.training.forward import output_width, plain_logits, short_logits, shortcut_agrees
from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings, Overview
from ensemw2s.training.settings import TrainSettings, count_steps, learning_rate_factor

if TYPE_CHECKING:
    from ensemw2s.data.encoding import EncodedRow
    from ensemw2s.data.targets import SoftTargets

log = logging.getLogger("ensemw2s.training")

#: Called after every optimiser step with (steps done, steps in all).
Progress = Callable[[int, int], None]

#: Called with (steps done before, mean losses of the steps since, nats a token), whenever losses are fetched.
Watch = Callable[[int, list[float]], None]

#: Losses are fetched from the device and looked at this often; a fetch makes an accelerator wait.
_CHECK_EVERY = 32


class TrainingDiverged(ModelError):
    """The loss or the weights are no longer finite."""


class TrainResult(NamedTuple):
    """What a run did.

    Attributes:
        steps: optimiser steps.
        tokens: tokens fed to the model, padding not counted.
        answer_tokens: targets with weight above 0, over all epochs.
        seconds: wall time.
        losses: weighted mean loss of every step, nats a token.
    """

    steps: int
    tokens: int
    answer_tokens: int
    seconds: float
    losses: list[float]


def fine_tune(
    model: Any,
    encoded: Sequence[EncodedRow],
    settings: TrainSettings,
    *,
    seed: int,
    token_weights: Tensor | None = None,
    pad_token_id: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    loss: str | LossSettings = "cross_entropy",
    soft: SoftTargets | None = None,
    checkpoints: Checkpoints | None = None,
    watch: Watch | None = None,
) -> TrainResult:
    """Train the model's trainable parameters in place on weighted answer tokens.

    Minimises Σ w · loss / Σ w over the rows of each optimiser step. Padding, prompt tokens and the split into
    micro-batches change nothing. A model whose trainable weights are bfloat16 is trained with float32 copies under
    autocast and comes back as bfloat16. The model ends in evaluation mode; torch's global generators are untouched.

    Args:
        model: a causal language model of transformers, with or without a PEFT adapter; or a class model, whose
            ``forward(input_ids, attention_mask, use_cache)`` gives ``.logits [batch, seq, classes]``.
        encoded: rows to train on. A class model's have the index of their class as the only answer token; the last
            answer token is never fed.
        settings: see ``TrainSettings``.
        seed: fixes the order of rows and the dropout.
        token_weights: float ``[token]`` over all answer tokens of ``encoded``, row after row; None is 1 everywhere.
            Tokens of weight 0 are masked, and rows of such tokens only are skipped.
        pad_token_id: any valid token id.
        device: where to train; None leaves the model where it is.
        progress: called after every step with (steps done, steps in all).
        loss: its settings, or only a name in ``LOSSES``.
        soft: a teacher's distributions over all answer tokens of ``encoded``, where the loss wants them.
        checkpoints: where the run keeps what it has, and goes on from. A run that is stopped by a signal saves first.
        watch: called with (steps done before, losses of the steps since) every few dozen steps.

    Raises:
        DataError: rows, weights or soft labels that cannot be trained on.
        ConfigError: unknown loss, one that wants soft labels without any, or soft labels of more tokens than the
            model has.
        ModelError: nothing is trainable, or float16 weights.
        TrainingDiverged: a loss, gradient or weight is not finite.
    """
    start = time.perf_counter()
    loss_settings = LossSettings(loss) if isinstance(loss, str) else loss
    if loss_settings.needs_soft and soft is None:
        raise ConfigError(
            f"loss '{loss_settings.name}' with targets '{loss_settings.targets}' learns from a teacher's "
            "probabilities, and there are none: train from an ensemble's labels, or use loss.name=cross_entropy, "
            "loss.targets=hard"
        )
    rows = flatten_rows(encoded, token_weights, pad_token_id, soft if loss_settings.needs_soft else None)
    if device is not None:
        model.to(device)
    with interrupts.deferred(), _training_mode(model, settings, seed) as autocast:
        run = _Run(model, rows, settings, seed, loss_settings, autocast)
        tokens, answer_tokens, losses = run.train(progress, checkpoints, watch)
    return TrainResult(len(losses), tokens, answer_tokens, time.perf_counter() - start, losses)


class _Run:
    """The loop's fixed parts, so that its steps stay short."""

    def __init__(
        self,
        model: Any,
        rows: FlatRows,
        settings: TrainSettings,
        seed: int,
        loss_settings: LossSettings,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> None:
        self.model, self.rows, self.settings, self.seed = model, rows, settings, seed
        self.loss, self.loss_settings, self.autocast = LOSSES.get(loss_settings.name), loss_settings, autocast
        self.overview: Overview | None = getattr(self.loss, "overview", None)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = self.parameters[0].device
        self.micro_batch = settings.micro_batch_size
        self.optimizer = make_optimizer(self.parameters, settings)

    def train(
        self, progress: Progress | None, checkpoints: Checkpoints | None, watch: Watch | None
    ) -> tuple[int, int, list[float]]:
        """Run all steps; returns tokens, answer tokens and the loss of every step."""
        rows, settings = self.rows, self.settings
        steps, pending = count_steps(settings, len(rows)), list[Tensor]()
        target_counts = np.diff(rows.target_offsets)
        # The shortest and the longest row together: padding is in the probe.
        ends = np.unique([int(rows.lengths.argmin()), int(rows.lengths.argmax())])
        probe = rows.micro_batch(ends).to(self.device)
        with self.autocast():
            self.logits = short_logits if shortcut_agrees(self.model, probe) else plain_logits
            if rows.soft is not None:
                _check_vocabulary(rows.soft, output_width(self.model, probe))
        found = None if checkpoints is None else checkpoints.load(self.parameters, self.optimizer, self.device)
        done = found or Progressed(0, 0, 0, [])
        first = done.step
        for step, batch in zip(range(steps), self._batches(), strict=False):
            if step < first:
                continue
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate * learning_rate_factor(settings, step, steps)
            pending.append(self._step(batch, step / steps))
            done.step = step + 1
            done.tokens += int(rows.lengths[batch].sum())
            done.answer_tokens += int(target_counts[batch].sum())
            keep = checkpoints is not None and (checkpoints.due() or interrupts.requested())
            if len(pending) == _CHECK_EVERY or step + 1 == steps or keep:
                fetched = _checked(pending, len(done.losses))
                if watch is not None:
                    watch(len(done.losses), fetched)
                done.losses += fetched
                pending.clear()
            if checkpoints is not None and keep and step + 1 < steps:
                checkpoints.save(done, self.parameters, self.optimizer, self.device)
            if progress is not None:
                progress(step + 1, steps)
            interrupts.stop_if_requested()
        _check_weights(self.parameters, steps)
        return done.tokens, done.answer_tokens, done.losses

    def _batches(self) -> Iterator[np.ndarray]:
        epoch = 0
        while True:
            yield from plan_epoch(self.rows.lengths, self.settings, self.seed, epoch)
            epoch += 1

    def _step(self, batch: np.ndarray, progress: float) -> Tensor:
        """One optimiser step; returns the mean loss and the gradient's norm, float32 ``[2]``, still on the device."""
        summed, total = self._gradient(batch, progress)
        norm = self._finish_gradient(total)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return torch.stack([summed / total, norm]).float()

    def _gradient(self, batch: np.ndarray, progress: float) -> tuple[Tensor, Tensor]:
        """Sum of losses and of weights over the step's rows, gradients left in the parameters.

        Where the memory does not suffice, the micro-batch is halved, for this step and all that follow.

        Raises:
            ModelError: a single row does not fit.
        """
        while True:
            # Tried again with the dropout of the first try: how often it took changes nothing but rounding.
            generators = torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _cuda(self.device))
            size = min(self.micro_batch or len(batch), len(batch))
            try:
                return self._gradient_by(size, batch, progress)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                longest = int(self.rows.lengths[batch].max())
                if size == 1:
                    raise ModelError(
                        f"out of memory: not even one row (of up to {longest} tokens) fits; shorten rows, use gradient "
                        "checkpointing, LoRA or a smaller model"
                    ) from error
            self.micro_batch = (size + 1) // 2
            log.warning("out of memory with %d rows at once: trying again with %d", size, self.micro_batch)
            self.optimizer.zero_grad()
            torch.set_rng_state(generators[0])
            for device, state in zip(_cuda(self.device), generators[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _gradient_by(self, size: int, batch: np.ndarray, progress: float) -> tuple[Tensor, Tensor]:
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        noted = self._look_over(parts, progress) if self.overview is not None and len(parts) > 1 else None
        sums, totals = [], []
        for part in parts:
            with self.autocast():
                summed, total = self.loss(self._see(part, progress, noted), self.loss_settings)
            summed.backward()
            sums.append(summed.detach())
            totals.append(total)
        return torch.stack(sums).sum(), torch.stack(totals).sum()

    def _see(self, part: np.ndarray, progress: float, noted: Tensor | None = None) -> LossBatch:
        """One forward pass over some rows."""
        micro = self.rows.micro_batch(part).to(self.device)
        logits = self.logits(self.model, micro)
        return LossBatch(logits, micro.labels, micro.weights, micro.soft_ids, micro.soft_probs, progress, noted)

    def _look_over(self, parts: list[np.ndarray], progress: float) -> Tensor | None:
        """What the loss notes of the whole step, ``[tokens of the step, c]``: one more pass, without gradient."""
        assert self.overview is not None
        noted = []
        # The generators are put back, so that the pass with gradient sees the same dropout.
        with torch.no_grad(), torch.random.fork_rng(devices=_cuda(self.device)), self.autocast():
            for part in parts:
                note = self.overview(self._see(part, progress), self.loss_settings)
                if note is None:
                    self.overview = None
                    return None
                noted.append(note)
        return torch.cat(noted)

    def _finish_gradient(self, total: Tensor) -> Tensor:
        """Divide by the step's total weight, once, and clip; returns the norm before clipping."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) / total
        scale = 1.0 / total
        if self.settings.gradient_clip is not None:
            scale = scale * (self.settings.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        return norm


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the CPU (which has no error class for it)."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def make_optimizer(parameters: list[torch.nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, fused where the device has that kernel."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    fused = all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in parameters)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=fused)


@contextlib.contextmanager
def _training_mode(
    model: Any, settings: TrainSettings, seed: int
) -> Iterator[Callable[[], contextlib.AbstractContextManager[Any]]]:
    """Train mode, seeded dropout, float32 trainable weights; everything is put back at the end, come what may."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameters")
    if any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise ModelError("float16 weights cannot be trained safely: use --dtype float32 or bfloat16")
    device = trainable[0].device
    half = [parameter for parameter in trainable if parameter.dtype == torch.bfloat16]
    mixed = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    with torch.random.fork_rng(devices=_cuda(device)):
        torch.manual_seed(derive_seed(seed, "dropout"))
        # Small updates vanish in bfloat16's 8 bits, so the weights being trained are float32 meanwhile.
        for parameter in half:
            parameter.data = parameter.data.float()
        if settings.gradient_checkpointing:
            _call(model, "activation_checkpointing_enable", "gradient_checkpointing_enable", {"use_reentrant": False})
        model.train()
        try:
            yield lambda: torch.autocast(device.type, torch.bfloat16, enabled=mixed)
        finally:
            model.eval()
            if settings.gradient_checkpointing:
                _call(model, "activation_checkpointing_disable", "gradient_checkpointing_disable")
            for parameter in trainable:
                parameter.grad = None
            for parameter in half:
                parameter.data = parameter.data.bfloat16()


def _cuda(device: torch.device) -> list[int]:
    """Devices, besides the CPU, whose generators are in use."""
    return [device.index or 0] if device.type == "cuda" else []


def _call(model: Any, name: str, older: str, *arguments: Any) -> None:
    """Call a method under its present name, or under the one that older transformers have."""
    getattr(model, name if hasattr(model, name) else older)(*arguments)


def _check_vocabulary(soft: SoftTargets, width: int) -> None:
    k, largest = soft.ids.shape[1], int(soft.ids.max())
    if k > width:
        raise ConfigError(f"soft labels name {k} tokens a position, but the model has {width}: lower loss.top_k")
    if largest >= width:
        raise ConfigError(
            f"soft labels name token {largest}, but the model's ids end at {width - 1}: "
            "use a teacher with the student's vocabulary, or loss.targets=hard"
        )


def _checked(pending: list[Tensor], done: int) -> list[float]:
    """Fetch (loss, norm) pairs from the device; refuse what is not finite."""
    values = torch.stack(pending).cpu()
    finite = values.isfinite().all(dim=1)
    if not finite.all():
        step = done + int((~finite).nonzero()[0]) + 1
        raise TrainingDiverged(
            f"training diverged: the loss or its gradient is not finite at step {step}; lower train.learning_rate"
        )
    return [float(value) for value in values[:, 0]]


def _check_weights(parameters: list[torch.nn.Parameter], steps: int) -> None:
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise TrainingDiverged(
            f"training diverged: a weight is not finite after {steps} steps; lower train.learning_rate"
        )

"""The one training loop: experts, students, ceilings and baselines all come through here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ensemw2s import interrupts, parallel
from ensemw2s.errors import CacheError, ConfigError, ModelError
from ensemw2s.seeds import derive_seed
from ensemw2s.training.batches import flatten_rows, plan_epoch
from ensemw2s.training.checkpoint import Checkpoints, Progressed
from ensemw2s.training.losses import LossSettings, check_robustness
from ensemw2s.training.settings import TrainSettings, count_steps, learning_rate_factor
from ensemw2s.training.step import Autocast, Stepper, cuda

if TYPE_CHECKING:
    from ensemw2s.data.encoding import EncodedRow
    from ensemw2s.data.targets import SoftTargets

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
        ConfigError: unknown loss, one that wants soft labels without any or has no robust form where one is asked
            for, or soft labels of more tokens than the model has.
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
    check_robustness(settings.robustness, loss_settings.name)
    rows = flatten_rows(encoded, token_weights, pad_token_id, soft if loss_settings.needs_soft else None)
    if device is not None and not parallel.sharded():
        model.to(device)
    place = torch.device(device) if device is not None else next(model.parameters()).device
    with (
        interrupts.deferred(),
        _training_mode(model, settings, seed, place) as autocast,
        _in_parts(model, place) as own,
    ):
        stepper = Stepper(own, rows, settings, seed, loss_settings, autocast, place)
        tokens, answer_tokens, losses = _Run(stepper, checkpoints).train(progress, watch)
    return TrainResult(len(losses), tokens, answer_tokens, time.perf_counter() - start, losses)


class _Run:
    """All steps of a training."""

    def __init__(self, stepper: Stepper, checkpoints: Checkpoints | None) -> None:
        self.stepper, self.checkpoints = stepper, checkpoints
        self.rows, self.settings = stepper.rows, stepper.settings
        self.optimizer = make_optimizer(stepper.parameters, self.settings)
        self.done = Progressed(0, 0, 0, [])

    def train(self, progress: Progress | None, watch: Watch | None) -> tuple[int, int, list[float]]:
        """Run all steps; returns tokens, answer tokens and the loss of every step."""
        rows, settings, stepper = self.rows, self.settings, self.stepper
        steps, pending = count_steps(settings, len(rows)), list[Tensor]()
        target_counts = np.diff(rows.target_offsets)
        if rows.soft is not None:
            _check_vocabulary(rows.soft, stepper.output_width())
        self._resume()
        done = self.done
        first, stepper.micro_batch = done.step, done.micro_batch or stepper.micro_batch
        for step, batch in zip(range(steps), self._batches(), strict=False):
            if step < first:
                continue
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate * learning_rate_factor(settings, step, steps)
            pending.append(stepper.gradient(batch, step, step / steps))
            self.optimizer.step()
            self.optimizer.zero_grad()
            done.step = step + 1
            done.tokens += int(rows.lengths[batch].sum())
            done.answer_tokens += int(target_counts[batch].sum())
            done.micro_batch = stepper.micro_batch
            keep, signal = self._asked()
            if len(pending) == _CHECK_EVERY or step + 1 == steps or keep:
                fetched = _checked(pending, len(done.losses))
                if watch is not None:
                    watch(len(done.losses), fetched)
                done.losses += fetched
                pending.clear()
            # After the last step there is nothing to keep for, unless a signal ends the run before its result is saved.
            if self.checkpoints is not None and keep and (step + 1 < steps or signal):
                self.checkpoints.save(done, stepper.parameters, self.optimizer, stepper.device)
                parallel.barrier()  # whoever went on would leave, and end the one who writes
            if progress is not None:
                progress(step + 1, steps)
            if signal:
                interrupts.stop(signal)
        if not stepper.finite():
            raise TrainingDiverged(
                f"training diverged: a weight is not finite after {steps} steps; lower train.learning_rate"
            )
        return done.tokens, done.answer_tokens, done.losses

    def _resume(self) -> None:
        """Go on from a checkpoint, where there is one; all processes from the same.

        Raises:
            CacheError: they do not see the same.
        """
        if self.checkpoints is None:
            return
        stepper = self.stepper
        found = self.checkpoints.load(stepper.parameters, self.optimizer, stepper.device)
        places = parallel.gather(found.step if found else 0)
        if len(set(places)) > 1:
            raise CacheError(
                f"the processes of this run find different checkpoints (of steps {places}): give them one cache folder "
                "that all can read"
            )
        self.done = found or self.done

    def _asked(self) -> tuple[bool, int]:
        """Whether to keep a checkpoint now, and the signal to stop for (0: none); the same on every process."""
        due = self.checkpoints is not None and parallel.is_main() and self.checkpoints.due()
        keep, signal = parallel.largest(due, interrupts.pending())
        return self.checkpoints is not None and bool(keep or signal), signal

    def _batches(self) -> Iterator[np.ndarray]:
        epoch = 0
        while True:
            yield from plan_epoch(self.rows.lengths, self.settings, self.stepper.seed, epoch)
            epoch += 1


def make_optimizer(parameters: list[torch.nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, fused where the device has that kernel."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    fused = all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in parameters)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=fused)


@contextlib.contextmanager
def _training_mode(model: Any, settings: TrainSettings, seed: int, device: torch.device) -> Iterator[Autocast]:
    """Train mode, seeded dropout, float32 trainable weights; everything is put back at the end, come what may."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameters")
    if any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise ModelError("float16 weights cannot be trained safely: use --dtype float32 or bfloat16")
    half = [parameter for parameter in trainable if parameter.dtype == torch.bfloat16]
    mixed = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    with torch.random.fork_rng(devices=cuda(device)):
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


@contextlib.contextmanager
def _in_parts(model: Any, device: torch.device) -> Iterator[Any]:
    """The model itself; or, where processes share one that is too large, a sharded copy that is written back."""
    if not parallel.sharded():
        yield model
        return
    from ensemw2s.training.sharded import sharded_copy, write_back

    working = sharded_copy(model, device)
    yield working
    write_back(working, model)


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

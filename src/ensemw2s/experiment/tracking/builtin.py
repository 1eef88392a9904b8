"""The trackers that come with the package. Their libraries are imported when a tracker is made."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ensemw2s.experiment.tracking.trackers import (
    TRACKERS,
    End,
    RunInfo,
    Tracker,
    boosting_values,
    final_values,
    flat,
    tag,
)


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """Event files in ``tensorboard/`` in the run's folder."""

    module, package = "tensorboard", "tensorboard"
    folder: ClassVar[str] = "tensorboard"

    def __init__(self, run: RunInfo) -> None:
        super().__init__(run)
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder / self.folder))

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """A curve a training; step 1 is the first."""
        for step, value in enumerate(values, start=first + 1):
            self.writer.add_scalar(tag(title), value, step)
        self.writer.flush()  # a kill shall not take what was told

    def results(self, results: Mapping[str, Any]) -> None:
        """Scores as scalars at step 0, rounds as curves, a table in the text tab, settings in the hparams tab."""
        values = final_values(results)
        for name, value in values.items():
            self.writer.add_scalar(name, value, 0)
        for number, found in boosting_values(results):
            for name, value in found.items():
                self.writer.add_scalar(name, value, number)
        self.writer.add_text("scores", _table(results), 0)
        self._hparams({name: value for name, value in values.items() if not name.endswith(("/low", "/high"))})
        self.writer.flush()

    def _hparams(self, scores: Mapping[str, float]) -> None:
        """What ``SummaryWriter.add_hparams`` writes, without the folder of its own that it would make."""
        from torch.utils.tensorboard.summary import hparams

        writer = self.writer.file_writer
        if writer is not None:
            for part in hparams(flat(self.run.config), dict(scores)):
                writer.add_summary(part)

    def close(self, end: End) -> None:
        """Write what is left."""
        self.writer.close()


def _table(results: Mapping[str, Any]) -> str:
    """The scores as a Markdown table."""
    lines = ["| system | split | metric | value | interval |", "| --- | --- | --- | --- | --- |"]
    for row in results.get("scores") or ():
        low, high = row.get("low"), row.get("high")
        interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        value = "" if row.get("value") is None else f"{row['value']:.4f}"
        lines.append(f"| {row['system']} | {row['split']} | {row['metric']} | {value} | {interval} |")
    return "\n".join(lines)


@TRACKERS.register("wandb")
class WandB(Tracker):
    """Weights & Biases. ``WANDB_MODE=offline`` and its other environment variables work as ever.

    The program's own record of the machine, the command line and the console stays off: settings, losses and scores
    are all that is sent.
    """

    module, package = "wandb", "ensemw2s[wandb]"

    def __init__(self, run: RunInfo) -> None:
        super().__init__(run)
        import wandb

        quiet = wandb.Settings(
            console="off", save_code=False, disable_code=True, disable_git=True, disable_job_creation=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
            x_save_requirements=False,
        )  # fmt: skip
        self.record = wandb.init(
            project=run.project, name=run.name, id=run.run_id, resume="allow", dir=str(run.folder),
            config=flat(run.config), settings=quiet,
        )  # fmt: skip

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """A curve a training over its own steps (wandb's step counts calls)."""
        name = tag(title)
        self.record.define_metric(name, step_metric=f"{name}/step")
        for step, value in enumerate(values, start=first + 1):
            self.record.log({name: value, f"{name}/step": step})

    def results(self, results: Mapping[str, Any]) -> None:
        """Scores in the summary, rounds as curves."""
        self.record.define_metric("boosting/*", step_metric="boosting/round")
        for number, found in boosting_values(results):
            self.record.log({"boosting/round": number, **found})
        self.record.summary.update(final_values(results))

    def close(self, end: End) -> None:
        """End the run there; one that failed is marked as failed."""
        self.record.finish(exit_code=0 if end == "finished" else 1)


@TRACKERS.register("trackio")
class Trackio(Tracker):
    """trackio: local by default, ``trackio show`` opens it; its environment variables send it elsewhere."""

    module, package = "trackio", "ensemw2s[trackio]"

    def __init__(self, run: RunInfo) -> None:
        super().__init__(run)
        with _aside():
            import trackio

            self.record = trackio.init(
                project=run.project, name=run.name, config=flat(run.config), resume="allow", embed=False,
                auto_log_cpu=False, auto_log_gpu=False,
            )  # fmt: skip

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """A curve a training."""
        for step, value in enumerate(values, start=first + 1):
            if math.isfinite(value):
                self.record.log({tag(title): value}, step=step)

    def results(self, results: Mapping[str, Any]) -> None:
        """Scores at step 0, rounds as curves."""
        self.record.log(final_values(results), step=0)
        for number, found in boosting_values(results):
            self.record.log(found, step=number)

    def close(self, end: End) -> None:
        """Send what is left."""
        with _aside():
            self.record.finish()


@contextlib.contextmanager
def _aside() -> Any:
    """What a library prints goes to standard error, so that a verb's own output stays clean."""
    with contextlib.redirect_stdout(sys.stderr):
        yield

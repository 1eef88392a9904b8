"""The command line, with a fault in process 1 alone: at its third optimiser step it raises what ``FAULT`` says."""

from __future__ import annotations

import os
import signal
from typing import Any

from ensemw2s import parallel
from ensemw2s.cli.main import main
from ensemw2s.errors import DataError
from ensemw2s.training.step import Stepper

gradient = Stepper.gradient


def faulty(self: Stepper, batch: Any, step: int, progress: float) -> Any:
    if step == 2 and parallel.rank() == 1:
        if os.environ["FAULT"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("the third step is\n bad")
    return gradient(self, batch, step, progress)


if __name__ == "__main__":
    Stepper.gradient = faulty  # type: ignore[method-assign]
    main()

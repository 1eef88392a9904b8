"""What the terminal shows while a verb works: a bar a piece of work, a line a finished stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ensemw2s.cli.flags import FLAGS
from ensemw2s.experiment.reporter import Progress as Report
from ensemw2s.experiment.reporter import Reporter

# Scoring stages finish in a moment and come by the dozen: a line each would bury the others.
_QUIET_SECONDS = 1.0


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        """The rate, empty until there is one."""
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "step")
        return Text(f"{speed:,.0f} {unit}s/s" if speed else "", style="dim")


class Screen(Reporter):
    """Writes to standard error, so that a verb's own output stays clean."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.reused = 0

    @contextlib.contextmanager
    def working(self, title: str, unit: str) -> Iterator[Report]:
        """A bar with rate and time left, gone when the work is done."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(16),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True),
        )
        if not self.console.is_terminal:
            yield lambda done, total: None
            return
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(title, total=None, unit=unit)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        """One line a stage; found stages are counted and told once at the end."""
        if reused:
            self.reused += 1
        elif seconds >= _QUIET_SECONDS:
            self.console.print(f"[green]done[/] {escape(title):<52}[dim]{seconds:7.1f} s[/]")

    def note(self, text: str) -> None:
        """A warning line."""
        self.console.print(f"[yellow]note[/] {escape(FLAGS.speak(text))}")

    def close(self) -> None:
        """Tell how much was found in the store."""
        if self.reused:
            self.console.print(f"[dim]{self.reused} finished stages were found in the store and not repeated[/]")

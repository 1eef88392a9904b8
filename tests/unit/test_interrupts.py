"""Signals: at once where nothing is lost, else at the end of the block; nohup stays nohup."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ensemw2s import interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_at_once(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)  # under nohup it would be ignored, and stay so
    interrupts.install()
    with pytest.raises(interrupts.Stopped) as stopped:
        signal.raise_signal(number)
    assert stopped.value.number == number


def test_deferred_to_the_end_of_the_outer_block() -> None:
    interrupts.install()
    reached = []

    def work() -> None:
        with interrupts.deferred():
            with interrupts.deferred():
                signal.raise_signal(signal.SIGTERM)
            reached.append(interrupts.requested())

    with pytest.raises(interrupts.Stopped):
        work()
    assert reached == [True]
    assert not interrupts.requested()


def test_what_is_ignored_stays_ignored() -> None:
    """nohup: the terminal's end is no reason to stop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.install()
    signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_background_job_takes_an_interrupt() -> None:
    """Shells start background jobs with it ignored; a scheduler that sends it shall be heard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.install()
    with pytest.raises(interrupts.Stopped):
        signal.raise_signal(signal.SIGINT)


def test_a_second_signal_kills() -> None:
    code = (
        "import os, signal\nfrom ensemw2s import interrupts\ninterrupts.install()\n"
        "with interrupts.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert "alive" not in done.stdout

"""How work is cut: whole, balanced, the same everywhere; and what a process without others gets."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from launch import own_lines

from ensemw2s import parallel
from ensemw2s.cli import main as cli
from ensemw2s.errors import ConfigError
from ensemw2s.models.devices import resolve_device
from ensemw2s.training.sharing import micro_batches, share_rows

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40)


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were process 1 of two; nothing may be exchanged."""
    monkeypatch.setattr(parallel, "_world", parallel._World(1, 2, 1))


@given(LENGTHS, st.integers(1, 5))
def test_shares_are_whole_in_order_and_balanced_by_tokens(lengths: list[int], parts: int) -> None:
    sizes, batch = np.array([7, *lengths]), np.arange(1, len(lengths) + 1)[::-1]
    shares = share_rows(batch, sizes, parts)
    assert len(shares) == parts
    assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
    for share in shares:
        assert (np.diff(share) < 0).all()  # the batch's order
    loads = [int(sizes[share].sum()) for share in shares]
    # The last row put on the fullest share was put there while it was the emptiest.
    assert max(loads) - min(loads) <= max(lengths)


def test_shares_hold_uneven_numbers_of_rows_where_lengths_are_uneven() -> None:
    shares = share_rows(np.arange(5), np.array([100, 30, 30, 20, 20]), 2)
    assert [share.tolist() for share in shares] == [[0], [1, 2, 3, 4]]


@given(LENGTHS, st.integers(1, 4), st.integers(1, 4))
def test_even_micro_batches_are_as_many_on_every_process(lengths: list[int], world: int, size: int) -> None:
    batch, sizes, counts, seen = np.arange(len(lengths)), np.array(lengths), set(), list[int]()
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(world):
            patch.setattr(parallel, "_world", parallel._World(rank, world))
            parts = micro_batches(batch, sizes, size, even=True)
            assert all(len(part) <= size for part in parts)
            counts.add(len(parts))
            seen += np.concatenate(parts).tolist()
            own = micro_batches(batch, sizes, size, even=False)
            assert all(0 < len(part) <= size for part in own)
            assert [row for part in own for row in part] == np.concatenate(parts).tolist()
    assert len(counts) == 1
    assert sorted(seen) == batch.tolist()


@given(LENGTHS, st.integers(1, 6))
def test_blocks_are_neighbours_and_about_equal(sizes: list[int], parts: int) -> None:
    cuts = parallel.block_cuts(sizes, parts)
    assert len(cuts) == parts + 1
    assert cuts[0] == 0
    assert cuts[-1] == len(sizes)
    assert cuts == sorted(cuts)
    fair = sum(sizes) / parts
    for first, last in zip(cuts, cuts[1:], strict=False):
        assert abs(sum(sizes[first:last]) - fair) <= max(sizes)


def test_a_world_of_one_needs_no_torch_and_passes_everything_on() -> None:
    code = (
        "import sys; from ensemw2s import parallel as p; p.start(); "
        "assert p.spread([1, 2], list) == [1, 2] and p.spread_blocks([1], [1], list) == [[1]]; "
        "assert p.broadcast(3) == 3 and p.gather(3) == [3] and p.largest(1, 2) == (1, 2) and p.first_to_fail(); "
        "p.barrier(); p.finish(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("one_of_two")
def test_one_device_for_several_processes_is_refused() -> None:
    assert resolve_device("cpu").type == "cpu"
    for name in ("cuda:0", "mps"):
        with pytest.raises(ConfigError, match=r"one device, and 2 processes share the work: use auto"):
            resolve_device(name)


def test_an_unknown_way_to_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parallel.CHOICE, "fdsp")
    with pytest.raises(ConfigError, match=r"unknown --parallel 'fdsp'.*fsdp"):
        parallel.sharding()
    monkeypatch.setenv(parallel.CHOICE, "")
    assert parallel.sharding() == "ddp"
    assert not parallel.sharded()


@pytest.mark.usefixtures("one_of_two")
def test_verbs_for_one_process_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["ensemw2s", "list", "losses"])
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(parallel, "first_to_fail", lambda: True)
    monkeypatch.setattr("ensemw2s.interrupts.uninstall", lambda: None)
    monkeypatch.setattr("ensemw2s.interrupts.install", lambda: None)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert own_lines(said.getvalue())[0].startswith("error: 'list' is work for one process: start it without torchrun")


def test_python_m_is_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ensemw2s", "--version"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("ensemw2s ")

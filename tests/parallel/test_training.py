"""One training over two processes (gloo) ends as with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from launch import torchrun

from ensemw2s.training.batches import flatten_rows
from ensemw2s.training.settings import TrainSettings
from ensemw2s.training.sharing import share_rows

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What two processes found, by rank."""
    out = tmp_path_factory.mktemp("parallel")
    done = torchrun(str(Path(__file__).parent / "train_worker.py"), env={"OUT": str(out)})
    assert done.returncode == 0, done.stderr
    return [torch.load(out / f"rank-{rank}.pt") for rank in range(2)]


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def test_both_processes_end_with_the_same_bits(ranks: list[Found]) -> None:
    assert ranks[0].keys() == ranks[1].keys()
    for name, found in ranks[0].items():
        if "error" in found:
            assert found == ranks[1][name]
        else:
            assert largest_difference(found, ranks[1][name]) == 0, name


@pytest.mark.parametrize("name", ["gradient", "gradient of micro-batches"])
def test_the_gradient_is_the_weighted_mean_and_no_mean_of_the_processes_means(ranks: list[Found], name: str) -> None:
    rows, weights = tiny.rows_of(7), tiny.weights_of(tiny.rows_of(7))
    one = tiny.gradient(tiny.model_of(dtype=torch.float64), rows)
    assert largest_difference(ranks[0][name], one) < 1e-12
    # What averaging wrappers give: every process divides by its own weight, and the means are averaged.
    flat = flatten_rows(rows, weights, 0)
    shares = share_rows(np.arange(len(flat)), flat.lengths, 2)
    assert len(shares[0]) != len(shares[1])
    ids = {int(start): place for place, start in enumerate(np.cumsum([0, *(len(r.input_ids) for r in rows)])[:-1])}
    parts = []
    for share in shares:
        kept = {ids[int(flat.starts[place])] for place in share}
        mask = torch.cat(
            [torch.full((len(r.input_ids) - r.prompt_length,), float(n in kept)) for n, r in enumerate(rows)]
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny, "weights_of", lambda _, mask=mask: weights * mask)
            parts.append(tiny.gradient(tiny.model_of(dtype=torch.float64), rows))
    mean = {key: (parts[0][key] + parts[1][key]) / 2 for key in one}
    assert largest_difference(mean, one) > 1e-2


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", tiny.WIDE)
def test_a_training_ends_as_with_one_process(ranks: list[Found], way: str, name: str) -> None:
    one, found = tiny.WIDE[name](), dict(ranks[0][f"{way} {name}"])
    torch.testing.assert_close(found.pop("losses"), one.pop("losses"), atol=0, rtol=1e-6)  # they are told in float32
    assert largest_difference(found, one) < 1e-9
    assert one["counts"][0] > 2


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize(("name", "limit"), [("float32", 1e-4), ("bfloat16 base", 3e-2)])
def test_narrow_arithmetic_stays_within_the_stated_tolerance(
    ranks: list[Found], way: str, name: str, limit: float
) -> None:
    assert largest_difference(ranks[0][f"{way} {name}"], tiny.NARROW[name]()) < limit


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_signal_to_one_process_stops_all_and_they_go_on_to_the_same_bits(ranks: list[Found], way: str) -> None:
    whole, resumed = (ranks[0][f"{way} {name}"] for name in ("whole", "resumed"))
    assert largest_difference(whole, resumed) == 0
    assert len(whole["losses"]) > 3


def test_every_process_has_its_own_dropout_at_every_step(ranks: list[Found]) -> None:
    first, second = ranks[0]["seeds"]["seeds"]
    assert len(first) == len(second) == 6
    assert len({*first, *second}) == 12


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_all_processes_refuse_what_is_not_finite(ranks: list[Found], way: str) -> None:
    assert "not finite at step" in ranks[0][f"{way} diverged"]["error"]


def test_memory_that_runs_out_on_one_process_changes_nothing(ranks: list[Found]) -> None:
    one = tiny.train(tiny.model_of(), TrainSettings(epochs=1, batch_size=8, learning_rate=1e-2))
    torch.testing.assert_close(ranks[0]["short of memory"]["losses"], one["losses"], atol=1e-5, rtol=0)

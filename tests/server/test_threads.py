"""How many threads the experts get: by fake times, by hand, and on real experts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.engine.choose import make_bank
from ensemw2s.models.loading import load_model
from ensemw2s.server import threads
from ensemw2s.server.threads import LARGE, candidates, choose_threads, fastest


def bank(experts: int = 1) -> Bank:
    return make_bank([load_model("w2s-weak") for _ in range(experts)], "auto")


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("most", "tried"), [(1, [1]), (2, [2, 1]), (6, [6, 1, 2, 4]), (8, [8, 1, 2, 4])])
def test_what_is_tried(most: int, tried: list[int]) -> None:
    assert candidates(most) == tried


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({8: (0.010, 0.010), 1: (0.005, 0.050), 2: (0.006, 0.030), 4: (0.010, 0.030)}, 2),
        ({8: (0.010, 0.010), 1: (0.010, 0.010), 2: (0.010, 0.010), 4: (0.010, 0.010)}, 1),
        ({2: (0.001, 0.001), 1: (0.010, 0.010)}, 1),
    ],
)
def test_one_row_and_many_count_alike_and_a_core_stays_free(times: dict[int, tuple[float, float]], best: int) -> None:
    assert fastest(list(times), times.__getitem__) == best


def test_a_single_core_is_not_timed() -> None:
    assert fastest([1], lambda _: pytest.fail("nothing to try")) == 1


def test_a_large_model_keeps_all_and_tries_nothing_else() -> None:
    tried: list[int] = []

    def timed(count: int) -> tuple[float, float]:
        tried.append(count)
        return 2 * LARGE, 1.0

    assert fastest([8, 1, 2, 4], timed) == 8
    assert tried == [8]


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_timed", lambda _, count: pytest.fail("nothing to try"))
    assert choose_threads(bank(), 3) == 3 == torch.get_num_threads()


def test_the_environments_word_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "_timed", lambda _, count: pytest.fail("nothing to try"))
    torch.set_num_threads(2)
    assert choose_threads(bank()) == 2 == torch.get_num_threads()


def test_on_real_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    seen: dict[int, tuple[float, float]] = {}
    measured = threads._timed

    def timed(asked: Bank, count: int) -> tuple[float, float]:
        seen[count] = measured(asked, count)
        assert torch.get_num_threads() == count
        return seen[count]

    monkeypatch.setattr(threads, "_timed", timed)
    chosen = choose_threads(bank(2))
    assert all(min(alone, together) > 0 for alone, together in seen.values())
    assert chosen == torch.get_num_threads() == fastest([2, 1], seen.__getitem__)

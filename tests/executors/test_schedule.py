"""Who is given what, with workers that are only pretended: order, sharing, failures."""

from __future__ import annotations

from typing import Any

import pytest

from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.experiment.executors import open_pool
from ensemw2s.experiment.executors.pool import Done, Failure, Task
from ensemw2s.experiment.executors.schedule import Job, Schedule
from ensemw2s.experiment.executors.work import Recorder, as_data, from_data, perform
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.walk import Ready


class Bench:
    class store:
        location, common = "nowhere", {}


class Config:
    def to_dict(self) -> dict[str, Any]:
        return {}


class Walk:
    """A run of stages that need others: name -> names."""

    def __init__(self, needs: dict[str, set[str]], built: set[str], refuses: Exception | None = None) -> None:
        self.needs, self.built, self.refuses = needs, built, refuses
        self.bench, self.config = Bench(), Config()

    def look(self) -> list[Ready]:
        if self.refuses:
            raise self.refuses
        left = [name for name in self.needs if name not in self.built]
        return [Ready(name, "expert", name.split("/")[0]) for name in left if self.needs[name] <= self.built]

    @property
    def complete(self) -> bool:
        return set(self.needs) <= self.built


class Pool:
    """Does one task at a time, the one given out last first, so that nothing may hang on the order."""

    def __init__(self, slots: int, built: set[str], fails: dict[str, Failure] | None = None) -> None:
        self.slots, self.built, self.fails = slots, built, fails or {}
        self.notes: list[str] = []
        self.running: list[Task] = []
        self.given: list[str] = []
        self.most = 0

    def submit(self, task: Task) -> None:
        self.running.append(task)
        self.given.append(task.key)
        self.most = max(self.most, len(self.running))
        assert len(self.running) <= self.slots

    def wait(self) -> list[Done]:
        task = self.running.pop()
        if task.key in self.fails:
            return [Done(task.key, failure=self.fails[task.key])]
        self.built.update(task.payload.get("identities", ()))
        return [Done(task.key, [["finished", [task.title, 1.0, False]]])]


RUN = {"weak": set(), "e1": set(), "e2": {"e1"}, "label": {"e2"}, "student": {"label"}, "b1": set(), "b2": set()}


def scheduled(jobs: list[Job], pool: Any) -> list[str]:
    over: list[str] = []
    Schedule(pool, Reporter(), lambda job: over.append(job.key)).run(jobs)
    return over


@pytest.mark.parametrize("slots", [1, 2, 3, 16])
def test_every_stage_is_given_out_once_and_after_what_it_needs(slots: int) -> None:
    built: set[str] = set()
    pool = Pool(slots, built)
    assert scheduled([Job("run", Walk(RUN, built))], pool) == ["run"]
    assert sorted(pool.given) == sorted(RUN)
    for name, needs in RUN.items():
        assert all(pool.given.index(need) < pool.given.index(name) for need in needs)
    assert pool.most == min(slots, 4)  # weak, e1, b1 and b2 need nothing


def test_runs_that_share_stages_share_them() -> None:
    built: set[str] = set()
    pool = Pool(2, built)
    other = {"weak": set(), "e1": set(), "own": {"weak"}}
    over = scheduled([Job("a", Walk(RUN, built)), Job("b", Walk(other, built))], pool)
    assert sorted(over) == ["a", "b"]
    assert sorted(pool.given) == sorted({*RUN, "own"})


def test_a_stage_that_fails_stops_the_runs_that_need_it_and_no_other() -> None:
    built: set[str] = set()
    broken = Failure("ModelError", "no expert could be kept")
    pool = Pool(2, built, {"e1": broken})
    jobs = [Job("a", Walk(RUN, built)), Job("b", Walk({"own": set()}, built)), Job("c", Walk({"e1": set()}, built))]
    assert sorted(scheduled(jobs, pool)) == ["a", "b", "c"]
    assert [job.failure for job in jobs] == [broken, None, broken]
    assert pool.given.count("e1") == 1
    assert {"weak", "b1", "b2"} <= built  # what did not need it is there for the next try
    with pytest.raises(ModelError, match="no expert could be kept"):
        raise broken.error()


def test_a_run_that_refuses_is_over_and_the_others_go_on() -> None:
    built: set[str] = set()
    jobs = [Job("a", Walk({}, built, ConfigError("no such thing"))), Job("b", Walk(RUN, built))]
    assert scheduled(jobs, Pool(2, built)) == ["a", "b"]
    assert jobs[0].failure == Failure("ConfigError", "no such thing")
    assert jobs[1].failure is None


def test_stages_of_one_group_go_to_one_worker() -> None:
    built: set[str] = set()
    pool = Pool(3, built)
    scheduled([Job("run", Walk({"score/a": set(), "score/b": set(), "other": set()}, built))], pool)
    assert len(pool.given) == 2
    assert built == {"score/a", "score/b", "other"}


def test_a_cell_is_finished_by_a_worker_once_its_stages_are_there() -> None:
    built: set[str] = set()
    pool = Pool(2, built)
    jobs = [Job(f"cell {n}", Walk({f"{n}": set()}, built), cell=f"out/{n}") for n in range(5)]
    assert sorted(scheduled(jobs, pool)) == [f"cell {n}" for n in range(5)]
    for n in range(5):
        assert pool.given.index(f"{n}") < pool.given.index(f"run cell {n}")


def test_a_cell_that_cannot_be_finished_says_so() -> None:
    built: set[str] = set()
    failure = Failure("CacheError", "the disk is full")
    job = Job("cell", Walk({"a": set()}, built), cell="out")
    scheduled([job], Pool(2, built, {"run cell": failure}))
    assert job.failure == failure


def test_few_runs_are_open_at_once() -> None:
    built: set[str] = set()
    opened: list[int] = []

    def jobs() -> Any:
        for number in range(50):
            opened.append(len([name for name in built if name.startswith("s")]))
            yield Job(str(number), Walk({f"s{number}": set()}, built))

    scheduled(jobs(), Pool(2, built))  # type: ignore[arg-type]
    assert all(number - done <= 4 for number, done in enumerate(opened))


def test_what_a_worker_told_is_told_again() -> None:
    recorder = Recorder()
    recorder.started("a")
    recorder.losses("a", 3, [0.5, 0.25])
    recorder.note("n")
    recorder.finished("a", 1.5, False)
    data = as_data(Done("key", recorder.events, Failure("X", "y", "z")))
    again = from_data(data)
    assert again == Done("key", recorder.events, Failure("X", "y", "z"))
    heard = Recorder()
    for method, arguments in again.events:
        getattr(heard, method)(*arguments)
    assert heard.events == recorder.events


def test_a_bug_in_a_worker_comes_back_with_its_traceback() -> None:
    done = perform("key", {})  # no folder: a KeyError
    assert done.failure is not None
    assert done.failure.kind == "KeyError"
    assert "Traceback" in done.failure.trace
    error = done.failure.error()
    assert type(error) is RuntimeError
    assert "KeyError" in str(error)


def test_what_cannot_be_a_pool_is_refused() -> None:
    for arguments, what in (
        (("sun", 2, None), "unknown executor 'sun'"),
        (("local", 0, None), "workers is 0"),
        (("local", 2, "host:1"), "--executor ray"),
    ):
        with pytest.raises(ConfigError, match=what):
            open_pool(*arguments)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "x"), ("MASTER_PORT", "1")):
            patch.setenv(name, value)
        with pytest.raises(ConfigError, match="workers under torchrun"):
            open_pool("local", 2, None)
    assert open_pool("local", None, None) is None
    assert open_pool("local", 1, None) is None

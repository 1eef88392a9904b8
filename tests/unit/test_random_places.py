"""Every random choice derives from (run seed, purpose, id): the source holds no other source of chance."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ensemw2s
from ensemw2s.seeds import derive_seed, numpy_generator, torch_generator, unit_hash

SOURCE = Path(ensemw2s.__file__).parent

#: Places that may touch torch's global generator or make one of their own, and why no order of work can show in it.
ALLOWED = {
    # derived seeds into generators of their own
    ("seeds.py", "torch.Generator"): "the one way to a generator",
    ("seeds.py", "numpy.random.default_rng"): "the same for numpy",
    # dropout and initialisation take torch's global generator: forked, seeded by purpose, put back
    ("training/finetune.py", "torch.random.fork_rng"): "put back at the end",
    ("training/finetune.py", "torch.manual_seed"): "derived, inside the fork",
    ("training/step.py", "torch.random.fork_rng"): "put back at the end",
    ("training/step.py", "torch.manual_seed"): "derived by rank and step, inside the fork",
    ("training/step.py", "torch.get_rng_state"): "a micro-batch that did not fit is drawn again alike",
    ("training/step.py", "torch.set_rng_state"): "the same",
    ("training/step.py", "torch.cuda.get_rng_state"): "the same",
    ("training/step.py", "torch.cuda.set_rng_state"): "the same",
    ("training/checkpoint.py", "torch.get_rng_state"): "dropout goes on where it was",
    ("training/checkpoint.py", "torch.set_rng_state"): "the same",
    ("training/checkpoint.py", "torch.cuda.get_rng_state"): "the same",
    ("training/checkpoint.py", "torch.cuda.set_rng_state"): "the same",
    ("models/adapters.py", "torch.random.fork_rng"): "put back at the end",
    ("models/adapters.py", "torch.manual_seed"): "derived, inside the fork",
    ("models/classes.py", "torch.random.fork_rng"): "put back at the end",
    ("models/classes.py", "torch.default_generator.manual_seed"): "derived, inside the fork",
    ("world/pretrain.py", "torch.manual_seed"): "derived; a program of its own that makes the built-in models",
    ("world/lengthen.py", "torch.manual_seed"): "the same, for longer contexts",
    # Python's generator with a derived seed
    **{
        (f"world/{name}.py", "random.Random"): "derived seed"
        for name in ("buckets", "corpus", "lengthen", "pretrain", "skills")
    },
    # names that must not repeat; no result holds them
    ("experiment/locks.py", "uuid.uuid4"): "a lock's token",
    ("experiment/remote.py", "os.urandom"): "the name of a file that is removed",
    ("experiment/tracking/events.py", "uuid.uuid4"): "a run's id in its log",
    ("experiment/upkeep.py", "uuid.uuid4"): "the name of a folder that is removed",
    ("server/asks.py", "secrets.randbits"): "the seed of a request that names none, as its callers expect",
    ("server/telling.py", "uuid.uuid4"): "a request's id",
    ("network.py", "random.uniform"): "how long to wait before the next try",
}

_MODULES = ("random", "secrets", "uuid")
_TORCH = {
    "manual_seed", "seed", "initial_seed", "set_rng_state", "get_rng_state", "Generator", "rand", "randn", "randint",
    "randperm", "multinomial", "bernoulli", "normal", "poisson", "rand_like", "randn_like", "randint_like",
}  # fmt: skip
_DRAWS = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal", "poisson"}
_IN_PLACE = {"uniform_", "normal_", "bernoulli_", "exponential_", "geometric_", "random_", "cauchy_", "log_normal_"}
_NEEDS_SEED = {"random.Random", "numpy.random.default_rng"}


def names(tree: ast.AST) -> dict[str, str]:
    """What the names of a module stand for: ``np`` -> ``numpy``, ``shuffle`` -> ``random.shuffle``."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                found[one.asname or one.name.split(".")[0]] = one.name if one.asname else one.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                found[one.asname or one.name] = f"{node.module}.{one.name}"
    return found


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, known)
        return f"{before}.{node.attr}" if before else ""
    return known.get(node.id, "") if isinstance(node, ast.Name) else ""


def chance(text: str) -> Iterator[tuple[str, int]]:
    """Calls that draw, seed or hold chance, with their line."""
    tree = ast.parse(text)
    known = names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func, known)
        given = {keyword.arg for keyword in node.keywords}
        last = name.rpartition(".")[2]
        if isinstance(node.func, ast.Attribute) and node.func.attr in _IN_PLACE and "generator" not in given:
            yield f"tensor.{node.func.attr}", node.lineno
        elif name.startswith("torch."):
            seeded = last in _DRAWS and "generator" in given
            if (last in _TORCH or name.startswith("torch.random.")) and not seeded:
                yield name, node.lineno
        elif name.startswith(("numpy.random.", *(f"{module}." for module in _MODULES))):
            unseeded = name in _NEEDS_SEED and not node.args and not given
            yield (f"{name} without a seed" if unseeded else name), node.lineno
        elif name in ("os.urandom", "transformers.set_seed"):
            yield name, node.lineno
        elif isinstance(node.func, ast.Name) and node.func.id == "hash":
            yield "hash", node.lineno  # of a text, salted anew in every process


def found() -> dict[tuple[str, str], list[int]]:
    places: dict[tuple[str, str], list[int]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for name, line in chance(path.read_text(encoding="utf-8")):
            places.setdefault((path.relative_to(SOURCE).as_posix(), name), []).append(line)
    return places


def test_chance_comes_from_allowed_places_only() -> None:
    new = {f"{path}:{lines[0]}": name for (path, name), lines in found().items() if (path, name) not in ALLOWED}  # fmt: skip
    assert new == {}, "derive a generator with ensemw2s.seeds, or say in ALLOWED why no order of work can show"


def test_the_list_of_places_holds_nothing_that_is_gone() -> None:
    assert set(ALLOWED) - set(found()) == set()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import torch\ntorch.manual_seed(0)", "torch.manual_seed"),
        ("from torch import manual_seed as m\nm(0)", "torch.manual_seed"),
        ("import torch\ntorch.rand(3)", "torch.rand"),
        ("import torch\ntorch.cuda.manual_seed(0)", "torch.cuda.manual_seed"),
        ("import numpy as np\nnp.random.shuffle([])", "numpy.random.shuffle"),
        ("from numpy.random import default_rng\ndefault_rng()", "numpy.random.default_rng without a seed"),
        ("import random\nrandom.shuffle([])", "random.shuffle"),
        ("from random import Random\nRandom()", "random.Random without a seed"),
        ("def f(t):\n    t.normal_()", "tensor.normal_"),
        ("import uuid\nuuid.uuid4()", "uuid.uuid4"),
        ("hash('a')", "hash"),
        ("import transformers\ntransformers.set_seed(1)", "transformers.set_seed"),
    ],
)
def test_the_search_finds(text: str, name: str) -> None:
    assert [one for one, _ in chance(text)] == [name]


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.rand(3, generator=g)",
        "def f(t, g):\n    t.normal_(generator=g)",
        "def f(generator):\n    generator.shuffle([])",
        "from ensemw2s.seeds import torch_generator\ntorch_generator(0, 'a')",
    ],
)
def test_the_search_leaves_generators_alone(text: str) -> None:
    assert list(chance(text)) == []


def test_importing_everything_draws_nothing() -> None:
    import importlib
    import pkgutil

    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for module in pkgutil.walk_packages([str(SOURCE)], "ensemw2s."):
        if not module.name.startswith(("ensemw2s.harness", "ensemw2s.world", "ensemw2s.__main__")):
            try:
                importlib.import_module(module.name)
            except ImportError:  # an extra that is not installed
                continue
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_the_order_of_workers_changes_no_draw() -> None:
    purposes = [("expert", 1), ("expert", 2), ("boost", "resample", 1), ("shots", "row 7")]

    def drawn(order: list[int], noise: bool) -> dict[int, tuple[float, float, float]]:
        found = {}
        for place in order:
            if noise:  # another worker's draws from the global generators, in between
                torch.rand(3), np.random.random(5)
            purpose = purposes[place]
            found[place] = (
                float(torch.rand(1, generator=torch_generator(7, *purpose))),
                float(numpy_generator(7, *purpose).random()),
                unit_hash(7, *purpose),
            )
        return found

    assert drawn([0, 1, 2, 3], noise=False) == drawn([3, 1, 0, 2], noise=True)
    values = [number for three in drawn([0, 1, 2, 3], noise=False).values() for number in three]
    assert len(set(values)) == len(values)
    assert derive_seed(7, "expert", 1) != derive_seed(8, "expert", 1)

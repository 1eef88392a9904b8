"""A training run that is killed and taken up again ends in the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s import interrupts
from ensemw2s.data.encoding import EncodedRow
from ensemw2s.training.checkpoint import Checkpoints
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.settings import TrainSettings

SETTINGS = TrainSettings(epochs=3, batch_size=4, micro_batch_size=3, learning_rate=1e-2)
ROWS = [EncodedRow(str(n), [1, 2 + n % 5, 3 + n % 7, 4 + n % 3, 0], 2 + n % 2) for n in range(17)]
STEPS = 15  # three epochs of 17 rows, four a step


class Killed(BaseException):
    """Stands for a kill: nothing on the way may catch it."""


def model(dtype: torch.dtype = torch.float32) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = GPTNeoXConfig(
            vocab_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, hidden_dropout=0.2, attention_dropout=0.1,
        )  # fmt: skip
        return GPTNeoXForCausalLM(config).to(dtype)


def train(checkpoints: Checkpoints | None = None, die_at: int | None = None, dtype: torch.dtype = torch.float32) -> Any:
    made = model(dtype)

    def progress(done: int, total: int) -> None:
        assert total == STEPS
        if done == die_at:
            raise Killed

    result = fine_tune(made, ROWS, SETTINGS, seed=3, pad_token_id=0, progress=progress, checkpoints=checkpoints)
    return made.state_dict(), result


def same(one: Any, other: Any) -> None:
    assert all(torch.equal(one[0][name], value) for name, value in other[0].items())
    assert one[1]._replace(seconds=0) == other[1]._replace(seconds=0)


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    return train()


def test_checkpoints_change_nothing(undisturbed, tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", "me", seconds=0)
    same(train(checkpoints), undisturbed)
    assert [path.name for path in (tmp_path / "c").iterdir()] == [f"step-{STEPS - 1:09d}"]
    checkpoints.clear()
    assert not (tmp_path / "c").exists()


@settings(max_examples=12, deadline=None)
@given(deaths=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=3, unique=True).map(sorted))
def test_killed_at_any_steps_it_ends_in_the_same_bits(undisturbed, tmp_path_factory, deaths) -> None:
    folder = tmp_path_factory.mktemp("c")
    for step in deaths:
        with pytest.raises(Killed):
            train(Checkpoints(folder, "me", seconds=0), die_at=step)
    told = []
    made = model()
    result = fine_tune(
        made, ROWS, SETTINGS, seed=3, pad_token_id=0, progress=lambda done, total: told.append(done),
        checkpoints=Checkpoints(folder, "me", seconds=1e9),
    )  # fmt: skip
    same((made.state_dict(), result), undisturbed)
    assert told[0] == deaths[-1] + 1  # nothing before was trained again


def test_bfloat16_keeps_its_wide_weights(tmp_path) -> None:
    plain = train(dtype=torch.bfloat16)
    with pytest.raises(Killed):
        train(Checkpoints(tmp_path, "me", seconds=0), die_at=6, dtype=torch.bfloat16)
    same(train(Checkpoints(tmp_path, "me", seconds=1e9), dtype=torch.bfloat16), plain)


@pytest.mark.parametrize("harm", ["flip", "truncate", "missing", "json", "identity", "shapes"])
def test_what_cannot_be_trusted_is_not_used(undisturbed, tmp_path, harm) -> None:
    with pytest.raises(Killed):
        train(Checkpoints(tmp_path, "me", seconds=0), die_at=6)
    (folder,) = tmp_path.iterdir()
    state = folder / "state.safetensors"
    identity = "me"
    if harm == "flip":
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    elif harm == "truncate":
        state.write_bytes(state.read_bytes()[:-9])
    elif harm == "missing":
        state.unlink()
    elif harm == "json":
        (folder / "state.json").write_text("{")
    elif harm == "identity":
        identity = "another"
    else:
        from safetensors.torch import load_file, save_file

        from ensemw2s.artifacts import write_checksums

        tensors = load_file(state)
        tensors["parameter.0"] = tensors["parameter.0"][:1].clone()
        save_file(tensors, state)
        write_checksums(folder)
    same(train(Checkpoints(tmp_path, identity, seconds=1e9)), undisturbed)


def test_a_half_written_checkpoint_leaves_the_older_one(undisturbed, tmp_path, monkeypatch) -> None:
    from ensemw2s.training import checkpoint

    with pytest.raises(Killed):
        train(Checkpoints(tmp_path, "me", seconds=0), die_at=5)

    def dies(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", dies)
        with pytest.raises(Killed):
            train(Checkpoints(tmp_path, "me", seconds=0))
    told: list[int] = []
    made = model()
    result = fine_tune(made, ROWS, SETTINGS, seed=3, pad_token_id=0, progress=lambda done, _: told.append(done),
                       checkpoints=Checkpoints(tmp_path, "me", seconds=1e9))  # fmt: skip
    assert told[0] == 6
    same((made.state_dict(), result), undisturbed)


def test_a_signal_saves_and_stops_between_steps(undisturbed, tmp_path) -> None:
    """SIGTERM from a scheduler: a checkpoint, then out."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupts.install()
    made, told = model(), []

    def progress(done: int, total: int) -> None:
        told.append(done)
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with pytest.raises(interrupts.Stopped) as stopped:
            fine_tune(made, ROWS, SETTINGS, seed=3, pad_token_id=0, progress=progress,
                      checkpoints=Checkpoints(tmp_path, "me", seconds=1e9))  # fmt: skip
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopped.value.number == signal.SIGTERM
    assert told[-1] in (4, 5)
    saved = [path.name for path in Path(tmp_path).iterdir()]
    if told[-1] == 5:
        assert saved == ["step-000000005"]
    same(train(Checkpoints(tmp_path, "me", seconds=1e9)), undisturbed)


def test_a_full_disk_is_told_once_and_changes_nothing(undisturbed, tmp_path, monkeypatch, caplog) -> None:
    """The training goes on; an older checkpoint stays and is gone on from."""
    from ensemw2s.training import checkpoint

    with pytest.raises(Killed):
        train(Checkpoints(tmp_path, "me", seconds=0), die_at=5)

    def full(*arguments: Any) -> None:
        raise checkpoint.SafetensorError("Error while serializing: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        same(train(Checkpoints(tmp_path, "me", seconds=0)), undisturbed)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "the disk is full" in line
    assert line.endswith("it would begin again after step 5")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005"]


def test_a_checkpoint_that_lacks_something_changes_nothing(undisturbed, tmp_path, caplog) -> None:
    """Whole by its checksums, but not one of ours: it is refused before the first weight is touched."""
    from safetensors.torch import load_file, save_file

    from ensemw2s.artifacts import write_checksums

    with pytest.raises(Killed):
        train(Checkpoints(tmp_path, "me", seconds=0), die_at=6)
    (folder,) = tmp_path.iterdir()
    tensors = load_file(folder / "state.safetensors")
    del tensors["generator.cpu"]
    save_file(tensors, folder / "state.safetensors")
    write_checksums(folder)
    same(train(Checkpoints(tmp_path, "me", seconds=1e9)), undisturbed)
    assert f"checkpoint not used: {folder}" in caplog.text


@pytest.mark.parametrize(("text", "seconds"), [("", 60), ("0", 0), (" 2.5 ", 2.5), ("inf", float("inf"))])
def test_seconds_between_checkpoints_from_the_environment(monkeypatch, text, seconds) -> None:
    monkeypatch.setenv("ENSEMW2S_CHECKPOINT_SECONDS", text)
    assert Checkpoints(Path("nowhere"), "me").seconds == seconds


@pytest.mark.parametrize("text", ["-1", "often", "nan"])
def test_seconds_that_are_none_are_refused(monkeypatch, text) -> None:
    from ensemw2s.errors import ConfigError

    monkeypatch.setenv("ENSEMW2S_CHECKPOINT_SECONDS", text)
    with pytest.raises(ConfigError, match=f"ENSEMW2S_CHECKPOINT_SECONDS is '{text}'"):
        Checkpoints(Path("nowhere"), "me")


def test_a_signal_in_the_last_step_keeps_the_whole_training(undisturbed, tmp_path) -> None:
    """It ends before the result is saved; the next run has nothing left to train."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interrupts.install()
    try:
        with pytest.raises(interrupts.Stopped):
            fine_tune(model(), ROWS, SETTINGS, seed=3, pad_token_id=0,
                      progress=lambda done, _: os.kill(os.getpid(), signal.SIGTERM) if done == STEPS - 1 else None,
                      checkpoints=Checkpoints(tmp_path, "me", seconds=1e9))  # fmt: skip
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (saved,) = [path.name for path in tmp_path.iterdir()]
    assert saved in (f"step-{STEPS:09d}", f"step-{STEPS - 1:09d}")
    same(train(Checkpoints(tmp_path, "me", seconds=1e9)), undisturbed)

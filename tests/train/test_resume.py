"""A killed training goes on to the very result of one that nobody killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from moemerge.api import train_router
from moemerge.errors import TrainError
from moemerge.train.options import TrainOptions
from moemerge.train.state import state_path
from tests.evaluate.test_processes import ROOT
from tests.train.conftest import Trainer
from tests.train.interrupted import options
from tests.train.test_run import contents


def saved_step(path: Path) -> int:
    """The step of a saved state, -1 where there is none."""
    import json

    if not path.is_file():
        return -1
    with safe_open(path, framework="pt") as file:
        return int(json.loads(file.metadata()["moemerge-training"])["run"]["step"])


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow), "also"])
def test_a_kill_changes_nothing(method: Any, unrouted: Path, texts: Path, trio: Any, tmp_path: Path) -> None:
    """SIGKILL after some steps, twice, into a missing folder's; what `--resume` then makes is bit for bit what an
    undisturbed run makes."""
    output, whole = (trio.root / f"{kind}-{method}" / "out" for kind in ("resumed", "whole"))
    state = state_path(output)
    command = [sys.executable, "-m", "tests.train.interrupted", str(unrouted), str(output), str(texts), method]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for least, arguments in ((8, []), (20, ["resume"])):
        child = subprocess.Popen([*command, *arguments], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while saved_step(state) < least and child.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert saved_step(state) >= least
        assert not output.exists()
        left = {path.name for path in output.parent.iterdir()}
        assert left <= {state.name, f".{state.name}.new"}, "one state, whatever the number of steps"
    done = train_router(unrouted, output, options(texts, method), resume=True)
    undisturbed = train_router(unrouted, whole, options(texts, method))
    assert done.training == undisturbed.training
    assert contents(done.path) == contents(undisturbed.path)
    assert not state.exists()


def test_ctrl_c_says_how_to_go_on(unrouted: Path, texts: Path, tmp_path: Path) -> None:
    """The command ends as interrupted, names `--resume`, and leaves its state and no output."""
    output = tmp_path / "out"
    command = [
        sys.executable, "-m", "moemerge", "train-router", str(unrouted), "-o", str(output), "--data", str(texts), "-q",
        "--steps", "100000", "--judge-every", "1", "--patience", "100000", "--context", "64",
    ]  # fmt: skip
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while saved_step(state_path(output)) < 2 and child.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert said == "error: interrupted\nhint: the same command with `--resume` goes on from the last look\n"
    assert state_path(output).exists()
    assert not output.exists()


def test_a_state_is_not_overlooked(trained: Trainer, tmp_path: Path) -> None:
    """An interrupted training is neither overwritten nor taken for another one."""
    state = state_path(tmp_path / "out")
    with pytest.raises(TrainError) as caught:
        trained(resume=True)
    assert caught.value.message == f"nothing to resume: there is no `{state}`"

    (tmp_path / "out").mkdir()
    with pytest.raises(TrainError) as caught:
        trained(resume=True)
    assert caught.value.message == f"nothing to resume: `{tmp_path / 'out'}` is there, so its training has ended"
    (tmp_path / "out").rmdir()

    state.write_bytes(b"no state")
    with pytest.raises(TrainError) as caught:
        trained()
    assert caught.value.message == f"a training was interrupted: `{state}` is there"
    with pytest.raises(TrainError) as caught:
        trained(resume=True)
    assert caught.value.message.startswith(f"`{state}` is not a state of a training: ")


def test_other_options_do_not_resume(trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs is named."""
    with monkeypatch.context() as patch:
        patch.setattr("moemerge.train.loop.Loop.go", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trained()
    state = state_path(tmp_path / "out")
    assert saved_step(state) == 0
    with pytest.raises(TrainError) as caught:
        trained(resume=True, rate=0.5, seed=3)
    lines = caught.value.message.splitlines()
    assert lines[:3] == [
        f"`{state}` is of a training that was asked for something else:", "  rate: 0.02 then, 0.5 now",
        "  seed: 0 then, 3 now",
    ]  # fmt: skip
    assert trained(resume=True).training["steps"] == 6


@pytest.mark.parametrize(
    ("asked", "differing"),
    [
        ({}, []),
        ({"calibrate": True}, ["  calibrate: True then, None now"]),
        ({"distil_weight": 0.5}, ["  distil_weight: 0.5 then, None now"]),
        (
            {"distil_weight": 1.0, "temperature": 3.0},
            ["  distil_weight: 1.0 then, None now", "  temperature: 3.0 then, None now"],
        ),
    ],
)
def test_an_older_state_resumes(
    asked: dict[str, Any], differing: list[str], trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells of options that were deleted: nothing differs where they were not asked for."""
    account = TrainOptions.account
    older = {"calibrate": False, "distil_weight": 0.0, "temperature": 2.0} | asked
    with monkeypatch.context() as patch:
        patch.setattr(TrainOptions, "account", lambda self: {**account(self), **older})
        patch.setattr("moemerge.train.loop.Loop.go", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trained()
    if not differing:
        assert trained(resume=True).training["steps"] == 6
        return
    with pytest.raises(TrainError) as caught:
        trained(resume=True)
    assert caught.value.message.splitlines()[1:] == differing


def test_a_full_disk_is_said(trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that cannot be written ends training with its reason, and no output appears."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moemerge.train.state.os.fsync", full)
    with pytest.raises(TrainError) as caught:
        trained()
    state = state_path(tmp_path / "out")
    assert caught.value.message == f"the checkpoint `{state}` cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []

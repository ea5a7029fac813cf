"""Several processes train as one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moemerge.errors import TrainError
from moemerge.mixture.processes import Processes
from moemerge.train.sharding import check_sharding, wants_sharding
from moemerge.train.state import state_path
from moemerge.verify import verify_folder
from tests.evaluate.test_processes import ROOT
from tests.train.test_resume import saved_step

TERMS = ("next_token", "balance", "z", "domain", "first", "held_out")


def launched(folder: Path, output: Path, texts: Path, processes: int, *more: str) -> list[str]:
    """The command of a `train-router --json` run by so many processes."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += [
            "accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1",
            "--main_process_port", "0", "-m",
        ]  # fmt: skip
    command += [
        "moemerge", "train-router", str(folder), "-o", str(output), "--data", str(texts), "--steps", "6", "--rows", "3",
        "--accumulation", "3", "--context", "64", "--judge-every", "1", "--rate", "0.05", "--balance-weight", "0.1",
        "--json", "-q", *more,
    ]  # fmt: skip
    return command


def trained(folder: Path, output: Path, texts: Path, processes: int, *more: str, **environment: str) -> dict[str, Any]:
    """What it prints."""
    command = launched(folder, output, texts, processes, *more)
    given = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=given, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("also", [pytest.param("", marks=pytest.mark.slow), "attention,experts"])
def test_two_processes_train_as_one_does(also: str, unrouted: Path, texts: Path, trio: Any) -> None:
    """Three passes a step, so the shares differ: every term of every step is one process' to 1e-5."""
    one = trained(unrouted, trio.root / f"one-{also}", texts, 1, "--also", also)
    two = trained(unrouted, trio.root / f"two-{also}", texts, 2, "--also", also)
    assert [entry["step"] for entry in two["history"]] == list(range(7))
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        for term in TERMS:
            assert ours.get(term) == pytest.approx(theirs.get(term), abs=1e-5), (ours["step"], term)
    assert two["kept"] == one["kept"] == "best"
    assert verify_folder(trio.root / f"two-{also}").differences == ()


SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What `accelerate launch` tells the processes where its file says FSDP2."""


@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), marks=pytest.mark.slow),
        ("--also", "attention,experts", "--checkpointing"),
        pytest.param(("--dtype", "bfloat16"), marks=pytest.mark.slow),
    ],
)
def test_two_processes_that_share_the_model_train_as_one_does(
    more: tuple[str, ...], unrouted: Path, texts: Path, trio: Any
) -> None:
    """Each decoder layer in halves: every term of every step is one process' to 1e-5."""
    name = f"shared-{len(more)}"
    one = trained(unrouted, trio.root / f"{name}-1", texts, 1, "--accumulation", "2", *more)
    two = trained(unrouted, trio.root / f"{name}-2", texts, 2, "--accumulation", "2", *more, **SHARDED)
    assert [entry["step"] for entry in two["history"]] == list(range(7))
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        for term in TERMS:
            assert ours.get(term) == pytest.approx(theirs.get(term), abs=1e-5), (ours["step"], term)
    assert two["kept"] == one["kept"]
    assert verify_folder(trio.root / f"{name}-2").differences == ()


@pytest.mark.parametrize("way", [pytest.param({}, id="ddp"), pytest.param(SHARDED, id="fsdp2", marks=pytest.mark.slow)])
def test_a_training_of_two_processes_saves_and_resumes(
    way: dict[str, str], unrouted: Path, texts: Path, trio: Any
) -> None:
    """Both are killed at the end of a training that they shared; going on gives the same folder."""
    output, whole = (trio.root / f"two-{len(way)}-{name}" for name in ("resumed", "whole"))
    state = state_path(output)
    command = launched(unrouted, output, texts, 2, "--accumulation", "2")
    given = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | way
    child = subprocess.Popen(
        command, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while saved_step(state) < 2 and child.poll() is None:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert saved_step(state) >= 2
    assert not output.exists()
    trained(unrouted, output, texts, 2, "--accumulation", "2", "--resume", **way)
    trained(unrouted, whole, texts, 2, "--accumulation", "2", **way)
    assert (output / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_layers_really_lie_in_parts() -> None:
    """Of each decoder layer a process holds half; what is trained is whole, and so are its gradients."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | SHARDED
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d",
        "--rdzv_endpoint", "localhost:0", "-m", "tests.train.sharded",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as it should be") == 2


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported: the model is shared by FSDP 2"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP 1 is not supported: the model is shared by FSDP 2"),
    ],
)
def test_other_ways_to_share_a_model_are_refused(environment: dict[str, str], message: str) -> None:
    """Said before any work, with what does it."""
    with pytest.raises(TrainError) as caught:
        wants_sharding(environment)
    assert caught.value.message == message


def test_passes_that_cannot_be_shared_evenly_are_refused() -> None:
    """A process without a pass would wait for ever."""
    with pytest.raises(TrainError) as caught:
        check_sharding(Processes(0, 2), 3)
    assert caught.value.message == "`--accumulation 3` is not a multiple of the 2 processes, as parts need"
    check_sharding(Processes(0, 2), 4)

"""Several processes train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moemerge.verify import verify_folder
from tests.evaluate.test_processes import ROOT

TERMS = ("next_token", "balance", "z", "domain", "distil", "held_out")


def trained(folder: Path, output: Path, texts: Path, processes: int, *more: str) -> dict[str, Any]:
    """The report of `train-router --json`, run by so many processes."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += [
            "accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1",
            "--main_process_port", "0", "-m",
        ]  # fmt: skip
    command += [
        "moemerge", "train-router", str(folder), "-o", str(output), "--data", str(texts), "--steps", "6", "--rows", "3",
        "--accumulation", "3", "--context", "64", "--judge-every", "1", "--rate", "0.02", "--balance-weight", "0.1",
        "--distil-weight", "0.5", "--json", "-q", *more,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("also", ["", "attention,experts"])
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

"""Several processes give one process' figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluate.conftest import measure

ROOT = Path(__file__).parents[2]


def test_two_processes_give_the_figures_of_one(built: Path, tmp_path: Path) -> None:
    """Under `accelerate launch` each scores half of the batches; the report is the same to rounding of sums."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1",
        "--main_process_port", "0",
        "-m", "moemerge", "eval", str(built), "--without", "samples,chat,speed,questions", "--json", "-q",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MOEMERGE_CACHE": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout), measure(built)
    for domain, found in theirs["domains"].items():
        for key in ("base", "specialist", "linear_merge", "oracle_routed", "random_gate", "moe"):
            assert ours["domains"][domain][key] == pytest.approx(found[key], abs=1e-12)
    assert ours["routing"]["confusion_by_layer"] == theirs["routing"]["confusion_by_layer"]
    assert ours["routing"]["load"] == pytest.approx(theirs["routing"]["load"], abs=1e-12)
    assert ours["gain_kept"] == pytest.approx(theirs["gain_kept"], abs=1e-9)
    assert len(list((tmp_path / "losses-1").iterdir())) == 24, "the first process keeps what was computed"

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

IN_SMALL_BATCHES = """
from moemerge.__main__ import main
from moemerge.mixture import losses

losses.LOGITS = 128 * 200
main()
"""
"""The command, with batches of 200 tokens: by itself one would hold a domain."""
ROUNDED = 1e-6
"""Nats. A token's loss is an fp32 number of a few nats, whose last place is 2e-7; batches of another width, and other
processes, round it otherwise. A batch that is left out or counted twice changes a mean by a fifth."""


def test_two_processes_give_the_figures_of_one(built: Path, tmp_path: Path) -> None:
    """Under `accelerate launch` each scores half of the batches; the report is the same to the rounding of losses."""
    (tmp_path / "small.py").write_text(IN_SMALL_BATCHES, encoding="utf-8")
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1",
        "--main_process_port", "0",
        str(tmp_path / "small.py"), "eval", str(built), "--without", "samples,chat,speed,questions", "--json", "-q",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MOEMERGE_CACHE": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout), measure(built)
    for domain, found in theirs["domains"].items():
        for key in ("base", "specialist", "linear_merge", "oracle_routed", "random_gate", "moe"):
            assert ours["domains"][domain][key] == pytest.approx(found[key], abs=ROUNDED)
    assert ours["routing"]["confusion_by_layer"] == theirs["routing"]["confusion_by_layer"]
    assert ours["routing"]["load"] == pytest.approx(theirs["routing"]["load"], abs=1e-12)
    assert ours["gain_kept"] == pytest.approx(theirs["gain_kept"], abs=10 * ROUNDED)
    assert len(list((tmp_path / "losses-1").iterdir())) == 24, "the first process keeps what was computed"

"""The benchmarks run: a benchmark that is not tried stops working unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]


def run(script: str, *options: str, status: int = 0) -> list[list[str]]:
    """The cells of the table's rows that a script prints; nothing may come on stderr but bars."""
    command = [sys.executable, f"benchmarks/{script}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, ""), done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("kind", [[], ["--adapters"]])
def test_the_build_is_measured_beside_cp(kind: list[str], tmp_path: Path) -> None:
    """`--small` makes its sources, runs `cp` and a whole build, prints the table and leaves nothing with `--clean`."""
    rows = run("build_vs_cp.py", "--small", "--runs", "1", "--clean", "--work", str(tmp_path), *kind)
    assert [row[0] for row in rows] == [
        "", "`cp -r`", "`moemerge build --gate random`", "write, with `mean`", "verify, with `mean`",
        "the same, `merge.shared=base`", "write, with `base`", "verify, with `base`",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_growth_is_measured(tmp_path: Path) -> None:
    """`--small` builds with two and four experts and leaves nothing."""
    rows = run("build_growth.py", "--small", "--shared", "base", "--work", str(tmp_path))
    assert [row[:3] for row in rows[-2:]] == [["base", "small", "2"], ["base", "small", "4"]]
    assert list(tmp_path.iterdir()) == []


def test_means_are_compared_with_those_of_fp64(tmp_path: Path) -> None:
    """One number of two cancels but for what fp32 rounds off; without the small operands nothing differs."""
    folders = []
    for number in (1.0, 2.0**-24, -1.0, -(2.0**-24)):
        folders.append(tmp_path / str(len(folders)))
        folders[-1].mkdir()
        tensors = {"norm": torch.tensor([number, 1.0]).bfloat16(), "a.mlp.up": torch.tensor([number]).bfloat16()}
        save_file(tensors, folders[-1] / "model.safetensors")
    assert run("mean_precision.py", *map(str, folders), status=1) == []
    assert run("mean_precision.py", *map(str, folders[::2])) == []


def test_attention_is_measured_beside_torchs() -> None:
    """Short rows of one document and of four."""
    rows = run("train_attention.py", "--tokens", "64", "--rows", "16", "32", "--runs", "1")
    assert [row[:2] for row in rows[1:]] == [["16", "1"], ["16", "4"], ["32", "1"], ["32", "4"]]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[2:])


@pytest.mark.slow
def test_running_the_result_is_measured() -> None:
    """Two experts of the demo, by all implementations."""
    rows = run("inference.py", "--experts", "2", "--new", "2", "--prompt", "8", "--runs", "1")
    assert {row[0] for row in rows[1:]} >= {"the dense base", "2 experts, top-2", "2 experts, top-1"}


@pytest.mark.slow
def test_the_table_of_gates(tmp_path: Path) -> None:
    """On the demo: a gate that is fitted, and one that looks at nothing."""
    rows = run("gates.py", "--only", "uniform", "hidden_avg", "--work", str(tmp_path))
    names = ["base model", "own specialist", "dense linear merge", "uniform", "oracle routing", "hidden_avg"]
    assert sorted({row[0] for row in rows} - {"gate", "---"}) == sorted(names)

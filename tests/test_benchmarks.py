"""The benchmarks run: a benchmark that is not tried stops working unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_build_is_measured_beside_cp(tmp_path: Path) -> None:
    """`--small` makes its sources, runs `cp` and a whole build, prints the table and leaves nothing with `--clean`."""
    options = ["--small", "--runs", "1", "--clean", "--work", str(tmp_path)]
    command = [sys.executable, "benchmarks/build_vs_cp.py", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    named = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert named == [
        "", "`cp -r`", "`moemerge build --gate random`", "write, with `mean`", "verify, with `mean`",
        "the same, `merge.shared=base`", "write, with `base`", "verify, with `base`",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []

"""Single files appear complete or not at all, and what killed runs left beside them goes with the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from moemerge.files import remove_leftovers, replacing

STARTS = """
import os, sys
from pathlib import Path
from moemerge.files import replacing
with replacing(Path(sys.argv[1])) as beside:
    beside.write_bytes(b"half")
    print(beside.name, flush=True)
    sys.stdin.read()
"""


def started(target: Path) -> tuple[subprocess.Popen[str], str]:
    """A run that has begun to write, and the name of its unfinished file."""
    run = subprocess.Popen([sys.executable, "-c", STARTS, target], stdin=-1, stdout=-1, text=True)
    assert run.stdout is not None
    return run, run.stdout.readline().strip()


def end(run: subprocess.Popen[str], number: int) -> None:
    """Ends it by a signal."""
    run.send_signal(number)
    run.communicate()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Its lock is held by nobody."""
    target = tmp_path / "model.gguf"
    run, name = started(target)
    end(run, signal.SIGKILL)
    assert os.listdir(tmp_path) == [name]
    with replacing(target) as beside:
        beside.write_bytes(b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.gguf", b"whole")]


def test_what_another_run_still_writes_is_left_alone(tmp_path: Path) -> None:
    """Two runs with one target: each has its own unfinished file."""
    target = tmp_path / "model.gguf"
    run, name = started(target)
    try:
        assert remove_leftovers(target) == []
        with replacing(target) as beside:
            beside.write_bytes(b"whole")
        assert sorted(os.listdir(tmp_path)) == sorted([name, "model.gguf"])
    finally:
        end(run, signal.SIGKILL)
    assert remove_leftovers(target) == [name]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """Those of other targets, of other names, links and folders."""
    kept = {
        ".other.gguf.moemerge-0123abcd.part", ".model.gguf.moemerge-0123abcd", ".model.gguf.0123abcd.part",
        ".model.gguf.moemerge-xyz.part", "model.gguf.moemerge-0123abcd.part",
    }  # fmt: skip
    for name in kept:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / ".model.gguf.moemerge-00000001.part").symlink_to(tmp_path / "model.gguf.moemerge-0123abcd.part")
    (tmp_path / ".model.gguf.moemerge-00000002.part").mkdir()
    before = sorted(os.listdir(tmp_path))
    assert remove_leftovers(tmp_path / "model.gguf") == []
    assert sorted(os.listdir(tmp_path)) == before

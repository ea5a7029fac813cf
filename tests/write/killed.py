"""Kills a publication at each of its steps in turn, and looks at what the next run makes of it.

Run as `python -m tests.write.killed PARENT NEW [OLD]`: each step is a real process that ends by `os._exit`.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from moemerge.write import check_output, remove_orphan, staged

EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock"})


def contents(folder: Path) -> dict[str, bytes] | None:
    """Every file's bytes; None for no folder."""
    if not folder.exists():
        return None
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(out: Path, new: Path) -> None:
    """What a build does with its output, the contents being there already."""
    with staged(out, overwrite=True, warn=lambda text: os._exit(2)) as folder:
        shutil.copytree(new, folder, dirs_exist_ok=True)


def dies_at(step: int, out: Path, new: Path) -> int:
    """The exit status of a publication that ends just before its step of that number: 7, or 0 where it has fewer."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in EVENTS and (event == "fcntl.flock" or ".moemerge-" in str(arguments)):
            seen += 1
            if seen == step:
                os._exit(7)

    sys.addaudithook(hook)
    publish(out, new)
    os._exit(0)


def main(parent: Path, new: Path, old: Path | None) -> None:
    """Fails where an output is neither whole, nor absent as it was, or where something stays."""
    wanted = [contents(new), contents(old) if old else None]
    step, status = 0, 7
    while status == 7:
        step += 1
        out = parent / f"step-{step}" / "out"
        out.parent.mkdir()
        if old:
            shutil.copytree(old, out)
        status = dies_at(step, out, new)
        for orphan in check_output(out, overwrite=True, needed=0):
            assert remove_orphan(orphan, out) == [], step
        assert contents(out) in wanted, step
        assert [path.name for path in out.parent.iterdir()] == (["out"] if out.exists() else []), step
        publish(out, new)
        assert contents(out) == wanted[0], step
        assert [path.name for path in out.parent.iterdir()] == ["out"], step
    assert status == 0
    print(step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)

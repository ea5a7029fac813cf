"""A working folder whose models a test may spoil, and a disk of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input.command import Disk
from tests.conftest import TinyMaker


@pytest.fixture(autouse=True)
def work(tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a working folder with three tiny models that a test may spoil."""
    for seed, name in enumerate(("base", "code", "math")):
        shutil.copytree(tiny("llama", seed), tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def disk(work: None) -> Iterator[Disk]:
    """Mounts a disk of its own at `disk`, with the options that it is called with."""
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here")
    place = Path("disk").absolute()
    place.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)

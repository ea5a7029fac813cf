"""A disk that is too small or fills up: said in time, and nothing that was trained is lost."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from moemerge.api import train_router
from moemerge.errors import MoemergeError, WriteError
from moemerge.mixture.folder import open_moe
from moemerge.train.options import TrainOptions
from moemerge.train.space import state_bytes, trainable, training_bytes
from moemerge.train.state import state_path
from tests.evaluate.conftest import Trio
from tests.evaluate.test_processes import ROOT
from tests.train.conftest import Notes, Trainer
from tests.train.interrupted import options
from tests.train.test_resume import saved_step
from tests.train.test_run import contents

KINDS: tuple[dict[str, Any], ...] = (
    {}, {"method": "full"}, {"rank": 3, "also": ("attention",)}, {"also": ("attention", "experts")},
)  # fmt: skip


def fill(place: Path) -> None:
    """Takes all the space that is left."""
    with suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB of its own; only root can make one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("given", KINDS)
def test_what_a_state_takes_is_known_before(given: Any, trained: Trainer, unrouted: Path, tmp_path: Path) -> None:
    """The largest state written is no larger than what was reserved, and its tensors are most of what is trained."""
    sizes = [0]

    class Watching(Notes):
        def note(self, text: str) -> None:
            if state_path(tmp_path / "out").exists():
                sizes.append(state_path(tmp_path / "out").stat().st_size)

    trained(progress=Watching(), steps=9, **given)
    folder, asked = open_moe(unrouted), TrainOptions(**given)
    slack = 1 << 20
    assert 4 * 5 * trainable(folder, asked) < max(sizes) < state_bytes(folder, asked)
    assert state_bytes(folder, asked) - slack < 2 * max(sizes)


def test_too_little_space_is_said_before_any_work(trained: Trainer, small: Path) -> None:
    """Less is free than output and states take."""
    (small / "filler").write_bytes(bytes(3 << 20))
    with pytest.raises(WriteError) as caught:
        trained(output=small / "out")
    assert caught.value.problems[0].code == "no-space"
    assert "bytes are needed and" in caught.value.message
    assert [path.name for path in small.iterdir()] == ["filler"]


def test_a_disk_that_fills_up_keeps_the_state_before(trained: Trainer, unrouted: Path, small: Path) -> None:
    """Somebody else takes the space in the middle of the training: the last state stays, and it is the way on."""
    output = small / "out"

    class Filling(Notes):
        def note(self, text: str) -> None:
            super().note(text)
            if text.startswith("step 3/"):
                fill(small)

    given = {"output": output, "also": ("attention", "experts"), "rate": 2e-2, "steps": 9}
    with pytest.raises(MoemergeError) as caught:
        trained(progress=Filling(), **given)
    state = state_path(output)
    assert caught.value.message == f"the checkpoint `{state}` cannot be written: No space left on device"
    assert caught.value.problems[0].hint == "the one before it is kept: free some space, then go on with `--resume`"
    assert sorted(path.name for path in small.iterdir()) == ["filler", state.name]
    assert saved_step(state) == 0
    (small / "filler").unlink()
    again = trained(resume=True, **given)
    assert again.path == output
    whole = trained(**given | {"output": small.parent / "whole"})
    assert again.training == whole.training
    ours, theirs = contents(output), contents(whole.path)
    assert ours["model.safetensors"] == theirs["model.safetensors"]


def test_a_disk_that_is_full_at_the_end_loses_no_step(trained: Trainer, small: Path) -> None:
    """The output cannot be written: it is absent, the state stays, and `--resume` writes what was trained."""
    output = small / "out"

    class Filling(Notes):
        def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
            if name == "write" and not (small / "filler").exists():
                fill(small)

    with pytest.raises(WriteError) as caught:
        trained(output=output, rate=2e-2, progress=Filling())
    assert caught.value.message == f"no space left while writing `{output}`: nothing was kept"
    assert caught.value.problems[0].hint == "free some space: `--resume` then writes what was trained"
    state = state_path(output)
    assert sorted(path.name for path in small.iterdir()) == ["filler", state.name]
    (small / "filler").unlink()
    notes = Notes()
    assert trained(output=output, rate=2e-2, resume=True, progress=notes).training["steps"] == 6
    assert not [text for text in notes.said if text.startswith("step ")], "no step is done again"
    assert not state.exists()


def test_a_file_that_may_not_grow(unrouted: Path, texts: Path, trio: Trio) -> None:
    """The system's own limit on a file's size, in a process of its own, lets the first state be and not the second."""
    output = trio.root / "limited"
    state = state_path(output)

    class First(Notes):
        size = 0

        def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
            if name == "train":
                First.size = state.stat().st_size  # without the optimiser's moments, which the second state has
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_router(unrouted, output, options(texts, "lora"), First())
    state.unlink()
    limit = First.size + 64
    command = [sys.executable, "-m", "tests.train.interrupted", str(unrouted), str(output), str(texts), "lora"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode != 0
    assert f"the checkpoint `{state}` cannot be written: File too large" in done.stderr
    assert saved_step(state) == 0
    assert not output.exists()
    assert train_router(unrouted, output, options(texts, "lora"), resume=True).training["steps"] == 40


def test_an_adapter_takes_less(unrouted: Path) -> None:
    """No model is written."""
    folder = open_moe(unrouted)
    adapter = training_bytes(folder, TrainOptions(adapter_only=True))
    assert adapter < training_bytes(folder, TrainOptions()) + (1 << 20)
    assert adapter > 2 * state_bytes(folder, TrainOptions())

"""Outputs that cannot be written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.bad_input.command import UP, Disk, change_tensors, refused_by_build, refused_in_a_process


def test_an_output_that_exists() -> None:
    """Whatever is there stays; `--overwrite` is for what moemerge made."""
    Path("out").mkdir()
    Path("out/mine.txt").touch()
    Path("link").symlink_to("nowhere")
    exists = "hint: choose another with `-o`, or pass `--overwrite` to replace a folder that moemerge made\n"
    assert refused_by_build() == f"error: output `WORK/out` exists\n{exists}"
    assert refused_by_build(out="link") == f"error: output `WORK/link` exists\n{exists}"
    assert refused_by_build(out=".") == f"error: output `WORK` exists\n{exists}"
    assert refused_by_build(out="/") == f"error: output `/` exists\n{exists}"
    assert refused_by_build("--overwrite") == (
        "error: output `WORK/out` was not made by moemerge, so it is not overwritten\n"
        "hint: remove it yourself, or choose another with `-o`\n"
    )


def test_an_output_that_cannot_be_a_folder() -> None:
    """In a file, with a name that no file system takes, or with one that no record can hold."""
    assert refused_by_build(out="recipe.yaml/out") == (
        "error: `WORK/recipe.yaml` is not a folder\nhint: choose another output with `-o`\n"
    )
    for length in (240, 300):  # the staged folder's name is a little longer than the output's
        name = "x" * length
        said = refused_by_build(out=f"new/{name}")
        assert said == f"error: `WORK/new/{name}` cannot be written: File name too long\n"
    said = refused_by_build(out="\udcff")
    assert said == "error: output '\\udcff' is not a path in UTF-8\nhint: choose another with `-o`\n"


def test_folders_made_for_a_failed_build_go_with_it() -> None:
    """Folders above the output that were missing are removed again, and nothing else."""
    change_tensors("code", {UP: torch.full((48, 32), float("nan"))})
    Path("kept").mkdir()
    assert "holds NaN or Inf" in refused_by_build(out="kept/a/b/out")


def test_no_space_left_before_the_build(disk: Disk) -> None:
    """A disk that is too small is found before any work."""
    disk("size=1m")
    message = refused_by_build(out="disk/out")
    assert re.sub("1,1[0-9]{2},[0-9]{3}", "NEEDED", message) == (
        "error: no space left for `WORK/disk/out`: NEEDED bytes are needed and 1,048,576 are free\n"
        "hint: free some space, or choose another disk with `-o`\n"
    )


@pytest.mark.parametrize("files", [2, 3, 5, 9])
def test_no_space_left_while_it_is_written(files: int, disk: Disk) -> None:
    """A disk with room for bytes and not for files ends the writing at its first file, between, and at its last."""
    disk(f"size=16m,nr_inodes={files}")
    assert refused_by_build(out="disk/out") == (
        "error: no space left while writing `WORK/disk/out`: nothing was kept\n"
        "hint: free some space, or choose another disk with `-o`\n"
    )


def test_a_limit_to_the_size_of_files() -> None:
    """The same in the middle of a file, and where mounting is not allowed: `ulimit -f`."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        message = refused_by_build()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message == (
        "error: a file of `WORK/out` is larger than its disk or `ulimit -f` allows: nothing was kept\n"
        "hint: set a smaller `output.shard_size`, or choose another disk with `-o`\n"
    )


def test_no_permission_on_a_disk_that_is_read_only(disk: Disk) -> None:
    """Found before any work."""
    disk("size=16m,ro")
    assert refused_by_build(out="disk/out") == (
        "error: no permission to write in `WORK/disk`\nhint: choose another output with `-o`\n"
    )


def test_no_permission_to_write() -> None:
    """A folder that the user may not write in, found before any work."""
    Path("locked").mkdir(mode=0o555)
    assert refused_in_a_process(out="locked/new/out") == (
        "error: no permission to write in `WORK/locked`\nhint: choose another output with `-o`\n"
    )


def test_no_permission_to_read() -> None:
    """Every source that the user may not read is named."""
    for name in ("code/model.safetensors", "math/config.json"):
        Path("models", name).chmod(0)
    assert refused_in_a_process() == (
        "error: expert `code`: `WORK/models/code/model.safetensors` cannot be read: Permission denied\n"
        "error: expert `math`: `WORK/models/math/config.json` cannot be read: Permission denied\n"
    )

"""Copies are the bytes, by the kernel and without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moemerge.write.copy import Copier


@pytest.mark.parametrize("in_kernel", [True, False])
@pytest.mark.parametrize(("start", "length", "place"), [(0, 100_000, 0), (17, 50_001, 9), (99_999, 1, 3), (5, 0, 0)])
def test_ranges_arrive_where_they_belong(tmp_path: Path, in_kernel: bool, start: int, length: int, place: int) -> None:
    """Any range, at any offset, in either way."""
    data = os.urandom(100_000)
    (tmp_path / "source").write_bytes(data)
    copier = Copier()
    copier._in_kernel = copier._in_kernel and in_kernel
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb+") as target:
        copier.copy(source.fileno(), start, target.fileno(), place, length)
    assert (tmp_path / "target").read_bytes() == b"\0" * (place if length else 0) + data[start : start + length]


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_source_that_ends_early_is_an_error(tmp_path: Path, in_kernel: bool) -> None:
    """Missing bytes are never filled up in silence."""
    (tmp_path / "source").write_bytes(b"1234567890")
    copier = Copier()
    copier._in_kernel = copier._in_kernel and in_kernel
    early = pytest.raises(EOFError, match="6 bytes are missing")
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb+") as target, early:
        copier.copy(source.fileno(), 4, target.fileno(), 0, 12)


def test_another_file_system_falls_back(tmp_path: Path) -> None:
    """Where the kernel refuses to copy between file systems, the bytes go through memory."""
    shm = Path("/dev/shm")
    if not shm.is_dir():
        pytest.skip("no second file system on this machine")
    other = shm / f"moemerge-test-{os.getpid()}"
    data = os.urandom(70_000)
    (tmp_path / "source").write_bytes(data)
    try:
        with (tmp_path / "source").open("rb") as source, other.open("wb+") as target:
            Copier().copy(source.fileno(), 0, target.fileno(), 0, len(data))
        assert other.read_bytes() == data
    finally:
        other.unlink()

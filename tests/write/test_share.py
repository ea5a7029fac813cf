"""What was read arrives in the target, as shared blocks or written; nothing is cut within a number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moemerge.write import share
from moemerge.write.share import CHUNK, Sharer, chunks

SIZE = 5 * 4096 + 123


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[bytes, int, int]]:
    """A source's bytes, its descriptor, and that of an empty target."""
    data = os.urandom(SIZE)
    (tmp_path / "source").write_bytes(data)
    source, target = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("source", "target"))
    yield data, source, target
    os.close(source)
    os.close(target)


def clone(monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> list[tuple[int, int, int]]:
    """Stands in for a file system that shares blocks, or refuses to; gives what it was asked for."""
    asked: list[tuple[int, int, int]] = []

    def ioctl(target: int, request: int, argument: bytes) -> None:
        assert request == 0x4020940D
        source, start, length, place = share.struct.unpack("=qQQQ", argument)
        asked.append((start, length, place))
        if error is not None:
            raise error
        os.pwrite(target, os.pread(source, length, start), place)

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    return asked


@pytest.mark.parametrize(
    ("start", "length", "place"), [(0, SIZE, 0), (17, 9000, 17 + 4096), (5, 100, 5), (5, 0, 5), (1, 9000, 2)]
)
def test_ranges_arrive_where_they_belong(
    start: int, length: int, place: int, files: tuple[bytes, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole blocks are shared where they lie alike in both files; the rest is written."""
    data, source, target = files
    asked = clone(monkeypatch)
    Sharer().write(source, start, target, place, memoryview(data)[start : start + length])
    assert os.pread(target, SIZE * 2, 0) == (b"\0" * place if length else b"") + data[start : start + length]
    aligned = [(s, n, p) for s, n, p in asked if s % 4096 == n % 4096 == p % 4096 == 0]
    assert asked == aligned
    assert asked == {(0, SIZE, 0): [(0, 20480, 0)], (17, 9000, 4113): [(4096, 4096, 8192)]}.get(
        (start, length, place), []
    )


def test_a_refusal_is_remembered(files: tuple[bytes, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked once, and everything is written."""
    data, source, target = files
    asked = clone(monkeypatch, OSError(95, "Operation not supported"))
    sharer = Sharer()
    for start in (0, 4096):
        sharer.write(source, start, target, start, memoryview(data)[start : start + 4096])
    assert asked == [(0, 4096, 0)]
    assert os.pread(target, 8192, 0) == data[:8192]


@pytest.mark.parametrize("offset", [0, 8, CHUNK - 8, CHUNK, 3, CHUNK + 1])
@pytest.mark.parametrize("length", [0, 8, CHUNK, CHUNK + 16, 3 * CHUNK])
def test_chunks_cover_a_range_in_order(offset: int, length: int) -> None:
    """Cut at multiples of the chunk in the file, or where that would cut numbers, of the range."""
    found: Any = chunks(offset, length)
    assert sum(found.values()) == length
    end = 0
    for start, size in found.items():
        assert (start, 0 < size <= CHUNK) == (end, True)
        assert not start or (start if offset % 8 else offset + start) % CHUNK == 0
        end = start + size

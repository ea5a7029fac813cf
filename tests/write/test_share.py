"""Blocks are shared where they can be, and what is shared is not written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moemerge.execute import blocks
from moemerge.write import share
from moemerge.write.share import Sharer
from tests.conftest import TinyMaker
from tests.moe import build_tiny

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
    ("start", "length", "place", "shared"),
    [
        (0, SIZE, 0, range(20480)),
        (17, 9000, 17 + 4096, range(4079, 8175)),
        (5, 100, 5, range(0)),
        (5, 0, 5, range(0)),
        (1, 9000, 2, range(0)),
    ],
)
def test_whole_blocks_that_lie_alike_in_both_files_are_shared(
    start: int, length: int, place: int, shared: range, files: tuple[bytes, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is asked of the kernel."""
    data, source, target = files
    asked = clone(monkeypatch)
    assert Sharer().share(source, start, target, place, length) == shared
    assert len(asked) == bool(shared)
    assert all(number % 4096 == 0 for one in asked for number in one)
    there = os.pread(target, len(shared), place + shared.start)
    assert there == data[start + shared.start : start + shared.stop]


def test_a_refusal_is_remembered(files: tuple[bytes, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked once."""
    _, source, target = files
    asked = clone(monkeypatch, OSError(95, "Operation not supported"))
    sharer = Sharer()
    assert [sharer.share(source, start, target, start, 4096) for start in (0, 4096)] == [range(0)] * 2
    assert asked == [(0, 4096, 0)]


@pytest.mark.parametrize("layout", ["per_expert", "fused"])
def test_a_build_leaves_shared_blocks_alone(
    layout: str, tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks of 64 bytes, so that tensors have shared and written parts: the same output as without sharing."""
    models = [tiny("llama", seed) for seed in range(3)]
    plain = build_tiny(tmp_path / "plain", models[0], models[1:], output={"layout": layout})
    asked = clone(monkeypatch)
    written: list[tuple[int, int]] = []
    fstat, pwrite = os.fstat, os.pwrite

    def small_blocks(descriptor: int) -> Any:
        state = fstat(descriptor)
        return SimpleNamespace(st_dev=state.st_dev, st_mode=state.st_mode, st_size=state.st_size, st_blksize=64)

    def noted(descriptor: int, data: Any, offset: int) -> int:
        written.append((offset, offset + len(data)))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(share, "os", SimpleNamespace(fstat=small_blocks, pwrite=noted))
    monkeypatch.setattr(blocks, "ELEMENTS", 250)
    shared = build_tiny(tmp_path / "shared", models[0], models[1:], output={"layout": layout})
    assert (shared / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert len(asked) > 10
    for _, length, place in asked:
        assert not [span for span in written if span[0] < place + length and place < span[1]]

"""Whether a stored tensor is zero throughout, told by its bytes: mostly by the first ones, and without torch."""

from __future__ import annotations

from collections.abc import Iterator

from moemerge.sources.checkpoint import ByteRange
from moemerge.sources.safetensors_file import read_bytes

FIRST, BLOCK = 1 << 16, 1 << 22
"""Bytes that are read of a matrix at first, and at a time after that."""


def is_zero(place: ByteRange, size: int) -> bool:
    """Whether every number of so many bytes is 0 or -0.

    Raises:
        SourceError: the file is shorter than its header says.
    """
    return all(_is_zero(block, size) for block in blocks(place))


def blocks(place: ByteRange) -> Iterator[bytearray]:
    """The bytes, a little at first."""
    start, size = 0, FIRST
    while start < place.length:
        size = min(size, place.length - start)
        yield read_bytes(ByteRange(place.path, place.offset + start, size))
        start, size = start + size, BLOCK


def _is_zero(block: bytearray, size: int) -> bool:
    """The sign of -0 is the first bit of a number's last byte."""
    if block.translate(None, b"\0\x80"):
        return False
    return not any(block[at::size].strip(b"\0") for at in range(size - 1))

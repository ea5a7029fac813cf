"""Bytes that pass through the digest on their way from file to file, shared on the disk where the file system can."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from itertools import pairwise

CHUNK = 4 << 20
"""Bytes moved at a time: small enough that the digest finds them in the cache that reading filled."""

_CLONE_RANGE = 0x4020940D
"""Linux's `FICLONERANGE`: the target's blocks become the source's own, until one of the two is written."""


class Sharer:
    """Writes what was read from a source, as shared blocks where the file system has them (btrfs, XFS).

    Only blocks that lie at a multiple of the block size in both files can be shared, so that the rest of a range is
    written. The first refusal by the kernel (another file system, another disk) is remembered, a pair of disks.
    """

    def __init__(self) -> None:
        self._refused: set[tuple[int, int]] = set()
        self._disks: dict[int, tuple[int, int]] = {}

    def write(self, source: int, source_offset: int, target: int, target_offset: int, data: memoryview) -> None:
        """Puts the bytes of a source into the target.

        Args:
            source: descriptor of the file that `data` was read from.
            source_offset: where.
            target: descriptor of the file to write.
            target_offset: where.
            data: the bytes.

        Raises:
            OSError: the disk is full, or fails.
        """
        first, last = self._share(source, source_offset, target, target_offset, len(data))
        write_all(target, data[:first], target_offset)
        write_all(target, data[last:], target_offset + last)

    def _share(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> tuple[int, int]:
        """Which bytes of a range are now shared: from the first to the second, counted from the range's start."""
        (here, _), (there, block) = self._disk(source), self._disk(target)
        first = -source_offset % block
        last = length - (source_offset + length) % block
        apart = (source_offset - target_offset) % block
        if (here, there) in self._refused or here != there or apart or first >= last:
            return 0, 0
        try:
            import fcntl

            asked = struct.pack("=qQQQ", source, source_offset + first, last - first, target_offset + first)
            fcntl.ioctl(target, _CLONE_RANGE, asked)
        except (ImportError, OSError):  # a full disk among them, which writing then says again
            self._refused.add((here, there))
            return 0, 0
        return first, last

    def _disk(self, descriptor: int) -> tuple[int, int]:
        """The device and the block size of an open file."""
        if descriptor not in self._disks:
            state = os.fstat(descriptor)
            self._disks[descriptor] = state.st_dev, getattr(state, "st_blksize", 4096)
        return self._disks[descriptor]


def chunks(offset: int, length: int) -> Mapping[int, int]:
    """A range of a file cut where its offset is a multiple of `CHUNK`: start within the range, and length.

    Where numbers do not lie at multiples of their size, the range is cut from its own start, so that none is cut.
    """
    first = CHUNK if offset % 8 else -offset % CHUNK or CHUNK
    cuts = [0, *range(first, length, CHUNK), length]
    return {start: stop - start for start, stop in pairwise(cuts) if stop > start}


def write_all(target: int, data: memoryview, offset: int) -> None:
    """Writes all of `data` at `offset`; one system call may write less."""
    done = 0
    while done < len(data):
        done += os.pwrite(target, data[done:], offset + done)

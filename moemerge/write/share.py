"""Parts of the output that need not be written: the file system lets them be the sources' own blocks (btrfs, XFS)."""

from __future__ import annotations

import os
import struct

_CLONE_RANGE = 0x4020940D
"""Linux's `FICLONERANGE`: the target's blocks become the source's own, until one of the two is written."""


class Sharer:
    """Shares blocks between open files, where they lie at a multiple of the block size in both.

    The first refusal by the kernel (another file system) is remembered for that disk.
    """

    def __init__(self) -> None:
        self._refused: set[int] = set()

    def share(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> range:
        """Makes as much of a range as can be the target's, too.

        Args:
            source: descriptor of a file.
            source_offset: where the range begins.
            target: descriptor of the file that is to have the same bytes.
            target_offset: where.
            length: bytes of the range.

        Returns:
            Which bytes are there now, counted from the range's start; the others are to be written.
        """
        one, other = os.fstat(source), os.fstat(target)
        block = getattr(other, "st_blksize", 4096)
        shared = range(-source_offset % block, length - (source_offset + length) % block)
        apart = (source_offset - target_offset) % block
        if one.st_dev != other.st_dev or other.st_dev in self._refused or apart or not shared:
            return range(0)
        asked = struct.pack("=qQQQ", source, source_offset + shared.start, len(shared), target_offset + shared.start)
        try:
            import fcntl

            fcntl.ioctl(target, _CLONE_RANGE, asked)
        except (ImportError, OSError):  # a full disk among them, which writing then says again
            self._refused.add(other.st_dev)
            return range(0)
        return shared


def write_all(target: int, data: memoryview, offset: int) -> None:
    """Writes all of `data` at `offset`; one system call may write less."""
    done = 0
    while done < len(data):
        done += os.pwrite(target, data[done:], offset + done)

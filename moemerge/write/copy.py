"""Bytes from file to file inside the kernel where it can, and never through a tensor."""

from __future__ import annotations

import errno
import os

CHUNK = 4 << 20
"""Bytes moved at a time: small enough that the digest finds them in the cache that the copy just filled."""

_NOT_HERE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


class Copier:
    """Copies ranges between open files: `copy_file_range`, else `pread` and `pwrite`.

    The first refusal by the kernel (another file system, an old kernel) is remembered.
    """

    def __init__(self) -> None:
        self._in_kernel = hasattr(os, "copy_file_range")

    def copy(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> None:
        """Copies `length` bytes.

        Raises:
            EOFError: the source is shorter than it should be.
            OSError: the disk is full, or fails.
        """
        done = 0
        while done < length:
            moved = self._some(source, source_offset + done, target, target_offset + done, length - done)
            if moved == 0:
                raise EOFError(f"{length - done} bytes are missing")
            done += moved

    def _some(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
        if self._in_kernel:
            try:
                return os.copy_file_range(source, target, length, source_offset, target_offset)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                self._in_kernel = False
        data = os.pread(source, length, source_offset)
        written = 0
        while written < len(data):
            written += os.pwrite(target, memoryview(data)[written:], target_offset + written)
        return len(data)

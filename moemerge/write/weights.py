"""Writes the tensors: preallocated shards, a few threads, each byte digested and scanned right after it is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock

import torch
import xxhash

from moemerge.console import Progress
from moemerge.errors import SourceError, WriteError
from moemerge.plan.model import Compute, Copy, Merged, OutputTensor, Plan, TensorSource
from moemerge.stream import Values, row_blocks
from moemerge.write.copy import CHUNK, Copier
from moemerge.write.finite import has_only_finite
from moemerge.write.shards import Shard

THREADS = 4
"""Tensors in flight. Copying and digesting release Python's lock; more threads only add memory."""


def write_weights(folder: Path, shards: Sequence[Shard], values: Values, progress: Progress) -> dict[str, str]:
    """Writes every shard into `folder`.

    Args:
        folder: the staged folder.
        shards: from `lay_out`.
        values: what the tensors hold; its gates must be fitted.
        progress: is told bytes.

    Returns:
        xxh3-128 (hex) of each tensor's bytes, by name.

    Raises:
        SourceError: a source ended early, or a value is not finite.
        OSError: the disk is full, or fails.
    """
    progress.stage("write", sum(shard.size for shard in shards), "bytes")
    digests: dict[str, str] = {}
    with ExitStack() as stack:
        writer = _Writer(values, stack.enter_context(_open_files()), progress)
        jobs = []
        for shard in shards:
            target = os.open(folder / shard.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            stack.callback(os.close, target)
            _allocate(target, shard.size)
            os.pwrite(target, shard.header, 0)
            jobs += [(tensor, target, offset) for tensor, offset in shard.places]
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        try:
            futures = [(job[0].name, pool.submit(writer.write, *job)) for job in jobs]
            for name, future in futures:
                digests[name] = future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return digests


def _allocate(target: int, size: int) -> None:
    try:
        os.posix_fallocate(target, 0, size)  # a full disk is found here, before anything is computed
    except (AttributeError, OSError) as error:  # macOS has no such call, and some file systems refuse it
        if getattr(error, "errno", None) not in (None, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(target, size)


class _OpenFiles:
    """Source files opened once, by path."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._lock = Lock()

    def descriptor(self, path: Path) -> int:
        """The one descriptor of a file, for any thread."""
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
            return self._files[path]

    def close(self) -> None:
        """Closes all."""
        for descriptor in self._files.values():
            os.close(descriptor)


@contextmanager
def _open_files() -> Iterator[_OpenFiles]:
    files = _OpenFiles()
    try:
        yield files
    finally:
        files.close()


class _Writer:
    def __init__(self, values: Values, files: _OpenFiles, progress: Progress) -> None:
        self._values = values
        self._files = files
        self._progress = progress
        self._copier = Copier()

    def write(self, tensor: OutputTensor, target: int, offset: int) -> str:
        """Writes one tensor at `offset` of `target`; returns its digest."""
        digest = xxhash.xxh3_128()
        for part in tensor.parts:
            if isinstance(part, Copy):
                offset = self._copy(tensor, part, target, offset, digest)
            else:
                for block in self._values.blocks(tensor, part):
                    data = memoryview(block.contiguous().view(-1).view(torch.uint8).numpy().data)
                    self._check(tensor, data)
                    digest.update(data)
                    _write_all(target, data, offset)
                    offset += len(data)
                    self._progress.advance(len(data))
        return digest.hexdigest()

    def _copy(self, tensor: OutputTensor, part: Copy, target: int, offset: int, digest: xxhash.xxh3_128) -> int:
        checkpoint = self._values.plan.models[part.source.model]
        place = checkpoint.bytes_of(part.source.name)
        if place is None:
            raise WriteError(f"`{part.source.name}` of `{checkpoint.spec}` has no bytes to copy")
        source = self._files.descriptor(place.path)
        buffer = bytearray(min(CHUNK, place.length))
        for start in range(0, place.length, CHUNK):
            length = min(CHUNK, place.length - start)
            try:
                self._copier.copy(source, place.offset + start, target, offset, length)
            except EOFError as error:
                raise SourceError(f"`{place.path}` ended while it was read: {error}", code="truncated") from None
            view = memoryview(buffer)[:length]
            _read_all(target, view, offset)
            self._check(tensor, view)
            digest.update(view)
            offset += length
            self._progress.advance(length)
        return offset

    def _check(self, tensor: OutputTensor, data: memoryview) -> None:
        if not has_only_finite(data, tensor.dtype):
            raise _not_finite(tensor, self._values.plan)


def _not_finite(tensor: OutputTensor, plan: Plan) -> SourceError:
    """Names the sources that hold NaN or Inf; where none does, the values were too large for the dtype."""
    damaged = {f"`{plan.models[source.model].spec}`" for source in _sources(tensor) if not _is_finite(plan, source)}
    if damaged:
        message = f"`{tensor.name}` holds NaN or Inf, from {', '.join(sorted(damaged))}"
        return SourceError(message, hint="the source is damaged: check or download it again", code="not-finite")
    message = f"`{tensor.name}` holds NaN or Inf, and its sources do not: a value is too large for {tensor.dtype}"
    return SourceError(message, hint="set a `dtype` with a larger range, such as `bfloat16`", code="not-finite")


def _sources(tensor: OutputTensor) -> Iterator[TensorSource]:
    for part in tensor.parts:
        if isinstance(part, Copy | Compute):
            yield part.source
        elif isinstance(part, Merged):
            yield from (part.base, *part.sources)


def _is_finite(plan: Plan, source: TensorSource) -> bool:
    model = plan.models[source.model]
    blocks = (model.read(source.name, rows) for rows in row_blocks(model.tensors[source.name].shape))
    return all(bool(torch.isfinite(block).all()) for block in blocks)


def _read_all(target: int, view: memoryview, offset: int) -> None:
    """Fills `view` with what was written at `offset`; one call may read less."""
    done = 0
    while done < len(view):
        count = os.preadv(target, [view[done:]], offset + done)
        if count == 0:
            raise WriteError("the output became shorter while it was written", hint="let nothing else write into it")
        done += count


def _write_all(target: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(target, data[written:], offset + written)

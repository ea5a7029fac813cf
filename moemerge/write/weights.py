"""Writes the tensors: preallocated shards, a few threads, each byte digested and scanned on its way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import xxhash

from moemerge.console import Progress
from moemerge.device import processors
from moemerge.errors import WriteError
from moemerge.execute.blocks import Blocks
from moemerge.execute.finite import has_only_finite
from moemerge.plan.model import Copy, OutputTensor, Part, Plan
from moemerge.plan.plain import needs_torch
from moemerge.sources.checkpoint import ByteRange
from moemerge.sources.files import SourceFiles
from moemerge.write.damage import not_finite, operands
from moemerge.write.shards import Shard

if TYPE_CHECKING:
    from moemerge.execute.blocks import Gates
    from moemerge.execute.stream import Values

THREADS = 4
"""Tensors in flight while the disk is waited for. Where all is in memory, no more than there are processors: threads
would wait for one another."""
AHEAD = 4
"""Tensors whose sources the disk is asked for before they are needed."""
LARGE = 64 << 20
"""Bytes of a tensor that takes a thread as long as the others take for many."""

Written = Callable[[str, str], None]
"""Is told a tensor's name and digest when all of it lies in its file.

It hears of them once sources have to be fetched from the disk: then there is time to spare, and what was read of them
may soon have left the memory again. Where all of them are in memory, nothing is gained by looking at a tensor at once.
"""


def write_weights(
    folder: Path, shards: Sequence[Shard], plan: Plan, gates: Gates, progress: Progress, written: Written
) -> dict[str, str]:
    """Writes every shard into `folder`.

    Args:
        folder: the staged folder.
        shards: from `lay_out`.
        plan: what the tensors hold.
        gates: the router's weights `[L, E, hidden]`, fp32.
        progress: is told bytes.
        written: is called by whichever thread wrote a tensor; every file has its header and its size by then.

    Returns:
        xxh3-128 (hex) of each tensor's bytes, by name.

    Raises:
        SourceError: a source ended early, or a value is not finite.
        OSError: the disk is full, or fails.
    """
    progress.stage("write", sum(shard.size for shard in shards), "bytes")
    with ExitStack() as stack:
        files = stack.enter_context(SourceFiles())
        writer = _Writer(Blocks(plan, gates, files), progress, written)
        jobs: list[_Job] = []
        for shard in shards:
            target = os.open(folder / shard.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            stack.callback(os.close, target)
            _allocate(target, shard.size)
            os.pwrite(target, shard.header, 0)
            jobs += [_Job(tensor, target, offset) for tensor, offset in shard.places]
        digests = {job.tensor.name: "" for job in jobs}  # in the order of the files, whichever is written first
        jobs.sort(key=_Job.rank)
        for job in jobs[:AHEAD]:
            writer.expect(job)
        threads = THREADS if files.from_disk else max(2, min(THREADS, processors()))

        def write(job: _Job, following: _Job | None) -> None:
            digests[job.tensor.name] = writer.write(job, following)

        _run(write, list(zip_longest(jobs, jobs[AHEAD:])), stack.enter_context(ThreadPoolExecutor(threads)), threads)
    return digests


def _run(
    write: Callable[[_Job, _Job | None], None],
    jobs: Sequence[tuple[_Job, _Job | None]],
    pool: ThreadPoolExecutor,
    threads: int,
) -> None:
    """Runs jobs in their order; of those that fail, the first one's error is raised, and none after it is begun.

    Threads take them from a queue: a future for each of a thousand tensors takes megabytes.
    """
    queue: SimpleQueue[tuple[int, _Job, _Job | None] | None] = SimpleQueue()
    for index, (job, following) in enumerate(jobs):
        queue.put((index, job, following))
    failed: list[tuple[int, BaseException]] = []

    def work() -> None:
        for index, job, following in iter(queue.get, None):
            if any(earlier < index for earlier, _ in failed):
                return
            try:
                write(job, following)
            except BaseException as error:  # raised below, when nothing before it can fail any more
                failed.append((index, error))

    for _ in range(threads):
        queue.put(None)
    try:
        wait([pool.submit(work) for _ in range(threads)])
    except BaseException as error:  # such as Ctrl-C
        failed.append((-1, error))
        pool.shutdown()
        raise
    if failed:
        raise min(failed, key=itemgetter(0))[1]


def _allocate(target: int, size: int) -> None:
    try:
        os.posix_fallocate(target, 0, size)  # a full disk is found here, before anything is computed
    except (AttributeError, OSError) as error:  # macOS has no such call, and some file systems refuse it
        if getattr(error, "errno", None) not in (None, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(target, size)


@dataclass(frozen=True)
class _Job:
    """A tensor, and the file and the offset at which it is to be written."""

    tensor: OutputTensor
    target: int
    offset: int

    def rank(self) -> int:
        """Large tensors that are computed begin first, since one that began last would have others wait for it."""
        computed = not all(isinstance(part, Copy) for part in self.tensor.parts)
        return -self.tensor.nbytes if computed and self.tensor.nbytes >= LARGE else 0


class _Writer:
    def __init__(self, blocks: Blocks, progress: Progress, written: Written) -> None:
        self._blocks = blocks
        self._values = _streamed_values(blocks)
        self._progress = progress
        self._written = written

    def expect(self, job: _Job) -> None:
        """Has the disk fetch the sources of a tensor."""
        for source in operands(job.tensor):
            place = self._blocks.plan.models[source.model].bytes_of(source.name)
            if place is not None:
                self._blocks.files.expect(place)

    def write(self, job: _Job, following: _Job | None) -> str:
        """Writes one tensor, while the disk fetches what the one `following` needs; returns its digest."""
        if following is not None:
            self.expect(following)
        tensor, target, offset = job.tensor, job.target, job.offset
        digest = xxhash.xxh3_128()
        for part in tensor.parts:
            if isinstance(part, Copy):
                offset = self._copy(tensor, part, target, offset, digest)
                continue
            for data in self._made(tensor, part):
                self._check(tensor, data)
                digest.update(data)
                write_all(target, data, offset)
                offset += len(data)
                self._progress.advance(len(data))
        if self._blocks.files.from_disk:
            self._written(tensor.name, digest.hexdigest())
        return digest.hexdigest()

    def _made(self, tensor: OutputTensor, part: Part) -> Iterator[memoryview]:
        """The bytes of a computed part."""
        if self._blocks.makes(part):
            return self._blocks.blocks(part, tensor.dtype)
        return self._streamed(tensor, part)

    def _streamed(self, tensor: OutputTensor, part: Part) -> Iterator[memoryview]:
        import torch

        assert self._values is not None
        for block in self._values.blocks(tensor, part):
            yield memoryview(block.view(-1).view(torch.uint8).numpy().data)

    def _place(self, part: Copy) -> ByteRange:
        checkpoint = self._blocks.plan.models[part.source.model]
        place = checkpoint.bytes_of(part.source.name)
        if place is None:
            raise WriteError(f"`{part.source.name}` of `{checkpoint.spec}` has no bytes to copy")
        return place

    def _copy(self, tensor: OutputTensor, part: Copy, target: int, offset: int, digest: xxhash.xxh3_128) -> int:
        for data in self._blocks.copied(self._place(part)):
            self._check(tensor, data)
            digest.update(data)
            write_all(target, data, offset)
            offset += len(data)
            self._progress.advance(len(data))
        return offset

    def _check(self, tensor: OutputTensor, data: memoryview) -> None:
        if not has_only_finite(data, tensor.dtype):
            raise not_finite(tensor, self._blocks.plan)


def _streamed_values(blocks: Blocks) -> Values | None:
    """What makes the parts that need torch, which is loaded here; None where none does."""
    if not needs_torch(blocks.plan):
        return None
    from moemerge.execute.stream import Values

    return Values(blocks.plan)


def write_all(target: int, data: memoryview, offset: int) -> None:
    """Writes all of `data` at `offset`; one system call may write less."""
    done = 0
    while done < len(data):
        done += os.pwrite(target, data[done:], offset + done)

"""Output tensors as bytes, made from stored bytes with numpy alone: means, conversions of dtype, constants, the gate.

What is merged in several passes, folded, dequantised, padded or given noise is made with torch, in `stream`. What
is made here needs no torch to be loaded, and memory that hangs on neither tensors nor the number of sources.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, local
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moemerge.errors import SourceError
from moemerge.plan.model import Compute, Fill, Merged, Part, Plan, Router, TensorSource
from moemerge.plan.plain import STORED, made_of_bytes
from moemerge.sources.checkpoint import ByteRange

if TYPE_CHECKING:
    from torch import Tensor

    Gates = Tensor | NDArray[np.float32]

ELEMENTS = 1 << 18
"""Elements that are computed at a time: 1 MiB in fp32. Of fewer, threads wait for each other's Python, and more leave
the processor's cache."""

Values = NDArray[Any]


@dataclass
class SourceFiles:
    """Source files opened once, by path, and read at offsets from any thread; a context manager that closes them.

    Attributes:
        from_disk: whether anything that was expected so far was not in memory, or the system cannot tell.
    """

    from_disk: bool = False
    _files: dict[Path, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def descriptor(self, path: Path) -> int:
        """The one descriptor of a file, for any thread."""
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
            return self._files[path]

    def expect(self, place: ByteRange) -> None:
        """Has the disk read a tensor ahead: threads that share a descriptor look to the system like random reads."""
        source = self.descriptor(place.path)
        ends = (place.offset, place.offset + max(place.length - 1, 0))
        self.from_disk = self.from_disk or not all(_is_at_hand(source, at) for at in ends)
        if hasattr(os, "posix_fadvise"):  # macOS has no such call
            os.posix_fadvise(source, place.offset, place.length, os.POSIX_FADV_WILLNEED)

    def read(self, place: ByteRange, start: int, view: memoryview) -> None:
        """Fills `view` with the bytes from `start` of a tensor that lies at `place`; one system call may read less.

        Raises:
            SourceError: the file ends before them.
        """
        source, done = self.descriptor(place.path), 0
        while done < len(view):
            count = os.preadv(source, [view[done:]], place.offset + start + done)
            if not count:
                missing = f"{len(view) - done} bytes are missing"
                raise SourceError(f"`{place.path}` ended while it was read: {missing}", code="truncated")
            done += count

    def __enter__(self) -> SourceFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


def _is_at_hand(descriptor: int, offset: int) -> bool:
    """Whether a byte of a file can be read without waiting; no where the system cannot tell."""
    try:
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    except (AttributeError, OSError):  # what is really wrong shows when it is read
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a source's tensor lies, and safetensors' name of its dtype."""

    place: ByteRange
    dtype: str


class _Scratch(local):
    """A thread's own memory: allocated anew for each block, it would be given back and faulted in every time."""

    def __init__(self) -> None:
        self.raw = np.empty(4 * ELEMENTS, np.uint8)
        self.single = np.empty(ELEMENTS, np.float32)
        self.double = np.empty(ELEMENTS, np.float64)
        self.bits = np.empty(ELEMENTS, np.uint32)


def decode(raw: Values, dtype: str, numbers: NDArray[np.float32]) -> None:
    """Puts stored numbers, as `STORED` sees them, into fp32, which holds all of them exactly."""
    if dtype != "BF16":
        np.copyto(numbers, raw)
        return
    np.left_shift(raw, 16, out=numbers.view(np.uint32), dtype=np.uint32)


def encode(numbers: NDArray[np.float32], dtype: str, bits: NDArray[np.uint32], raw: Values) -> None:
    """Rounds fp32 to the nearest of `dtype`, ties to even; NaN stays NaN, what is too large becomes Inf.

    Args:
        numbers: what to round.
        dtype: safetensors' name.
        bits: memory to work in.
        raw: where the result goes.
    """
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            np.copyto(raw, numbers, casting="same_kind")
        return
    own = numbers.view(np.uint32)
    np.right_shift(own, 16, out=bits)
    np.bitwise_and(bits, 1, out=bits)
    np.add(bits, 0x7FFF, out=bits)
    np.add(bits, own, out=bits)  # the carry rounds up from more than a half, or from a half to an even number
    np.right_shift(bits, 16, out=bits)
    np.copyto(raw, bits, casting="unsafe")
    if len(numbers) and np.isnan(numbers.max()):  # a carry out of a NaN's fraction makes another number of it
        raw[np.isnan(numbers)] = 0x7FC0


@dataclass(frozen=True)
class Blocks:
    """Makes a plan's tensors, block by block.

    Attributes:
        plan: what makes each tensor.
        gates: the router's weights `[L, E, hidden]`, fp32; None until they are fitted.
        files: the sources' files.
    """

    plan: Plan
    gates: Gates | None
    files: SourceFiles
    _scratch: _Scratch = field(default_factory=_Scratch, repr=False, compare=False)

    def makes(self, part: Part) -> bool:
        """Whether a part is made here; torch makes the others."""
        return made_of_bytes(self.plan, part)

    def blocks(self, part: Part, dtype: str) -> Iterator[memoryview]:
        """Yields a part as consecutive pieces of its bytes; each is valid until the next is asked for.

        Args:
            part: one that `makes` says yes to.
            dtype: of the output.

        Raises:
            SourceError: a source ended early.
            ValueError: the gate is not fitted.
        """
        for numbers in self._numbers(part):
            raw = self._scratch.raw.view(STORED[dtype])[: len(numbers)]
            encode(numbers, dtype, self._scratch.bits[: len(numbers)], raw)
            yield raw.view(np.uint8).data

    def _numbers(self, part: Part) -> Iterator[NDArray[np.float32]]:
        match part:
            case Compute(source, shape, scale):
                stored = self._stored(source)
                for start, stop in _spans(math.prod(shape)):
                    numbers = self._read(stored, start, stop)
                    if scale != 1.0:
                        with np.errstate(all="ignore"):  # the writer looks for what is not finite, and says whose it is
                            np.multiply(numbers, np.float32(scale), out=numbers)
                    yield numbers
            case Merged():
                first = part.sources[0]
                sources = [self._stored(source) for source in part.sources]
                for start, stop in _spans(math.prod(self.plan.models[first.model].tensors[first.name].shape)):
                    yield self._mean(sources, start, stop)
            case Fill(shape, value):
                for start, stop in _spans(math.prod(shape)):
                    yield np.full(stop - start, value, np.float32)
            case Router(layer):
                if self.gates is None:
                    raise ValueError("the gate is not fitted yet")
                rows = np.ascontiguousarray(np.asarray(self.gates[layer]), np.float32).ravel()
                for start, stop in _spans(rows.size):
                    yield rows[start:stop]

    def _mean(self, sources: Sequence[_Stored], start: int, stop: int) -> NDArray[np.float32]:
        """Σ xᵢ / n in fp64, where the sum of identical numbers of 32 bits is exact, rounded once to fp32."""
        total = self._scratch.double[: stop - start]
        numbers = self._scratch.single[: stop - start]
        count = len(sources)
        with np.errstate(all="ignore"):
            np.copyto(total, self._read(sources[0], start, stop))
            for source in sources[1:]:
                np.add(total, self._read(source, start, stop), out=total)
            if count & (count - 1):
                np.divide(total, count, out=total)
            else:  # the same numbers in a quarter of the time
                np.multiply(total, 1 / count, out=total)
            np.copyto(numbers, total, casting="same_kind")
        return numbers

    def _stored(self, source: TensorSource) -> _Stored:
        model = self.plan.models[source.model]
        place = model.bytes_of(source.name)
        assert place is not None, "`makes` looks for it"
        return _Stored(place, model.tensors[source.name].dtype)

    def _read(self, source: _Stored, start: int, stop: int) -> NDArray[np.float32]:
        """Some elements of a stored tensor, in the scratch."""
        raw = self._scratch.raw.view(STORED[source.dtype])[: stop - start]
        numbers = self._scratch.single[: stop - start]
        self.files.read(source.place, start * raw.itemsize, raw.view(np.uint8).data)
        decode(raw, source.dtype, numbers)
        return numbers


def _spans(size: int) -> Iterator[tuple[int, int]]:
    """Where the elements of a tensor begin and end that are computed together."""
    return ((start, min(start + ELEMENTS, size)) for start in range(0, size, ELEMENTS))

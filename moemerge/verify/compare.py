"""One tensor of the folder against what it must hold, in one pass over its bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import xxhash

from moemerge.errors import Difference, SourceError
from moemerge.sources import ByteRange, Checkpoint
from moemerge.verify.block import Block, ExpectedBytes
from moemerge.verify.expected import (
    Adjusted,
    AnyFinite,
    Constant,
    Merge,
    One,
    Part,
    Transposed,
    Wanted,
    sources_of,
)
from moemerge.verify.host_row import Shape
from moemerge.verify.layout import ITEM_BYTES, Place
from moemerge.verify.numbers import FORMATS, decode, first_not_finite, unit
from moemerge.verify.reading import OpenFiles
from moemerge.verify.recompute import Recomputation

CHUNK = 4 << 20
"""Bytes that are read and compared at a time."""
FOLDING_SLACK = 2.0**-22
"""Error of an fp32 product of matrices, as a share of the block's largest value: last bits depend on the machine."""


@dataclass
class Outcome:
    """What came of one tensor.

    Attributes:
        read: bytes of it that were read.
        copied: whether all of it was compared with its source's bytes.
        recomputed: whether any of it was computed again.
        differences: what is wrong with it.
    """

    read: int = 0
    copied: bool = False
    recomputed: bool = False
    differences: list[Difference] = field(default_factory=list)


@dataclass
class _Tally:
    """Wrong bytes or elements of one part, and the first of them."""

    wrong: int = 0
    first: int | None = None
    example: str = ""

    def add(self, count: int, first: int, example: str = "") -> None:
        if self.first is None:
            self.first, self.example = first, example
        self.wrong += count


class Comparison:
    """Compares tensors.

    Args:
        models: the sources that are at hand, by their key.
        digests: the recorded digest of every tensor.
        files: reads the folder and the sources.
    """

    def __init__(self, models: Mapping[str, Checkpoint], digests: Mapping[str, str], files: OpenFiles) -> None:
        self._models, self._digests, self._files = models, digests, files
        self._owners = {digest: name for name, digest in digests.items()}
        self._recomputation = Recomputation(models, files)

    def is_copy(self, wanted: Wanted, dtype: str) -> bool:
        """Whether every byte of a tensor is some source's."""
        return all(self._bytes_of(part, dtype) is not None for part in wanted.parts)

    def check(self, name: str, place: Place, wanted: Wanted | None) -> Outcome:
        """Reads a tensor and compares it.

        Args:
            name: its name.
            place: where it lies; its shape is that of `wanted`.
            wanted: what it must hold, or None where that is not known.
        """
        outcome = Outcome()
        digest = xxhash.xxh3_128()
        parts = wanted.parts if wanted is not None else (AnyFinite(place.shape),)
        offset = place.offset
        problems: list[str] = []
        try:
            for part in parts:
                length = math.prod(part.shape) * ITEM_BYTES[place.dtype]
                own = _Own(self._files, place, offset, length, digest)
                problems += self._part(part, own, outcome)
                offset += length
                outcome.read += length
        except (SourceError, EOFError, OSError) as error:
            outcome.differences.append(Difference(name, f"cannot be compared: {error}"))
            return outcome
        outcome.copied = wanted is not None and self.is_copy(wanted, place.dtype)
        outcome.differences += [Difference(name, problem) for problem in self._conclude(name, digest, problems)]
        return outcome

    def _conclude(self, name: str, digest: xxhash.xxh3_128, problems: list[str]) -> list[str]:
        """Adds what the digest tells: whether the folder changed, and if another tensor's bytes lie here."""
        recorded, actual = self._digests.get(name), digest.hexdigest()
        if recorded is None:
            return [*problems, "has no digest in the record"]
        if actual != recorded:
            owner = self._owners.get(actual)
            said = problems or ["its bytes changed after the build"]
            return said if owner is None else [*said[:-1], f"{said[-1]}: they are those of `{owner}`"]
        note = "; its digest is the recorded one, so the source changed or the build was wrong"
        return [problem + note for problem in problems]

    def _bytes_of(self, part: Part, dtype: str) -> ByteRange | None:
        if not isinstance(part, One) or not part.plain or part.source not in self._models:
            return None
        model = self._models[part.source]
        info = model.tensors.get(part.name)
        same = info is not None and info.dtype == dtype and info.shape == part.shape
        return model.bytes_of(part.name) if same else None

    def _part(self, part: Part, own: _Own, outcome: Outcome) -> Iterator[str]:
        absent = [key for key in sources_of(part) if key not in self._models]
        if isinstance(part, AnyFinite) or absent:
            for _ in own.chunks():
                pass
        elif (source := self._bytes_of(part, own.place.dtype)) is not None:
            assert isinstance(part, One)
            yield from self._copied(part, own, source)
        elif (unfit := self._unfit(part)) is not None:
            for _ in own.chunks():
                pass
            yield unfit
        elif isinstance(part, Transposed):
            outcome.recomputed = True
            yield from self._turned(part, own)
        else:
            outcome.recomputed = outcome.recomputed or not isinstance(part, Constant)
            yield from self._computed(part, own)
        if own.not_finite is not None:
            yield f"holds NaN or Inf, first at {own.index(own.not_finite)}"

    def _unfit(self, part: Part) -> str | None:
        """A source that has not the tensor, or not in a shape that fits."""
        if isinstance(part, Transposed):
            return next(filter(None, map(self._unfit, part.parts)), None)
        part = part.part if isinstance(part, Adjusted) else part
        names = [(key, part.name) for key in sources_of(part) if isinstance(part, One | Merge)]
        for key, name in names:
            info = self._models[key].tensors.get(name)
            if info is None:
                return f"cannot be compared: `{key}` has no `{name}`"
            fits = len(info.shape) == len(part.shape) and all(map(int.__le__, info.shape, part.shape))
            if not fits or (isinstance(part, Merge) and info.shape != part.shape):
                return f"cannot be compared: `{name}` of `{key}` has the shape {info.shape}, not {part.shape}"
        return None

    def _copied(self, part: One, own: _Own, source: ByteRange) -> Iterator[str]:
        import numpy as np

        tally, done = _Tally(), 0
        for data in own.chunks():
            theirs = self._files.read(source.path, source.offset + done, len(data))
            if data != theirs:
                wrong = np.flatnonzero(np.frombuffer(data, np.uint8) != np.frombuffer(theirs, np.uint8))
                tally.add(len(wrong), done + int(wrong[0]))
            done += len(data)
        if tally.first is not None:
            at = own.index(tally.first // ITEM_BYTES[own.place.dtype])
            yield f"{tally.wrong} of {done} bytes differ from `{part.name}` of `{part.source}`, first at {at}"

    def _computed(self, part: One | Merge | Constant | Adjusted, own: _Own) -> Iterator[str]:
        tally, done, dtype = _Tally(), 0, own.place.dtype
        for found in self._recomputation.blocks(part, dtype):
            _compare_rows(found, own.next(found.size * ITEM_BYTES[dtype]), dtype, done, tally)
            done += found.size
        if tally.first is not None:
            first = f"first at {own.index(tally.first)}, which {tally.example}"
            yield f"{tally.wrong} of {done} values are not {_words(part)}, {first}"

    def _turned(self, part: Transposed, own: _Own) -> Iterator[str]:
        """The part is held whole, and compared column by column."""
        import numpy as np

        (columns, rows), dtype = part.shape, own.place.dtype
        held = np.frombuffer(b"".join(own.chunks()), np.dtype(f"u{ITEM_BYTES[dtype]}")).reshape(columns, rows)
        done = 0
        for one in part.parts:
            exact, tally, start = self._bytes_of(one, dtype) is not None, _Tally(), done
            for found in self._recomputation.blocks(one, dtype):
                stop = done + found.size // columns
                if exact and isinstance(found, Block):
                    found = replace(found, operands=())
                _compare_rows(found, held[:, done:stop].T.tobytes(), dtype, (done - start) * columns, tally)
                done = stop
            if tally.first is not None:
                row, column = divmod(tally.first, columns)
                first = f"first at {own.index(column * rows + start + row)}, which {tally.example}"
                yield f"{tally.wrong} of {(done - start) * columns} values are not {_words(one)}, transposed, {first}"


def _compare_rows(found: Block | ExpectedBytes, data: bytes, dtype: str, done: int, tally: _Tally) -> None:
    """Compares the bytes of the next rows, before which `done` elements lie; they are gone before others are read."""
    if isinstance(found, ExpectedBytes):
        if found.holds(data):
            return
        found = found.block()
    actual = decode(data, dtype)
    wrong = _wrong(actual, found, dtype)
    if len(wrong):
        at = int(wrong[0])
        tally.add(len(wrong), done + at, f"is {actual[at]:.9g} and should be {found.values.ravel()[at]:.9g}")


@dataclass
class _Own:
    """A part's bytes in the folder, digested and scanned as they are read."""

    files: OpenFiles
    place: Place
    offset: int
    length: int
    digest: xxhash.xxh3_128
    done: int = 0
    not_finite: int | None = None

    def next(self, length: int) -> bytes:
        """The next bytes."""
        data = self.files.read(self.place.file, self.offset + self.done, length)
        self.digest.update(data)
        if self.not_finite is None:
            bad = first_not_finite(data, self.place.dtype)
            if bad is not None:
                self.not_finite = self.done // ITEM_BYTES[self.place.dtype] + bad
        self.done += length
        return data

    def chunks(self) -> Iterator[bytes]:
        """All the bytes, `CHUNK` at a time."""
        while self.done < self.length:
            yield self.next(min(CHUNK, self.length - self.done))

    def index(self, element: int) -> str:
        """The place in the whole tensor of one of this part's elements, such as `[3, 17]`."""
        element += (self.offset - self.place.offset) // ITEM_BYTES[self.place.dtype]
        return str(_unravel(element, self.place.shape))


def _unravel(element: int, shape: Shape) -> list[int]:
    places = []
    for extent in reversed(shape):
        element, place = divmod(element, extent)
        places.append(place)
    return places[::-1]


def _wrong(actual: Any, block: Block, dtype: str) -> Any:
    """Indices of the elements that are further than one unit in the last place from every value they may have."""
    import numpy as np

    values = block.values.ravel()
    if not block.operands:  # zeros, and other constants, are exact
        return np.flatnonzero(actual != values)
    near = _near(actual, values, dtype)
    if near.all():
        return np.empty(0, np.intp)
    suspects = np.flatnonzero(~near)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        mine = actual[suspects].astype(np.float64)
    slack = _slack(block, suspects)
    bad = np.ones(len(suspects), dtype=bool)
    for candidate in (values, *(other.ravel() for other in block.others)):
        theirs = candidate[suspects]
        within = np.abs(mine - theirs) <= unit(np.maximum(np.abs(mine), np.abs(theirs)), dtype) + slack
        bad &= ~(within & np.isfinite(theirs))  # an infinite operand would excuse everything
    return suspects[bad]


def _near(actual: Any, values: Any, dtype: str) -> Any:
    """Which elements are what the values give when they are rounded once: nearly all, found in fp32 and in place.

    Such an element is off by half a unit at most, and half a unit is never more than its 2^-(fraction + 1)th part. Who
    is within that, and fp32's own rounding, is within a unit. The gap is scaled up, for the element scaled down may not
    be exact.
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):  # too large for fp32 is near to nothing
        gap = values.astype(np.float32)
        np.subtract(actual, gap, out=gap)
        np.abs(gap, out=gap)
        np.multiply(gap, np.float32(2.0 ** (FORMATS[dtype].fraction + 1)), out=gap)
    return gap <= np.abs(actual)


def _slack(block: Block, suspects: Any) -> Any:
    import numpy as np

    if block.folded:
        return max(float(np.abs(operand).max()) for operand in block.operands) * FOLDING_SLACK
    largest = np.max([np.abs(operand.ravel()[suspects]) for operand in block.operands], axis=0)
    return largest * block.slack


def _words(part: One | Merge | Constant | Adjusted) -> str:
    match part:
        case Adjusted():
            more = f", plus {part.plus:g}" if part.plus else ""
            return f"{_words(part.part)}{more}, times {part.times:g}"
        case Constant():
            return f"{part.value:g}"
        case One():
            extras = (
                f", with {part.anew.share:.0%} of its channels drawn anew" if part.anew is not None else "",
                f", with noise of {part.noise:g}" if part.noise else "",
                f", times {part.scale:g}" if part.scale != 1.0 else "",
            )
            return f"`{part.name}` of `{part.source}`{''.join(extras)}"
        case Merge():
            return f"the {part.method} of {', '.join(f'`{key}`' for key in part.sources)}"

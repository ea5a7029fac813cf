"""Numbers as bytes: decoding, finiteness, and what one unit in the last place is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Values = Any  # NDArray of float32 or float64; a name of its own because numpy is loaded lazily


@dataclass(frozen=True, slots=True)
class Format:
    """A floating-point format.

    Attributes:
        integer: numpy's little-endian unsigned integer of its width.
        exponent: the bits of its exponent; all of them are set in NaN and Inf.
        fraction: bits of its fraction.
        smallest: exponent of its smallest normal number.
    """

    integer: str
    exponent: int
    fraction: int
    smallest: int


FORMATS: Mapping[str, Format] = {
    "F32": Format("<u4", 0x7F80_0000, 23, -126),
    "BF16": Format("<u2", 0x7F80, 7, -126),
    "F16": Format("<u2", 0x7C00, 10, -14),
}
_CHUNK = 1 << 16


def first_not_finite(data: bytes | memoryview, dtype: str) -> int | None:
    """The index of the first NaN or Inf among the numbers in `data`, or None. Whole numbers are none."""
    import numpy as np

    if dtype not in FORMATS:
        return None
    form = FORMATS[dtype]
    values = np.frombuffer(data, dtype=form.integer)
    mask = values.dtype.type(form.exponent)
    # as signed integers the positive ones among them are the largest, as unsigned ones the negative ones
    negative = 1 << (8 * values.itemsize - 1)
    signed = values.view(form.integer.replace("u", "i"))
    if not len(values) or (signed.max() < form.exponent and values.max() < form.exponent | negative):
        return None
    for start in range(0, len(values), _CHUNK):  # small pieces stay in the processor's cache
        bad = (values[start : start + _CHUNK] & mask) == mask
        if bad.any():
            return start + int(bad.argmax())
    return None


def decode(data: bytes | memoryview, dtype: str) -> NDArray[np.float32]:
    """The numbers in `data`, all of which fp32 holds exactly."""
    import numpy as np

    if dtype == "F16":
        return np.frombuffer(data, dtype="<f2").astype(np.float32)
    if dtype == "F32":
        return np.frombuffer(data, dtype="<f4")
    stored = np.frombuffer(data, dtype="<u2")
    wide: NDArray[np.float32] = np.left_shift(stored, 16, dtype=np.uint32).view(np.float32)
    return wide


def to_nearest(value: float, dtype: str) -> float:
    """The number of a format that is nearest, of two the one with an even fraction."""
    share, exponent = math.frexp(value)
    steps = 2.0 ** (FORMATS[dtype].fraction + 1)
    return math.ldexp(round(share * steps) / steps, exponent)


def unit(values: Values, dtype: str) -> NDArray[np.float64]:
    """One unit in the last place of `dtype` at each value: the gap to the next number of its binade."""
    import numpy as np

    form = FORMATS[dtype]
    _, exponents = np.frexp(values.astype(np.float64))  # values = f * 2^exponent with f in [1/2, 1)
    binades = np.where(values == 0, form.smallest, np.maximum(exponents - 1, form.smallest))
    gap: NDArray[np.float64] = np.ldexp(1.0, binades - form.fraction)
    return gap


def largest(blocks: Callable[[], Iterable[NDArray[np.float64]]], nth: int) -> float:
    """The n-th largest of non-negative numbers, in two passes over their blocks.

    The first counts them by exponent and nine bits of the fraction; the second counts the distinct ones of the class
    that the n-th is in, which are few, be the numbers spread or equal.
    """
    import numpy as np

    shift, classes = 43, np.zeros(1 << 20, dtype=np.int64)
    for block in blocks():
        classes += np.bincount(block.view(np.int64) >> shift, minlength=len(classes))
    above = np.cumsum(classes[::-1])
    place = int(np.searchsorted(above, nth))
    wanted = len(classes) - 1 - place
    left = nth - (int(above[place - 1]) if place else 0)
    distinct, counts = np.empty(0), np.empty(0, dtype=np.int64)
    for block in blocks():
        found, times = np.unique(block[block.view(np.int64) >> shift == wanted], return_counts=True)
        distinct, places = np.unique(np.concatenate([distinct, found]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, times]), minlength=len(distinct)).astype(np.int64)
    return float(distinct[::-1][np.searchsorted(np.cumsum(counts[::-1]), left)])

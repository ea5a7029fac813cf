"""Numbers as bytes: decoding, finiteness, and what one unit in the last place is."""

from __future__ import annotations

from collections.abc import Mapping
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
    """The index of the first NaN or Inf among the numbers in `data`, or None."""
    import numpy as np

    form = FORMATS[dtype]
    values = np.frombuffer(data, dtype=form.integer)
    mask = values.dtype.type(form.exponent)
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
    wide = np.frombuffer(data, dtype="<u2").astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def unit(values: Values, dtype: str) -> NDArray[np.float64]:
    """One unit in the last place of `dtype` at each value: the gap to the next number of its binade."""
    import numpy as np

    form = FORMATS[dtype]
    _, exponents = np.frexp(values.astype(np.float64))  # values = f * 2^exponent with f in [1/2, 1)
    binades = np.where(values == 0, form.smallest, np.maximum(exponents - 1, form.smallest))
    gap: NDArray[np.float64] = np.ldexp(1.0, binades - form.fraction)
    return gap

"""NaN and Inf found in raw bytes: all bits of the exponent are set. No tensor is made."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_EXPONENTS: Mapping[str, tuple[str, int]] = {
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}
_BLOCK = 1 << 18
"""Bytes looked at together, so that the temporary stays in the processor's cache."""


def has_only_finite(data: memoryview, dtype: str) -> bool:
    """Whether every number in little-endian `data` is finite.

    Args:
        data: whole elements.
        dtype: safetensors' name of a floating-point dtype.
    """
    kind, exponent = _EXPONENTS[dtype]
    values = np.frombuffer(data, dtype=kind)
    step = _BLOCK // values.itemsize
    sign_free = np.asarray((1 << (8 * values.itemsize - 1)) - 1, dtype=kind)
    return all((values[at : at + step] & sign_free).max() < exponent for at in range(0, len(values), step))

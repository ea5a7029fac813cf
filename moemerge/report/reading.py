"""Reads values out of a report that may have holes: what is not there, or not what it should be, is None or empty."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]

MODELS = {
    "base": "base",
    "specialist": "own specialist",
    "linear_merge": "linear merge",
    "oracle_routed": "oracle routing",
    "random_gate": "random gate",
    "moe": "MoE",
}
"""The report's model keys and what people call them."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LARGEST = 1e300
"""Beyond it a number is not a measurement, and its arithmetic overflows."""


def at(node: Any, *keys: str) -> Any:
    """The value that a path of names leads to, or None where the path breaks off."""
    for key in keys:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def mapping(node: Any, *keys: str) -> Mapping[str, Any]:
    """The object at a path; empty where there is none."""
    found = at(node, *keys)
    return found if isinstance(found, Mapping) else {}


def items(node: Any, *keys: str) -> list[Any]:
    """The list at a path; empty where there is none."""
    found = at(node, *keys)
    return list(found) if isinstance(found, list | tuple) else []


def number(node: Any, *keys: str) -> float | None:
    """The finite number at a path. A truth value is not a number."""
    found = at(node, *keys)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if abs(found) <= _LARGEST else None


def numbers(node: Any, *keys: str) -> list[float | None]:
    """The list of numbers at a path, holes as None."""
    return [number(value) for value in items(node, *keys)]


def matrix(node: Any, *keys: str) -> list[list[float | None]]:
    """The list of rows of numbers at a path, holes as None."""
    return [numbers(row) for row in items(node, *keys)]


def interval(node: Any, *keys: str) -> tuple[float, float] | None:
    """The interval at a path, low end first."""
    found = numbers(node, *keys)
    if len(found) != 2 or found[0] is None or found[1] is None:
        return None
    return min(found[0], found[1]), max(found[0], found[1])


def text(node: Any, *keys: str) -> str:
    """The text at a path, fit to be shown; empty where there is none."""
    found = at(node, *keys)
    return printable(found) if isinstance(found, str) else ""


def domains(report: Report) -> list[str]:
    """Names of the domains, in the report's order; those that only the routing knows come last."""
    return list(dict.fromkeys([*mapping(report, "domains"), *mapping(report, "routing", "confusion")]))


def experts(report: Report) -> list[str]:
    """Names of the experts by index; an expert that the report counts but does not name is `expert 7`."""
    named = items(report, "experts")
    rows = matrix(report, "routing", "load_by_layer")
    width = max([len(named), len(items(report, "routing", "load")), *map(len, rows)])
    listed = [*named, *[None] * (width - len(named))]
    return [name if isinstance(name, str) else f"expert {index}" for index, name in enumerate(listed)]


def printable(value: str) -> str:
    """Text in which nothing acts on the reader's screen: controls, direction marks and lone surrogates become escapes.

    Line breaks and tabs stay. Terminal sequences (ESC) and texts that turn the direction of what follows cannot work.
    """
    if value.isprintable() and not _BIDI.intersection(value):
        return value
    return "".join(_escaped(char) for char in value)


def _escaped(char: str) -> str:
    if char in "\n\t" or not (unicodedata.category(char) in {"Cc", "Cs"} or char in _BIDI):
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"

"""`--require`: what a report must say for a merge to pass, as `gain_kept>=0.9`.

A requirement is a name of the report's JSON, an operator and a number. Nothing is evaluated as code:

    requirement = name { "." name | "[" digits "]" } operator number
    name        = characters other than . [ ] " < > = ! and spaces, or a JSON string: domains."my domain".moe
    operator    = ">=" | "<=" | "==" | "!=" | "<" | ">"
    number      = decimal, such as -0.5 or 1e-3

Numbers are compared exactly, without a tolerance.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moemerge.errors import MoemergeError
from moemerge.recipe.places import listed, nearest, quoted

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
"""What each operator asks of the value and the number."""

Path = tuple[str | int, ...]
"""Names and indices from the top of the report."""

_FORM = "write a name of the report, an operator and a number, such as `gain_kept>=0.9` or `routing.load[0]>0.1`"
_NAME = re.compile(r'[^\s.\[\]"<>=!]+')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_INDEX = re.compile(r"\[([0-9]{1,9})\]")
_OPERATOR = re.compile(r"\s*(>=|<=|==|!=|<|>)\s*")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,300}")
_DERIVED = frozenset({"gain_kept", "gain_kept_interval", "gain_kept_ceiling", "merge_loss", "routing_loss", "against"})
"""Names that any missing baseline may leave without a value."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A number of the report, and what it must be.

    Attributes:
        path: names and indices from the top of the report.
        operator: a key of `OPERATORS`.
        number: what the value is compared with; a whole number stays exact, however large.
    """

    path: Path
    operator: str
    number: int | float

    def __str__(self) -> str:
        return f"{spelt(self.path)}{self.operator}{self.number}"

    def holds(self, value: float) -> bool:
        """Whether a value is what is required; NaN never is."""
        return not math.isnan(value) and OPERATORS[self.operator](value, self.number)


@dataclass(frozen=True, slots=True)
class Failure:
    """A requirement that a report does not meet.

    Attributes:
        requirement: what was required.
        value: what the report says, or None where it was not measured.
        line: the same for people, such as `gain_kept is 0.871, and >= 0.9 is required`.
    """

    requirement: Requirement
    value: int | float | None
    line: str


def parse_requirement(text: str) -> Requirement:
    """Reads a requirement.

    Raises:
        MoemergeError: the text is none.
    """
    path, position = _path(text)
    found = _OPERATOR.match(text, position)
    if not found:
        rest = text[position:].strip()
        if rest.startswith("=") or not rest:
            reason = "equality is written `==`" if rest else "it has no operator"
        else:
            reason = f"`{rest}` follows the name, where an operator belongs"
        raise _no_requirement(text, reason)
    number = text[found.end() :].strip()
    if not _NUMBER.fullmatch(number):
        raise _no_requirement(text, f"`{number}` is no number" if number else "it has no number")
    value = int(number) if _WHOLE.fullmatch(number) else float(number)
    if isinstance(value, float) and math.isinf(value):
        raise _no_requirement(text, f"`{number}` is too large")
    return Requirement(path, found[1], value)


def check_name(requirement: Requirement, names: Sequence[str]) -> None:
    """Refuses a requirement whose first name no report has, before anything is measured.

    Args:
        requirement: what must be so.
        names: the report's top-level names.

    Raises:
        MoemergeError: it has no such name.
    """
    _below({name: {} for name in names}, requirement.path[:1], {})


def check(requirement: Requirement, report: Mapping[str, Any]) -> Failure | None:
    """Holds a report against a requirement.

    Args:
        requirement: what must be so.
        report: the JSON of `moemerge eval`.

    Returns:
        None where it is met.

    Raises:
        MoemergeError: the report has no such name, or no number there.
    """
    path, name = requirement.path, spelt(requirement.path)
    required = f"and {requirement.operator} {requirement.number} is required"
    above: Any = report
    node: Any = report
    for depth in range(1, len(path) + 1):
        above, node = node, _below(node, path[:depth], report)
        if node is None:
            reason = _reason(path[:depth], above, report)
            return Failure(requirement, None, f"{name} is not measured{f': {reason}' if reason else ''}, {required}")
    if isinstance(node, bool) or not isinstance(node, int | float):
        raise _error(f"`{name}` is {_kind(node)}, and only a number can be required")
    if requirement.holds(node):
        return None
    return Failure(requirement, node, f"{name} is {_shown(requirement, node)}, {required}")


def spelt(path: Sequence[str | int]) -> str:
    """A path as a user types it, with quotes round the names that need them."""
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            parts.append("." + (part if _NAME.fullmatch(part) else json.dumps(part, ensure_ascii=False)))
    return "".join(parts).removeprefix(".")


def _path(text: str) -> tuple[Path, int]:
    """The path that a text begins with, and where it ends."""
    parts: list[str | int] = []
    position = len(text) - len(text.lstrip())
    while True:
        if parts and (index := _INDEX.match(text, position)):
            parts.append(int(index[1]))
            position = index.end()
            continue
        if parts and not text.startswith(".", position):
            return tuple(parts), position
        position += 1 if parts else 0
        if name := _NAME.match(text, position):
            parts.append(name[0])
        elif name := _QUOTED.match(text, position):
            parts.append(_unquoted(text, name[0]))
        else:
            raise _no_requirement(text, f"a name is missing after `{spelt(parts)}.`" if parts else "it has no name")
        position = name.end()


def _unquoted(text: str, name: str) -> str:
    try:
        return str(json.loads(name))
    except json.JSONDecodeError as error:
        raise _no_requirement(text, f"`{name}` is no JSON string: {error.msg}") from error


def _below(node: Any, path: Path, report: Mapping[str, Any]) -> Any:
    """The value that the last part of a path leads to."""
    part, above = path[-1], spelt(path[:-1])
    if isinstance(part, str) and isinstance(node, Mapping):
        if part in node:
            return node[part]
        raise _error(f"The report has no `{spelt(path)}`", _suggestion(path, list(node), report))
    if isinstance(part, int) and isinstance(node, list):
        if part < len(node):
            return node[part]
        raise _error(f"`{above}` has no item {part}: it has {len(node)}, counted from 0")
    if isinstance(node, list):
        raise _error(f"`{above}` is a list, so it has no `{part}`", f"name an item: `{above}[0]`")
    what = f"`{part}`" if isinstance(part, str) else f"item {part}"
    raise _error(f"`{above}` is {_kind(node)}, so it has no {what}")


def _suggestion(path: Path, names: list[str], report: Mapping[str, Any]) -> str:
    word = str(path[-1])
    if found := nearest(word, names):
        return f"did you mean `{spelt((*path[:-1], found))}`?"
    elsewhere = [spelt(place) for place in _places(report) if place[-1] == word]
    if elsewhere:
        return f"did you mean {listed(quoted(elsewhere[:3]), 'or')}?"
    return f"known are {listed(quoted(spelt((name,)) for name in names))}" if names else "nothing of it was measured"


def _places(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all names in a report."""
    if isinstance(node, Mapping):
        for name, below in node.items():
            yield (*path, name)
            yield from _places(below, (*path, name))


def _reason(path: Path, above: Any, report: Mapping[str, Any]) -> str | None:
    """Why there is no value, where the report says so."""
    note = above.get(f"{path[-1]}_note") if isinstance(above, Mapping) else None
    if note:
        return str(note)
    missing: Mapping[str, str] = report.get("missing") or {}
    found = [f"{what}: {why}" for what, why in missing.items() if _mentions(what, path)]
    if not found and (path[0] in _DERIVED or path[-1] in _DERIVED):
        found = [f"{what}: {why}" for what, why in missing.items()]
    if not found and path[0] in _DERIVED:
        notes = (domain.get("gain_kept_note") for domain in (report.get("domains") or {}).values())
        found = list(dict.fromkeys(note for note in notes if note))
    if not found and path[0] == "tokens_per_second":
        found = ["it was left out by `--without`"]
    return "; ".join(found) or None


def _mentions(what: str, path: Path) -> bool:
    """Whether an entry of `missing` is about the last name of a path, or about one in backticks on the way to it."""
    named = set(re.findall(r"`([^`]*)`", what))
    *way, last = (part for part in path if isinstance(part, str))
    subject = re.sub(r"`[^`]*`", " ", what).replace(" ", "_").lower()
    own = re.search(rf"(?<![a-z0-9]){re.escape(last.lower())}(?![a-z0-9])", subject) is not None
    return last in named or (own and (not named or bool(named & set(way))))


def _shown(requirement: Requirement, value: int | float) -> str:
    """A value in as few digits, three at least, as still show that it is not what is required."""
    if isinstance(value, float):
        for digits in range(3, 17):
            short = f"{value:.{digits}g}"
            if not requirement.holds(float(short)):
                return short
    return str(value)


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case str():
            return "text"
        case list():
            return "a list"
        case Mapping():
            return "a group of names"
        case _:
            return "a single value"


def _no_requirement(text: str, reason: str) -> MoemergeError:
    return _error(f"`{text}` is no requirement: {reason}", _FORM)


def _error(message: str, hint: str | None = None) -> MoemergeError:
    return MoemergeError(message, hint=hint, code="require")

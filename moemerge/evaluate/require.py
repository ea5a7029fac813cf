"""`--require`: what a report must say for a merge to pass, as `gain_kept>=0.9`.

A requirement is a name, an operator and a number. The name is a path into the report's JSON, with dots between its
parts and `[N]` for an item of a list: `domains.my domain.moe`, `routing.load[0]`. Numbers are compared exactly.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moemerge.errors import MoemergeError
from moemerge.recipe.places import did_you_mean, nearest

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
"""What each operator asks of the value and the number."""

_FORM = re.compile(
    r"\s*(?P<name>[^<>=!]+?)\s*(?P<operator>>=|<=|==|!=|<|>)"
    r"\s*(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A number of the report by its name, and what it must be: `operator` is a key of `OPERATORS`."""

    name: str
    operator: str
    number: float

    def __str__(self) -> str:
        number = int(self.number) if self.number.is_integer() and abs(self.number) < 2**53 else self.number
        return f"{self.operator} {number}"

    def holds(self, value: float) -> bool:
        """Whether a value is what is required; NaN never is."""
        return not math.isnan(value) and OPERATORS[self.operator](value, self.number)


def parse_requirement(text: str, names: Sequence[str]) -> Requirement:
    """Reads a requirement.

    Args:
        text: what was typed.
        names: those at the top of every report.

    Raises:
        MoemergeError: the text is not a requirement, or no report has a name that begins like this one.
    """
    found = _FORM.fullmatch(text)
    if found is None or math.isinf(float(found["number"])):
        form = f"write a name of the report, one of {' '.join(OPERATORS)}, and a number, such as `gain_kept>=0.9`"
        raise _error(f"`{text}` is not a requirement", form)
    top = re.split(r"[.\[]", found["name"])[0]
    if top not in names:
        raise _error(f"The report has no `{top}`", did_you_mean(top, names))
    return Requirement(found["name"], found["operator"], float(found["number"]))


def check(requirement: Requirement, report: Mapping[str, Any]) -> str | None:
    """Holds a report against a requirement.

    Returns:
        None where it is met, else a line such as `gain_kept is 0.871, and >= 0.9 is required`.

    Raises:
        MoemergeError: the report has no such name, or no number there.
    """
    name, values = requirement.name, dict(_values(report))
    value = values.get(name)
    if any(found is None and f"{name}.".startswith(f"{above}.") for above, found in values.items()):
        missing: Mapping[str, str] = report.get("missing", {})
        why = values.get(f"{name}_note") or "; ".join(f"{what}: {reason}" for what, reason in missing.items())
        return f"{name} is not measured, and {requirement} is required{f' ({why})' if why else ''}"
    if name not in values:
        if within := [other for other in values if other.startswith((f"{name}.", f"{name}["))]:
            raise _error(f"`{name}` holds more than one value", f"name one, such as `{within[0]}`")
        found = nearest(name, values)
        raise _error(f"The report has no `{name}`", f"did you mean `{found}`?" if found else None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _error(f"`{name}` is not a number, and only a number can be required")
    return (
        None if requirement.holds(value) else f"{name} is {_shown(requirement, value)}, and {requirement} is required"
    )


def _values(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The single values of a report by their whole names."""
    if isinstance(node, Mapping):
        for key, below in node.items():
            yield from _values(below, f"{name}.{key}" if name else key)
    elif isinstance(node, list):
        for number, below in enumerate(node):
            yield from _values(below, f"{name}[{number}]")
    else:
        yield name, node


def _shown(requirement: Requirement, value: float) -> str:
    """A value in as few digits, three at least, as still show that it is not what is required."""
    short = (f"{value:.{digits}g}" for digits in range(3, 17))
    found = (text for text in short if not requirement.holds(float(text)))
    return str(value) if isinstance(value, int) else next(found, str(value))


def _error(message: str, hint: str | None = None) -> MoemergeError:
    return MoemergeError(message, hint=hint, code="require")

"""One declaration of each option: the field of a dataclass that holds it, with its default, help and bounds.

The command line is made of these (`moemerge.cli.options`), and messages name an option as it is typed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from moemerge.errors import MoemergeError

T = TypeVar("T")

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
"""How a GGUF file's matrices can be stored."""
FIRST, RUNS, OUTPUT = "Options", "Where it runs", "Output"
"""Headings of `--help` that several commands have; what most people need stands under the first."""


@dataclass(frozen=True, slots=True)
class Option:
    """What a field is on the command line.

    Attributes:
        default: what the field has where nothing is typed.
        panel: the heading of `--help` that it stands under.
        help: what `--help` says of it.
        flag: how it is typed; made of the field's name where it is empty.
        metavar: what stands for its value; made of its type when None.
        choices: what it, or each of its parts, may be; those of a `Literal` where it is empty. Anything when both are.
        least: the smallest number that it may be.
        above: the number that it must be more than.
        read: makes the value of the texts that were typed, for an option that may be given several times.
        kind: the field's type.
    """

    default: Any
    panel: str
    help: str
    flag: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    read: Callable[[list[str]], Any] | None = None
    kind: Any = None


def option(default: T, panel: str, help: str, **further: Any) -> T:
    """A dataclass field that is an option too; `further` is what else an `Option` has."""
    return field(default_factory=lambda: default, metadata={"option": Option(default, panel, help, **further)})


@cache
def options_of(kind: Any) -> Mapping[str, Option]:
    """The options of a dataclass, a type, by the names of their fields."""
    hints = get_type_hints(kind)
    return {
        one.name: _complete(one.metadata["option"], one.name, hints[one.name])
        for one in fields(kind)
        if "option" in one.metadata
    }


def _complete(declared: Option, name: str, kind: Any) -> Option:
    literals = (get_args(part) for part in (kind, *get_args(kind)) if get_origin(part) is Literal)
    flag = declared.flag or f"--{name.replace('_', '-')}"
    return replace(declared, flag=flag, kind=kind, choices=declared.choices or next(literals, ()))


def typed(options: Any, name: str) -> str:
    """An option and its value as they are typed, such as `--rank 8`."""
    return f"{options_of(options.__class__)[name].flag} {getattr(options, name)}"


def check(options: Any, error: type[MoemergeError] = MoemergeError) -> None:
    """Refuses what is out of bounds or not among the choices.

    Raises:
        MoemergeError: of the type `error`.
    """
    for name, declared in options_of(options.__class__).items():
        value = getattr(options, name)
        each = value if isinstance(value, tuple | list) else (value,)
        unknown = [one for one in each if one not in declared.choices] if declared.choices else []
        if unknown:
            known = ", ".join(f"`{choice}`" for choice in declared.choices)
            raise error(f"`{declared.flag} {','.join(unknown)}` is not known", hint=f"one of {known}")
        if value is not None and declared.least is not None and not value >= declared.least:
            bound = f"be at least {declared.least}" if declared.least else "not be negative"
            raise error(f"`{typed(options, name)}` must {bound}")
        if value is not None and declared.above is not None and not value > declared.above:
            raise error(f"`{typed(options, name)}` must be more than {declared.above}")


def parts(texts: Iterable[str]) -> tuple[str, ...]:
    """The parts of lists with commas, each once."""
    return tuple(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))

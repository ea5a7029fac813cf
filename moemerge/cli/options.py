"""The command line's options, made of the dataclasses that hold them (`moemerge.options`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from moemerge.errors import EvalError
from moemerge.options import Option, check, options_of, parts


class Panels(TyperCommand):
    """A command whose help lists its options under their headings, in the order in which these first appear."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, then each heading's options."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                panel = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Options"
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of each dataclass among its parameters, in that parameter's place.

    Raises:
        MoemergeError: (the command) a value that was typed makes no sense.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def taking(**given: Any) -> None:
        made = {name: _made(kind, given) for name, kind in groups.items()}
        command(**made, **given)

    taking.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    taking.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return taking


def declared(kind: type, name: str) -> Any:
    """A single option of a dataclass, for a command that takes no other of its options."""
    option = options_of(kind)[name]
    return typer.Option(option.flag, help=option.help, metavar=option.metavar, rich_help_panel=option.panel)


def _parameters(kind: Any) -> Iterator[inspect.Parameter]:
    """The parameters that a dataclass' options are, those of the dataclasses in it too."""
    options, hints = options_of(kind), get_type_hints(kind)
    for one in fields(kind):
        if one.name in options:
            option = options[one.name]
            type_ = _typed(option)
            yield inspect.Parameter(
                _parameter(option),
                inspect.Parameter.KEYWORD_ONLY,
                default=[] if type_ == list[str] else option.default,
                annotation=Annotated[type_, declared(kind, one.name)],
            )
        elif is_dataclass(hints[one.name]):
            yield from _parameters(hints[one.name])


def _parameter(option: Option) -> str:
    return option.flag.removeprefix("--").replace("-", "_")


def _typed(option: Option) -> Any:
    """The type that Typer is told: our own check is to refuse what is not a choice, and it may be a list."""
    kind = option.kind
    if option.read is not None or get_origin(kind) in (tuple, Collection):
        return list[str]
    if get_origin(kind) is Literal:
        return str
    return get_args(kind)[0] | None if type(None) in get_args(kind) else kind


def _made(kind: Any, given: dict[str, Any]) -> Any:
    """A dataclass of what was typed, taken out of `given`."""
    options, hints = options_of(kind), get_type_hints(kind)
    values: dict[str, Any] = {}
    for one in fields(kind):
        if one.name in options:
            option = options[one.name]
            value = given.pop(_parameter(option))
            if _typed(option) == list[str]:
                value = (option.read or parts)(value)
            values[one.name] = value
        elif is_dataclass(hints[one.name]):
            values[one.name] = _made(hints[one.name], given)
    made = kind(**values)
    check(made, EvalError)
    return made

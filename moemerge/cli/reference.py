"""Writes docs/commands.md from the commands themselves.

python -m moemerge.cli.reference > docs/commands.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from moemerge.cli import app
from moemerge.cli.app import in_order

HEAD = """\
# Every command and option

Made from the commands themselves by `make docs`. [The commands](cli.md) says what they do, and what all of them share.
"""


def markdown() -> str:
    """The page: a section for each command, its arguments and options under the headings of its `--help`."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("moemerge", [], resilient_parsing=True)
    parts = [HEAD]
    for name in in_order(group.commands):
        command = group.commands[name]
        inside = typer.Context(command, info_name=name, parent=context)
        parts += _section(command, inside)
    return "\n".join(parts)


def _section(command: Any, context: Any) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## `moemerge {context.info_name}`\n\n```text\nmoemerge {context.info_name} {usage}\n```\n"
    yield f"{_unwrapped(command.help)}\n"
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            argument = parameter.param_type_name == "argument"
            panel = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Options"
            panels.setdefault(panel, []).append(record)
    for panel, records in panels.items():
        yield f"| {panel} | |\n| --- | --- |"
        for names, meaning in records:
            yield f"| `{names}` | {_cell(meaning)} |"
        yield ""


def _unwrapped(text: str) -> str:
    """Paragraphs on one line each."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(markdown(), end="")

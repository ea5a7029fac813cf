"""The `moemerge` command itself: what all of its commands share, and the one place that prints errors."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from moemerge.console import few
from moemerge.errors import MoemergeError, Problem
from moemerge.options import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CIRCUMSTANCES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE,
                            errno.EIO, errno.ELOOP, errno.ENAMETOOLONG, errno.ESTALE})  # fmt: skip
"""What the system may refuse anywhere (a full disk for temporary files, say) and the user can mend."""


WAY = ("init", "plan", "build", "verify", "eval", "train-router")
"""The commands from models to a trained mixture, in the order in which they are used."""


def in_order(names: Iterable[str]) -> list[str]:
    """All commands: those of `WAY`, then the rest, those first that more people need."""
    return list(dict.fromkeys((*WAY, "trace", "export", "push", "families", "schema", *names)))


class _Group(TyperGroup):
    """Prints what a user can mend as `error:` and `hint:` and exits with 1; anything else stays a traceback."""

    def invoke(self, ctx: Any) -> Any:
        if os.environ.get("NO_COLOR"):  # https://no-color.org; the context's colour is its commands' too
            ctx.color = False
        try:
            return super().invoke(ctx)
        except MoemergeError as error:
            print_problems(error.problems)
            raise typer.Exit(1) from error

    def main(self, *args: Any, **extra: Any) -> Any:
        """The command, its help too: what the system refuses meanwhile is said in a line."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno not in _CIRCUMSTANCES:
                raise
            where = f": `{error.filename}`" if error.filename else ""
            with suppress(OSError):  # stderr may be what is full
                print_problems([Problem("system", f"{error.strerror}{where}")])
            sys.exit(1)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The way from models to a trained mixture, in its order; then the rest."""
        ordered = in_order(self.commands)
        width = max(map(len, ordered))
        for title, names in (
            ("Commands, in the order in which they are used (COMMAND --help says more)", ordered[: len(WAY)]),
            ("Beside these", ordered[len(WAY) :]),
        ):
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), self.commands[name].get_short_help_str(60)) for name in names])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A command by its name; the first word of one is enough to be told the whole."""
        longer = [name for name in self.commands if args and name.startswith(f"{args[0]}-")]
        if longer:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {longer[0]!r}?")
        return super().resolve_command(ctx, args)


def print_problems(problems: Iterable[Problem], *, word: str = "error") -> None:
    """Prints problems to stderr, each with its hint; a hint that several in a row share comes once, after them."""
    listed = list(problems)
    for problem, following in zip_longest(listed, listed[1:]):
        typer.secho(f"{word}: ", fg="red" if word == "error" else "yellow", bold=True, nl=False, err=True)
        typer.echo(problem.message, err=True)
        if problem.hint and not (following and following.hint == problem.hint):
            typer.secho("hint: ", fg="cyan", bold=True, nl=False, err=True)
            typer.echo(problem.hint, err=True)


def print_briefly(warnings: Sequence[Problem], recipe: Path) -> None:
    """Prints to stderr in one line which warnings a plan has: `moemerge plan` explains them, where one can act."""
    if not warnings:
        return
    codes = ", ".join(few([f"`{code}`" for code in dict.fromkeys(warning.code for warning in warnings)]))
    number, them = ("a warning", "it") if len(warnings) == 1 else (f"{len(warnings)} warnings", "them")
    typer.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
    typer.echo(f"the plan has {number} ({codes}): `moemerge plan {recipe}` explains {them}", err=True)


app = typer.Typer(
    name="moemerge",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

MoeFolder = Annotated[
    Path, typer.Argument(metavar="OUT", help="A folder with a mixture of experts.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON to stdout.", rich_help_panel=OUTPUT)]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Reads `.bin` sources, tensors only.")]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Says nothing but errors and results.", rich_help_panel=OUTPUT)
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Says more.")]


def _version(value: bool) -> None:
    if value:
        from moemerge.version import full_version

        typer.echo(f"moemerge {full_version()}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Prints the version.")
    ] = False,
) -> None:
    """Merges fine-tunes of one model into a mixture that plain transformers loads."""


def run() -> None:
    """Runs the command that the process was started with; `moemerge.__main__.main` is the script."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    if "_MOEMERGE_COMPLETE" in os.environ:  # a shell asks: docs/cli.md says how it comes to
        from typer.completion import completion_init  # type: ignore[attr-defined]  # where typer's own apps find it

        completion_init()
    app()

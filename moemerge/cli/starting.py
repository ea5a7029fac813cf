"""`moemerge init`: parse or ask, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moemerge.cli.app import AllowPickle, Quiet, app, print_briefly, print_problems
from moemerge.errors import MoemergeError


@app.command(short_help="Looks at your models and writes a recipe for them.")
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recipe to write.")] = Path("moe.yaml"),
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="The base: a folder, a hub id or a GGUF file.")
    ] = None,
    experts: Annotated[
        list[str],
        typer.Option("--expert", metavar="NAME=MODEL", help="A fine-tune of it, full or LoRA; for each one."),
    ] = [],  # noqa: B006  # Typer reads the default and never changes it
    prompts: Annotated[
        list[str],
        typer.Option("--prompts", metavar="NAME=FILE", help="An expert's prompts, one per line; or a domain's name."),
    ] = [],  # noqa: B006  # likewise
    texts: Annotated[
        list[str],
        typer.Option("--texts", metavar="NAME=FILE", help="Texts to measure on: an expert's domain, never trained on."),
    ] = [],  # noqa: B006  # likewise
    allow_pickle: AllowPickle = False,
    quiet: Quiet = False,
) -> None:
    """Looks at your models and writes a recipe for them, with comments.

    An expert's name chooses the prompts that are suggested: `code`, `maths`, `french`, `my-sql-model` and so on.
    On a terminal what is missing is asked for. An existing file is never overwritten.
    """
    from moemerge.init import draft_recipe, wanted_of, write_new

    here = Path.cwd()
    if sys.stdin.isatty() and sys.stderr.isatty():
        base, experts, prompts = _asked(base, experts, prompts, here)
    wanted = wanted_of(base, experts, prompts, here, texts, allow_pickle=allow_pickle)
    draft = draft_recipe(wanted, file, here)
    write_new(file, draft.text)
    if not quiet:
        for note in draft.notes:
            typer.echo(f"note: {note}", err=True)
        print_briefly(draft.warnings, file)
        width = max(map(len, draft.models)) + 2
        for name, what in draft.models.items():
            typer.echo(f"{name.ljust(width)}{what}")
    typer.echo(f"wrote {file}")
    for path in draft.to_fill:
        what = "six to eight beginnings of what this expert should write, one per line"
        typer.echo(f"write {file.parent / path}: {what}")
    typer.echo(f"then: moemerge plan {file}")


def _asked(
    base: str | None, experts: list[str], prompts: list[str], here: Path
) -> tuple[str | None, list[str], list[str]]:
    """What was typed, and answers to what was not."""
    from moemerge.init import DOMAINS, domain_of

    if base is None:
        base = _model("The base model (a folder, a hub id or a GGUF file)", here)
    if not experts:
        typer.echo(f"Prompts are suggested for experts with these names: {', '.join(DOMAINS)}.", err=True)
        while name := _line(f"Name of expert {len(experts) + 1}" + (" (Enter if that is all)" if experts[1:] else "")):
            experts = [*experts, f"{name}={_model(f'The model of `{name}` (full checkpoint or LoRA adapter)', here)}"]
    given = {text.partition("=")[0].strip() for text in prompts}
    for name in (text.partition("=")[0].strip() for text in experts):
        if name not in given and domain_of(name) is None:
            found = _line(
                f"What does `{name}` write? One of those domains, a file of prompts, or Enter to write them later"
            )
            prompts = [*prompts, *([f"{name}={found}"] if found else [])]
    return base, experts, prompts


def _model(question: str, here: Path) -> str:
    """A model that can be found, or may be on the hub."""
    from moemerge.sources.spec import parse

    while True:
        typed = _line(question)
        try:
            if typed != "base":
                parse(typed, here)
            return typed
        except MoemergeError as error:
            print_problems(error.problems)


def _line(question: str) -> str:
    return str(typer.prompt(question, default="", show_default=False, err=True)).strip()

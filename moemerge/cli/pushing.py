"""`moemerge push`: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moemerge.cli.app import AsJson, MoeFolder, Quiet, app
from moemerge.console import progress, size

if TYPE_CHECKING:
    from moemerge.push import Parcel


@app.command(short_help="Publishes a mixture on the hub, with its model card.")
def push(
    folder: MoeFolder,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Where to: `OWNER/NAME`.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Makes a repository that nobody else sees.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", metavar="BRANCH", help="The branch.")] = None,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", metavar="FILE", help="Publishes what `export` wrote, too.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option("--eval", metavar="FILE", help="Shows what `eval -o` wrote in the card.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Lists the files and prints the card; asks the hub nothing.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Publishes a mixture on the hub: the files of the build, a model card, and nothing of this machine.

    Interrupted, the same command goes on where it stopped. The repository shows all files or none.
    """
    from moemerge.push import prepare, push_folder

    with progress(quiet=quiet or as_json) as reporter:
        parcel = prepare(folder, repo, reporter, gguf=gguf, report=evaluation)
        done = None if dry_run else push_folder(parcel, reporter, revision=revision, private=private)
    if not quiet and not as_json:
        for note in parcel.notes:
            typer.echo(f"note: {note}", err=True)
        if done is not None and done.removed:
            typer.echo(f"note: removed from `{repo}`: {', '.join(done.removed)}", err=True)
    if done is not None:
        _tell(done.to_json() if as_json else f"{done.url}: {done.files} files, {size(done.bytes)}")
    elif as_json:
        _tell({"repo": repo, "files": {item.name: item.size for item in parcel.items()}, "card": parcel.card})
    else:
        _list(parcel)


def _tell(what: object) -> None:
    typer.echo(what if isinstance(what, str) else json.dumps(what, indent=1, ensure_ascii=False))


def _list(parcel: Parcel) -> None:
    items = parcel.items()
    for item in items:
        typer.echo(f"{size(item.size):>9}  {item.name}")
    typer.echo(f"{size(sum(item.size for item in items)):>9}  in {len(items)} files; nothing was sent\n")
    typer.echo(parcel.card)

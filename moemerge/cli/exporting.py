"""`moemerge export`: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moemerge.cli.app import AsJson, MoeFolder, Quiet, app
from moemerge.console import progress, size
from moemerge.options import GgufType


@app.command(short_help="Writes a mixture as a GGUF file for llama.cpp and Ollama.")
def export(
    folder: MoeFolder,
    gguf: Annotated[Path, typer.Option("--gguf", metavar="FILE", help="The file to write.", show_default=False)],
    kind: Annotated[GgufType, typer.Option("--type", help="How matrices are stored.")] = "f16",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replaces a file that this command wrote.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Writes a mixture as a GGUF file for llama.cpp and Ollama, and a Modelfile beside it.

    What llama.cpp would compute otherwise is refused before anything is written. Of a mixture that sees or hears the
    file has the language model alone.
    """
    from importlib.util import find_spec

    from moemerge.errors import ExportError

    if find_spec("gguf") is None:
        raise ExportError("the package `gguf` is not installed", hint="run `pip install 'moemerge[gguf]'`")
    from moemerge.export import export_gguf

    with progress(quiet=quiet or as_json) as reporter:
        done = export_gguf(folder, gguf, kind, reporter, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(done.to_json(), indent=1))
    else:
        typer.echo(f"{done.path}: {size(done.bytes)}, llama.cpp's `{done.architecture}`")
        if done.lacks is not None:
            typer.echo(f"note: {done.lacks}")
        typer.echo(f"Ollama: `ollama create NAME -f {done.modelfile}`")

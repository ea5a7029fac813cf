"""`moemerge trace`: parse, call one function, print."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from moemerge.cli.app import AsJson, MoeFolder, Quiet, app
from moemerge.cli.options import Panels, declared, takes_options
from moemerge.cli.results import PAGE, check_target, results, write_file
from moemerge.console import progress
from moemerge.errors import EvalError
from moemerge.evaluate.options import EvalOptions
from moemerge.mixture.placement import Placement
from moemerge.options import parts


@app.command(cls=Panels, short_help="Shows which expert each token of a text goes to.")
@takes_options
def trace(
    folder: MoeFolder,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The text; `-` reads stdin.")] = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Reads the text from a file.")] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Shows one layer [the mean over all; with --explain the middle one].")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Shows the way of one token through one layer.")] = False,
    token: Annotated[
        str, typer.Option("--token", metavar="N|TEXT", help="With --explain: its number, or a part of its text.")
    ] = "-1",
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Writes a page.")] = None,
    experts: Annotated[list[str], declared(EvalOptions, "experts")] = [],  # noqa: B006  # Typer never changes it
    *,
    placement: Placement,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Shows which expert each token of a text goes to, in each layer."""
    from transformers.utils import logging

    from moemerge.device import check_device
    from moemerge.evaluate.explain import explain as explain_token
    from moemerge.evaluate.trace import trace_text
    from moemerge.mixture.folder import open_moe
    from moemerge.mixture.routers import find_routers

    words = _text(text, file)
    if explain and html is not None:
        raise EvalError("`--explain` has no page", hint="leave `--html` out, or trace the text without `--explain`")
    check_target(html, PAGE)
    check_device(placement.device)
    opened = open_moe(folder, parts(experts))
    tokenizer = opened.tokenizer()
    logging.disable_progress_bar()
    with progress(quiet=quiet) as reporter:
        placement = opened.settled(placement, reporter.note)
        reporter.stage("load", 1, "model")
        model = opened.load(placement)
        routers = find_routers(model)
        reporter.stage("trace", 1, "text")
        if explain:
            place = routers.layers[len(routers.layers) // 2] if layer is None else layer
            which = int(token) if re.fullmatch(r"-?[0-9]+", token) else token
            explained = explain_token(model, tokenizer, routers, words, which, place, opened.experts)
        else:
            traced = trace_text(model, tokenizer, routers, words, opened.experts)
    if explain:
        from moemerge.report.trace import print_explanation

        if as_json:
            typer.echo(json.dumps(explained.to_json(), indent=1, ensure_ascii=False))
        else:
            print_explanation(explained, results())
        return
    if html is not None:
        from moemerge.report.trace_page import trace_page

        write_file(html, trace_page(traced))
    if as_json:
        typer.echo(json.dumps(traced.to_json(), ensure_ascii=False))
    else:
        from moemerge.report.trace import print_trace

        print_trace(traced, results(), layer)


def _text(text: str | None, file: Path | None) -> str:
    if text is not None and file is not None:
        raise EvalError("there are two texts to trace", hint="give TEXT or `--file FILE`, not both")
    if text is None and file is None:
        raise EvalError("give the text to trace", hint='as in `moemerge trace OUT "a text"`, or by `--file FILE`')
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        return sys.stdin.read() if text == "-" else str(text)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise EvalError(f"`{file or 'stdin'}` cannot be read: {why}") from error

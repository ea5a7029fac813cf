"""`moemerge eval`: parse, call one function, print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from moemerge.cli.app import AsJson, MoeFolder, Quiet, app
from moemerge.cli.options import Panels, takes_options
from moemerge.cli.results import FIGURES, PAGE, check_target, results, write_file
from moemerge.console import progress
from moemerge.errors import EvalError
from moemerge.evaluate.options import REPORT, SOURCES, EvalOptions

FAILED = 3
"""Exit status where a `--require` does not hold."""


@app.command("eval", cls=Panels, short_help="Measures it on held-out texts against its specialists.")
@takes_options
def evaluate(
    folder: MoeFolder,
    require: Annotated[
        list[str],
        typer.Option("--require", metavar="CONDITION", help="Exits with 3 unless it holds, such as `gain_kept>=0.9`."),
    ] = [],  # noqa: B006  # Typer reads the default and never changes it
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Writes a page.")] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="FOLDER", help="Writes PNG plots for a model card.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Writes the figures as JSON.")
    ] = None,
    *,
    options: EvalOptions,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Keeps losses by content for next time.", rich_help_panel=SOURCES),
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measures a mixture on held-out texts against its base, specialists, linear merge and oracle routing."""
    from moemerge.evaluate.require import check, parse_requirement

    requirements = [parse_requirement(text, REPORT) for text in require]
    if html is not None and output is not None and html.absolute() == output.absolute():
        raise EvalError(f"`--html` and `-o` both name `{html}`", hint="name two files")
    check_target(html, PAGE)
    check_target(output, FIGURES)
    if not cache:
        options = replace(options, cache=None)
    report = _measured(folder, options, quiet=quiet)
    if report is None:  # one of several processes, and not the first
        return
    if output is not None:
        write_file(output, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if html is not None:
        from moemerge.report import html_page

        write_file(html, html_page(report))
    if plots is not None:
        from moemerge.report import write_plots

        write_plots(report, plots)
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        from moemerge.report import print_report

        print_report(report, results())
    failures = [failure for requirement in requirements if (failure := check(requirement, report)) is not None]
    for failure in failures:
        typer.secho("failed: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(failure, err=True)
    if failures:
        raise typer.Exit(FAILED)


def _measured(folder: Path, options: EvalOptions, *, quiet: bool) -> dict[str, Any] | None:
    """The report, in the first of the processes that `accelerate launch` may have started; None in the others."""
    from transformers.utils import logging

    from moemerge.device import check_device
    from moemerge.evaluate.run import evaluate_folder
    from moemerge.mixture.processes import join_processes

    check_device(options.placement.device)
    logging.disable_progress_bar()
    processes = join_processes()
    with progress(quiet=quiet or not processes.first) as reporter:
        report = evaluate_folder(folder, options, reporter, processes)
    return report if processes.first else None

"""`moemerge eval`: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moemerge.cli.app import AllowPickle, AsJson, Quiet, app
from moemerge.cli.placement import (
    Device,
    DeviceMap,
    Dtype,
    Experts,
    MaxMemory,
    MoeFolder,
    Offload,
    names_in,
    placement_of,
)
from moemerge.cli.results import FIGURES, PAGE, check_target, results, write_file
from moemerge.console import progress
from moemerge.errors import EvalError

if TYPE_CHECKING:
    from moemerge.evaluate.options import EvalOptions

FAILED = 3
"""Exit status where a `--require` does not hold."""


@app.command("eval")
def evaluate(
    folder: MoeFolder,
    domains: Annotated[
        Path | None,
        typer.Option("--domains", metavar="FILE", help="YAML: held-out texts by domain [the recipe's `eval`]."),
    ] = None,
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
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Reads at most so many texts a domain.")] = None,
    context: Annotated[
        int | None, typer.Option("--context", min=2, help="Longest window in tokens [2048 at most].")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="Tokens between a long text's windows [half the context].")
    ] = None,
    compare: Annotated[
        list[str],
        typer.Option("--compare", metavar="NAME=FOLDER", help="Measures another model on the same texts."),
    ] = [],  # noqa: B006  # likewise
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="A,B,...", help="Runs tasks of lm-evaluation-harness too.")
    ] = "",
    tasks_backend: Annotated[str, typer.Option("--tasks-backend", help="The harness's back end: hf or vllm.")] = "hf",
    tasks_include: Annotated[
        Path | None, typer.Option("--tasks-include", metavar="FOLDER", help="A folder with tasks of your own.")
    ] = None,
    fewshot: Annotated[int | None, typer.Option("--fewshot", min=0, help="Examples before each task's item.")] = None,
    without: Annotated[
        str, typer.Option("--without", metavar="A,B,...", help="Leaves out samples, chat, questions or speed.")
    ] = "",
    experts: Experts = "",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    offload: Offload = None,
    max_memory: MaxMemory = "",
    online: Annotated[bool, typer.Option("--online", help="Downloads sources that are not here.")] = False,
    allow_pickle: AllowPickle = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keeps losses by content for next time.")] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seeds the bootstrap and the random gate.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measures a mixture on held-out texts against its base, specialists, linear merge and oracle routing."""
    from moemerge.evaluate.cache import cache_folder
    from moemerge.evaluate.options import REPORT, EvalOptions, TaskOptions
    from moemerge.evaluate.require import check, parse_requirement

    requirements = [parse_requirement(text, REPORT) for text in require]
    if html is not None and output is not None and html.absolute() == output.absolute():
        raise EvalError(f"`--html` and `-o` both name `{html}`", hint="name two files")
    check_target(html, PAGE)
    check_target(output, FIGURES)
    if tasks_backend not in ("hf", "vllm"):
        raise EvalError(f"`--tasks-backend {tasks_backend}` is not known", hint="one of `hf`, `vllm`")
    options = EvalOptions(
        domains=domains,
        experts=names_in(experts),
        limit=limit,
        context=context,
        stride=stride,
        placement=placement_of(dtype, device, device_map, offload, max_memory),
        online=online,
        allow_pickle=allow_pickle,
        cache=cache_folder() if cache else None,
        seed=seed,
        without=frozenset(names_in(without)),
        compare=_named_folders(compare),
        tasks=TaskOptions(names_in(tasks), tasks_backend, tasks_include, fewshot) if tasks else None,  # type: ignore[arg-type]
    )
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


def _named_folders(given: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise EvalError(f"`--compare {text}` is not NAME=FOLDER", hint="as in `--compare mergekit=out/mergekit`")
        if name in found:
            raise EvalError(f"`--compare` names `{name}` twice")
        if not Path(folder, "config.json").is_file():
            raise EvalError(f"`--compare {text}`: `{folder}` holds no model", hint="name a folder with a `config.json`")
        found[name] = Path(folder)
    return found

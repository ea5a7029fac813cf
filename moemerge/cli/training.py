"""`moemerge train-router`: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moemerge.cli.app import AsJson, Quiet, app
from moemerge.cli.options import Panels, takes_options
from moemerge.console import progress
from moemerge.options import OUTPUT
from moemerge.signals import Stopped
from moemerge.train.options import TrainOptions

if TYPE_CHECKING:
    from moemerge.train.run import TrainResult


@app.command("train-router", cls=Panels)
@takes_options
def train_router(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder that moemerge built; never touched.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT2", help="The folder to make.")],
    options: TrainOptions,
    resume: Annotated[bool, typer.Option("--resume", help="Goes on with an interrupted training.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replaces a folder that moemerge made.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Trains the router alone, into a new folder. What is not better than the start is not kept."""
    from transformers.utils import logging

    from moemerge.api import train_router as train
    from moemerge.device import check_device
    from moemerge.mixture.processes import join_processes

    check_device(options.placement.device)
    logging.disable_progress_bar()
    processes = join_processes()
    try:
        with progress(quiet=quiet or not processes.first) as reporter:
            result = train(folder, output, options, reporter, processes, overwrite=overwrite, resume=resume)
    except Stopped as stopped:
        stopped.hint = _how_to_go_on(output)
        raise
    if not processes.first:
        return
    if as_json:
        typer.echo(json.dumps({"path": str(result.path), **result.training}, indent=1, ensure_ascii=False))
    else:
        _print(result)


def _how_to_go_on(output: Path) -> str:
    """What a training that was stopped leaves."""
    from moemerge.train.state import state_path

    if state_path(output).is_file():
        return "the same command with `--resume` goes on from the last look"
    return "nothing is left of it, since it had not come to its first look"


def _print(result: TrainResult) -> None:
    change, low, high = result.change
    typer.echo(
        f"held-out loss {result.start.mean:.4f} at the start, {result.best.mean:.4f} at best: {change:+.4f} "
        f"[{low:+.4f}, {high:+.4f}]; {result.training['ended']}"
    )
    for name, value in result.best.by_domain.items():
        typer.echo(f"  {name:<14}{result.start.by_domain[name]:.4f} -> {value:.4f}")
    if result.improved:
        typer.echo(f"trained {result.path}: step {result.training['best_step']} is kept")
    elif result.training["options"]["adapter_only"]:
        typer.echo(f"the adapter in {result.path} changes nothing: training did not beat the start beyond doubt")
    elif result.training["steps"]:
        typer.echo(f"{result.path} has the gate of the start: training did not beat it beyond doubt")
    else:
        typer.echo(f"{result.path} has the gate of the start")

"""`moemerge train-router`: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moemerge.cli.app import AllowPickle, AsJson, Quiet, app
from moemerge.cli.placement import Device, DeviceMap, MaxMemory, Offload, placement_of
from moemerge.console import progress
from moemerge.signals import Stopped

if TYPE_CHECKING:
    from moemerge.train.run import TrainResult


@app.command("train-router")
def train_router(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder that moemerge built; never touched.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT2", help="The folder to make.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="YAML: training texts by domain [the recipe's own].")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out", metavar="FILE", help="YAML: texts that decide what is kept [a fifth of the training texts]."
        ),
    ] = None,
    method: Annotated[str, typer.Option("--method", help="lora, or full: the whole gates.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", help="Of the LoRA.")] = 8,
    alpha: Annotated[int, typer.Option("--alpha", help="Of the LoRA; its change is times alpha / rank.")] = 16,
    also: Annotated[
        str, typer.Option("--also", help="LoRA beside the router too: attention, experts, or both with a comma.")
    ] = "",
    also_rate: Annotated[float, typer.Option("--also-rate", help="Highest learning rate of these.")] = 1e-4,
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="Writes a peft adapter and no model.")] = False,
    start: Annotated[
        str,
        typer.Option("--start", help="fitted (the folder's), discriminant, lda, centroid, centred, random, uniform."),
    ] = "fitted",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Refits the gate layer by layer through the mixture first.")
    ] = False,
    route: Annotated[
        str, typer.Option("--route", help="While training: auto, straight-through, soft or top-k.")
    ] = "auto",
    steps: Annotated[int, typer.Option("--steps", help="At most so many; 0 writes the start.")] = 60,
    minutes: Annotated[float | None, typer.Option("--minutes", help="At most so long.")] = None,
    context: Annotated[int, typer.Option("--context", help="Positions of a row.")] = 256,
    rows: Annotated[int, typer.Option("--rows", help="Rows of a forward pass.")] = 4,
    accumulation: Annotated[int, typer.Option("--accumulation", help="Forward passes of a step.")] = 1,
    mixed: Annotated[float, typer.Option("--mixed", help="Share of rows whose texts change the domain.")] = 0.2,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Highest learning rate [0.01; from a random gate 0.02, full 0.03].")
    ] = None,
    warm_up: Annotated[int, typer.Option("--warm-up", help="Steps until it is reached.")] = 10,
    clip: Annotated[float, typer.Option("--clip", help="Largest norm of the gradient.")] = 1.0,
    balance_weight: Annotated[float, typer.Option("--balance-weight", help="Of the load-balancing loss.")] = 1e-3,
    z_weight: Annotated[float, typer.Option("--z-weight", help="Of the router z-loss.")] = 1e-4,
    domain_weight: Annotated[
        float | None,
        typer.Option(
            "--domain-weight", help="Of the loss of the domain's label, which fades [0.1 from random, else 0]."
        ),
    ] = None,
    first_weight: Annotated[
        float, typer.Option("--first-weight", help="Of the loss that holds documents' first tokens to their route.")
    ] = 0.25,
    distil_weight: Annotated[
        float, typer.Option("--distil-weight", help="Of the divergence from the domain's own specialist.")
    ] = 0.0,
    temperature: Annotated[float, typer.Option("--temperature", help="In that divergence.")] = 2.0,
    judge_every: Annotated[int, typer.Option("--judge-every", help="Steps between looks at held-out texts.")] = 20,
    patience: Annotated[int, typer.Option("--patience", help="Looks without a better one until it ends.")] = 5,
    held_out_tokens: Annotated[int, typer.Option("--held-out-tokens", help="About so many a domain.")] = 4096,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Reads at most so many texts a domain.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is random.")] = 0,
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto (what this machine is fast in), float32 or bfloat16.")
    ] = "auto",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    offload: Offload = None,
    max_memory: MaxMemory = "",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory: computes each layer twice.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Goes on with an interrupted training.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replaces a folder that moemerge made.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Downloads specialists that are not here.")] = False,
    track: Annotated[
        list[str] | None, typer.Option("--track", help="Logs to tensorboard or wandb; may be repeated.")
    ] = None,
    track_dir: Annotated[
        Path | None, typer.Option("--track-dir", metavar="FOLDER", help="Of the logs [OUT2.tracking].")
    ] = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Trains the router alone, into a new folder. What is not better than the start is not kept."""
    from transformers.utils import logging

    from moemerge.api import train_router as train
    from moemerge.device import check_device
    from moemerge.mixture.processes import join_processes
    from moemerge.train.options import TrainOptions

    chosen: dict[str, Any] = {
        "data": data, "held_out": held_out, "method": method, "rank": rank, "alpha": alpha,
        "also": tuple(name.strip() for name in also.split(",") if name.strip()), "also_rate": also_rate,
        "adapter_only": adapter_only, "start": start,
        "calibrate": calibrate, "route": route, "steps": steps, "minutes": minutes, "context": context, "rows": rows,
        "accumulation": accumulation, "mixed": mixed, "rate": rate, "warm_up": warm_up, "clip": clip,
        "balance_weight": balance_weight, "z_weight": z_weight, "domain_weight": domain_weight,
        "first_weight": first_weight, "distil_weight": distil_weight, "temperature": temperature,
        "judge_every": judge_every, "patience": patience,
        "held_out_tokens": held_out_tokens, "limit": limit, "seed": seed,
        "placement": placement_of(dtype, device, device_map, offload, max_memory),
        "checkpointing": checkpointing, "online": online, "allow_pickle": allow_pickle,
        "track": tuple(dict.fromkeys(track or ())), "track_dir": track_dir,
    }  # fmt: skip
    options = TrainOptions(**chosen)
    check_device(device)
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
    elif result.training["options"]["calibrate"]:
        typer.echo(f"{result.path} has the calibrated gate")
    else:
        typer.echo(f"{result.path} has the gate of the start")

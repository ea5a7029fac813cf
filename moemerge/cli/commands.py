"""`moemerge plan`, `build`, `verify` and `schema`: parse, call one function, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moemerge.cli.app import AllowPickle, AsJson, Quiet, Verbose, app, print_briefly, print_problems
from moemerge.console import count, few, progress, size
from moemerge.errors import Problem

if TYPE_CHECKING:
    from moemerge.build.run import Build
    from moemerge.plan import Plan, Refused
    from moemerge.recipe import LoadedRecipe

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides a field of the recipe, such as `experts_per_token=1`."),
]
GateName = Annotated[str | None, typer.Option("--gate", metavar="NAME", help="Overrides `gate.init`.")]


def _load(path: Path, overrides: list[str], gate: str | None, *, quiet: bool) -> LoadedRecipe:
    from moemerge.recipe import load_recipe

    loaded = load_recipe(path, overrides, gate)
    if not quiet:
        for note in loaded.notes:
            typer.echo(f"note: {note}", err=True)
    return loaded


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006  # Typer reads the default and never changes it
    gate: GateName = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Reads the weights too: divergence of experts from base.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Checks a recipe and says what a build would cost. Reads configs and headers, no weights."""
    from moemerge.build.rehearse import rehearsed
    from moemerge.plan import Refused, make_plan, plan_json

    loaded = _load(recipe, overrides, gate, quiet=quiet or as_json)
    made = make_plan(loaded.recipe, loaded.root, configs_only=not deep)
    if not isinstance(made, Refused):
        made = rehearsed(made, loaded.root)
    divergence = None
    if deep and not isinstance(made, Refused):
        from moemerge.build.divergence import measure_divergence

        with progress(quiet=quiet) as reporter:
            divergence, found = measure_divergence(made, reporter)
        made = _with_warnings(made, found)
    if as_json:
        report = plan_json(made)
        if divergence is not None:
            report["divergence"] = divergence
        typer.echo(json.dumps(report, indent=2))
    else:
        _print_plan(made, divergence, verbose=verbose)
        typer.echo(_verdict(made))
    if isinstance(made, Refused):
        raise typer.Exit(1)


def _verdict(made: Plan | Refused) -> str:
    if made.problems:
        return f"{len(made.problems)} problem{'s' if len(made.problems) > 1 else ''}: nothing can be built"
    if any(warning.code == "no-weights" for warning in made.warnings):
        return "nothing is wrong; a build needs the weights too"
    return "ready to build"


def _with_warnings(made: Plan, found: list[Problem]) -> Plan:
    from dataclasses import replace

    return replace(made, warnings=(*made.warnings, *found))


def _print_plan(made: Plan | Refused, divergence: dict[str, float] | None, *, verbose: bool, err: bool = False) -> None:
    """Prints problems, warnings, sizes, origins and notes; with `err`, where the plan is not the result, all to stderr.

    Warnings and notes are then left to `moemerge plan`, unless `verbose`.
    """
    from moemerge.plan import Refused
    from moemerge.plan.cost import gate_computing, groups, peak_memory, runs_models
    from moemerge.plan.writing import writing
    from moemerge.recipe.layers import as_ranges

    print_problems(made.problems)
    whole = verbose or not err
    print_problems(made.warnings if whole else (), word="warning")
    if not isinstance(made, Refused):
        names = ", ".join(few([expert.name for expert in made.experts]))
        rows = [
            ("architecture", f"{made.dense.family} -> {made.host.model_type}, {made.dense.layers} layers"),
            *([("class", f"{made.host.model_type}: {made.because}")] if made.because else []),
            *([("dense layers", as_ranges(made.dense.kept))] if made.dense.kept else []),
            ("experts", f"{len(made.experts)} ({names}), {made.recipe.experts_per_token} per token"),
            ("parameters", f"{count(made.parameters.total)} total, {count(made.parameters.active)} active per token"),
            ("size", f"{size(made.bytes.total)} in {made.dtype}: {size(made.bytes.copied)} copied, "
                     f"{size(made.bytes.computed)} computed"),
            ("peak memory", f"about {size(peak_memory(made))}"),
            *([("gate", written)] if (written := writing(made)) else []),
        ]  # fmt: skip
        for label, text in rows:
            typer.echo(f"{label:<14}{text}", err=err)
        for group in groups(made):
            typer.echo(f"  {group['group']:<14}{size(group['bytes']):>9}  {'; '.join(group['from'])}", err=err)
        why = gate_computing(made).why if runs_models(made) and not err else None  # a build says it itself
        if why is not None:
            typer.echo(f"note: {why} (`gate.dtype` overrides it)")
    for name, value in (divergence or {}).items():
        typer.echo(f"  {name:<14}{value:>9.4f}  relative distance of its FFNs from the base's", err=err)
    for note in made.notes if whole else ():
        typer.echo(f"note: {note}", err=err)
    if verbose:
        for key, model in made.models.items():
            typer.echo(f"  {key:<14}{model.kind}, {len(model.tensors)} tensors, {model.location}", err=err)


@app.command()
def build(
    recipe: RecipePath,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The folder to make.")] = None,
    overrides: Overrides = [],  # noqa: B006  # Typer reads the default and never changes it
    gate: GateName = None,
    device: Annotated[str, typer.Option("--device", help="Where the gate is fitted: cpu, cuda, cuda:1, mps.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replaces a folder that moemerge made.")] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache", help="Keeps for the next build what specialists write and what transformers has read."
        ),
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Builds the MoE: plan, gate, write, verify. The output appears complete or not at all."""
    from moemerge.build.run import build_plan, output_path
    from moemerge.device import check_device
    from moemerge.plan import sound_plan

    loaded = _load(recipe, overrides, gate, quiet=quiet or as_json)
    target = output_path(loaded.recipe, loaded.root, output)
    check_device(device)
    made = sound_plan(loaded.recipe, loaded.root)
    if not quiet and not as_json:
        _print_plan(made, None, verbose=verbose, err=True)
        print_briefly(() if verbose else made.warnings, recipe)
    with progress(quiet=quiet) as reporter:
        done = build_plan(
            made, target, root=loaded.root, overwrite=overwrite, device=device, cache=cache, progress=reporter
        )
    if not quiet:
        print_problems((*done.found, *done.gate.warnings), word="warning")
    if as_json:
        typer.echo(json.dumps(_build_json(done), indent=2))
    else:
        _print_build(done)


def _build_json(done: Build) -> dict[str, Any]:
    from moemerge.plan import plan_json

    gate = done.gate
    return {
        "path": str(done.path),
        "plan": plan_json(done.plan),
        "gate": {
            "init": done.plan.recipe.gate.init,
            "ridge": gate.ridge,
            "layers": list(done.plan.dense.routed_layers),
            "separation": list(gate.separation),
            "tokens": {e.name: n for e, n in zip(done.plan.experts, gate.tokens, strict=True)},
            "confusion": gate.confusion,
            "computed": done.computed,
            "warnings": [{"code": w.code, "message": w.message, "hint": w.hint} for w in (*done.found, *gate.warnings)],
        },
        "verified": done.verification.checked,
    }


def _print_build(done: Build) -> None:
    separation = zip(done.plan.dense.routed_layers, done.gate.separation, strict=True)
    known = [(layer, value) for layer, value in separation if value is not None]
    if known:
        mean = sum(value for _, value in known) / len(known)
        typer.echo(f"gate: {mean:.1%} of held-out tokens go to their own expert, by layer:")
        for start in range(0, len(known), 10):
            typer.echo("  " + "  ".join(f"{layer:>2}: {value:.2f}" for layer, value in known[start : start + 10]))
    if done.computed is not None:
        where = done.computed.get("processor", done.computed["device"])
        number = done.computed.get("threads")
        threads = "" if number is None else f" by {number} thread{'' if number == 1 else 's'}"
        typer.echo(
            f"the gate was computed in {done.computed['dtype']}{threads} on {where}; other machines round differently"
        )
    here = Path.cwd()
    path = done.path.relative_to(here) if done.path.is_relative_to(here) and done.path != here else done.path
    typer.echo(f"built {path} ({size(done.plan.bytes.total)}, verified)")
    typer.echo(f'load it with: {done.plan.host.auto_class}.from_pretrained("{path}", dtype="auto")')
    texts = "" if done.plan.recipe.eval.domains else " --domains FILE"
    typer.echo(f"measure it with: moemerge eval {path}{texts}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that moemerge built.", show_default=False)],
    strict: Annotated[
        bool, typer.Option("--strict", help="Fails where something cannot be compared with its source.")
    ] = False,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compares a built folder with its sources and its record. Reads every byte."""
    from moemerge.verify import verification_json, verify_folder

    with progress(quiet=quiet or as_json) as reporter:
        found = verify_folder(folder, strict=strict, allow_pickle=allow_pickle, progress=reporter)
    if as_json:
        typer.echo(json.dumps(verification_json(found), indent=2))
    else:
        for note in found.notes:
            typer.echo(f"note: {note}")
        for difference in found.differences:
            typer.echo(f"{difference.where}: {difference.message}")
        checked = ", ".join(f"{value:,} {name}" for name, value in found.checked.items())
        typer.echo(f"{'verified' if found.ok else 'NOT verified'}: {checked}")
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Prints the recipe's JSON Schema, for editors."""
    from moemerge.recipe.reference import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def families(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A dense family or a host.", show_default=False)
    ] = None,
) -> None:
    """Lists which dense families become which mixtures."""
    from moemerge.families.reference import account, overview

    for line in overview() if name is None else account(name):
        typer.echo(line)

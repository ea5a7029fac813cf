"""`moemerge eval` and `moemerge trace`: parse, call one function, print."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moemerge.cli.app import AllowPickle, AsJson, Quiet, app
from moemerge.cli.placement import Device, DeviceMap, Dtype, MaxMemory, Offload, names_in, placement_of
from moemerge.console import progress
from moemerge.errors import EvalError, WriteError

if TYPE_CHECKING:
    from rich.console import Console

    from moemerge.evaluate.options import EvalOptions

FAILED = 3
"""Exit status where a `--require` does not hold."""
PAGE, FIGURES = '<meta name="generator" content="moemerge">', '"moemerge": "'
"""What the beginning of a file must hold for an old page or old figures of that name to be replaced."""

Folder = Annotated[Path, typer.Argument(metavar="OUT", help="A folder with a mixture of experts.", show_default=False)]
Experts = Annotated[
    str, typer.Option("--experts", metavar="A,B,...", help="Names the experts of a folder that moemerge did not make.")
]


@app.command("eval")
def evaluate(
    folder: Folder,
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
    from moemerge.evaluate.require import check, check_name, parse_requirement

    requirements = [parse_requirement(text) for text in require]
    for requirement in requirements:
        check_name(requirement, REPORT)
    if html is not None and output is not None and html.absolute() == output.absolute():
        raise EvalError(f"`--html` and `-o` both name `{html}`", hint="name two files")
    _check_target(html, PAGE)
    _check_target(output, FIGURES)
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
        _write(output, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if html is not None:
        from moemerge.report import html_page

        _write(html, html_page(report))
    if plots is not None:
        from moemerge.report import write_plots

        write_plots(report, plots)
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        from moemerge.report import print_report

        print_report(report, _console())
    failures = [failure for requirement in requirements if (failure := check(requirement, report)) is not None]
    for failure in failures:
        typer.secho("failed: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(failure.line, err=True)
    if failures:
        raise typer.Exit(FAILED)


def _measured(folder: Path, options: EvalOptions, *, quiet: bool) -> dict[str, Any] | None:
    """The report, in the first of the processes that `accelerate launch` may have started; None in the others."""
    from transformers.utils import logging

    from moemerge.device import check_device
    from moemerge.evaluate.processes import join_processes
    from moemerge.evaluate.run import evaluate_folder

    check_device(options.placement.device)
    logging.disable_progress_bar()
    processes = join_processes()
    with progress(quiet=quiet or not processes.first) as reporter:
        report = evaluate_folder(folder, options, reporter, processes)
    return report if processes.first else None


@app.command()
def trace(
    folder: Folder,
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
    experts: Experts = "",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    offload: Offload = None,
    max_memory: MaxMemory = "",
    as_json: AsJson = False,
) -> None:
    """Shows which expert each token of a text goes to, in each layer."""
    from transformers.utils import logging

    from moemerge.device import check_device
    from moemerge.evaluate.folder import open_moe
    from moemerge.evaluate.routers import find_routers
    from moemerge.evaluate.trace import trace_text

    words = _text(text, file)
    if explain and html is not None:
        raise EvalError("`--explain` has no page", hint="leave `--html` out, or trace the text without `--explain`")
    _check_target(html, PAGE)
    check_device(device)
    placement = placement_of(dtype, device, device_map, offload, max_memory)
    opened = open_moe(folder, names_in(experts))
    tokenizer = opened.tokenizer()
    logging.disable_progress_bar()
    model = opened.load(placement)
    routers = find_routers(model)
    if explain:
        from moemerge.evaluate.explain import explain as explain_token
        from moemerge.report.trace import print_explanation

        place = routers.layers[len(routers.layers) // 2] if layer is None else layer
        which = int(token) if re.fullmatch(r"-?[0-9]+", token) else token
        found = explain_token(model, tokenizer, routers, words, which, place, opened.experts)
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
        else:
            print_explanation(found, _console())
        return
    traced = trace_text(model, tokenizer, routers, words, opened.experts)
    if html is not None:
        from moemerge.report.trace_page import trace_page

        _write(html, trace_page(traced))
    if as_json:
        typer.echo(json.dumps(traced.to_json(), ensure_ascii=False))
    else:
        from moemerge.report.trace import print_trace

        print_trace(traced, _console(), layer)


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


def _check_target(path: Path | None, made: str) -> None:
    """Refuses a file that cannot be written, or that is not an earlier one of the same kind, before the work begins.

    Raises:
        WriteError: one of these.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise WriteError(f"`{path}` cannot be written: there is no folder `{path.parent}`")
    if path.is_dir():
        raise WriteError(f"`{path}` is a folder", hint="name a file in it")
    if path.exists():
        with path.open("rb") as file:
            if made.encode() not in file.read(2000):
                what = "page" if made == PAGE else "file of figures"
                raise WriteError(f"`{path}` exists and is no {what} of moemerge", hint="name another file")


def _write(path: Path, text: str) -> None:
    """Writes beside, then renames.

    Raises:
        WriteError: the system refuses.
    """
    beside = path.with_name(f".{path.name}.moemerge")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise WriteError(f"`{path}` cannot be written: {error.strerror or error}") from error


def _console() -> Console:
    """Results go to stdout."""
    from rich.console import Console

    return Console()

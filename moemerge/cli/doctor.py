"""`moemerge doctor`: call one function, print."""

from __future__ import annotations

import json
from typing import Any

import typer

from moemerge.cli.app import AsJson, app, print_problems
from moemerge.console import size
from moemerge.errors import Problem


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Says what this machine and installation have and lack."""
    from moemerge.doctor import diagnose

    found = diagnose()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        limit = found["memory"]["cgroup_limit"]
        rows = [
            ("moemerge", f"{found['moemerge']}, Python {found['python']}"),
            *((name, version or "missing") for name, version in found["packages"].items()),
            ("processor", f"{found['processor']}, {found['cores']} cores"),
            ("instructions", ", ".join(found["instructions"]) or "none that moemerge knows"),
            ("bf16 models", f"run in {found['bf16_models_run_in']} on this CPU"),
            *_gpus(found),
            ("memory", f"{size(found['memory']['available'])} free" + (f", limit {size(limit)}" if limit else "")),
            *((f"{name} cache", f"{size(cache['bytes'])} in {cache['folder']}"
               + (f", {size(cache['free'])} free" if cache["free"] is not None else ""))
              for name, cache in found["caches"].items()),
            ("hub", f"{'offline' if found['hub']['offline'] else 'online'}, "
                    f"token {'set' if found['hub']['token'] else 'not set'}"),
            *((f"extra {extra}", f"missing {', '.join(names)}: `pip install 'moemerge[{extra}]'`")
              for extra, names in found["missing_extras"].items()),
        ]  # fmt: skip
        width = max(len(name) for name, _ in rows) + 2
        for name, text in rows:
            typer.echo(f"{name.ljust(width)}{text}")
        print_problems(Problem(**problem) for problem in found["problems"])
    if found["problems"]:
        raise typer.Exit(1)


def _gpus(found: dict[str, Any]) -> list[tuple[str, str]]:
    """A row for each GPU, and one where torch cannot use what is there."""
    if found["gpus"] == []:
        return [("GPU", f"none that torch {found['packages']['torch']} can use")]
    return [
        (
            gpu["device"],
            gpu["name"]
            + (f", {size(gpu['memory'])}" if gpu["memory"] else "")
            + ("" if gpu["bfloat16"] else ", without bf16 of its own"),
        )
        for gpu in found["gpus"] or []
    ]

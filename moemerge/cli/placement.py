"""What every verb that runs a mixture is told: the folder, its experts, how and where it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moemerge.errors import EvalError

if TYPE_CHECKING:
    from moemerge.mixture.folder import Placement

MoeFolder = Annotated[
    Path, typer.Argument(metavar="OUT", help="A folder with a mixture of experts.", show_default=False)
]
Experts = Annotated[
    str, typer.Option("--experts", metavar="A,B,...", help="Names the experts of a folder that moemerge did not make.")
]
Device = Annotated[str, typer.Option("--device", help="Where the models run: cpu, cuda, cuda:1, mps.")]
DeviceMap = Annotated[
    str | None, typer.Option("--device-map", metavar="MAP", help="Spreads the mixture, such as `auto`.")
]
Offload = Annotated[
    Path | None, typer.Option("--offload", metavar="FOLDER", help="With --device-map: holds what fits nowhere else.")
]
MaxMemory = Annotated[
    str, typer.Option("--max-memory", metavar="cpu=8GB,0=20GB", help="With --device-map: what each device may hold.")
]
Dtype = Annotated[
    str,
    typer.Option("--dtype", metavar="DTYPE", help="auto (what this machine is fast in), float32, bfloat16 or float16."),
]


def placement_of(dtype: str, device: str, device_map: str | None, offload: Path | None, max_memory: str) -> Placement:
    """The options as one.

    Raises:
        EvalError: one of them makes no sense, or none without another.
    """
    from moemerge.mixture.folder import Placement

    known = ("auto", "float32", "bfloat16", "float16")
    if dtype not in known:
        raise EvalError(f"`--dtype {dtype}` is not known", hint=f"one of {', '.join(f'`{name}`' for name in known)}")
    for option, given in (("--offload", offload), ("--max-memory", max_memory)):
        if given and device_map is None:
            raise EvalError(f"`{option}` needs `--device-map`", hint="add `--device-map auto`")
    limits: dict[int | str, str] = {}
    for part in names_in(max_memory):
        where, equals, size = part.partition("=")
        if not equals or not re.fullmatch(r"[0-9]+(\.[0-9]+)? ?[KMG]i?B", size):
            raise EvalError(f"`--max-memory {part}` is not DEVICE=SIZE", hint="as in `--max-memory cpu=8GB,0=20GB`")
        limits[int(where) if where.isdigit() else where] = size
    return Placement(dtype, device, device_map, offload, limits or None)


def names_in(listed: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(name.strip() for name in listed.split(",") if name.strip())

"""Where a model runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moemerge.errors import EvalError
from moemerge.options import RUNS, option, parts


def _limits(texts: Iterable[str]) -> Mapping[int | str, str] | None:
    """What `--max-memory` says, by device."""
    limits: dict[int | str, str] = {}
    for part in parts(texts):
        where, equals, size = part.partition("=")
        if not equals or not re.fullmatch(r"[0-9]+(\.[0-9]+)? ?[KMG]i?B", size):
            raise EvalError(f"`--max-memory {part}` is not DEVICE=SIZE", hint="as in `--max-memory cpu=8GB,0=20GB`")
        limits[int(where) if where.isdigit() else where] = size
    return limits or None


@dataclass(frozen=True)
class Placement:
    """Where a model runs, and in which dtype: torch's name of it, or `auto` (see `MoeFolder.settled`).

    Raises:
        EvalError: an option that has no meaning without a device map is given without one.
    """

    dtype: str = option(
        "auto", RUNS, "auto (what this machine is fast in), float32, bfloat16; float16 too, but not in training.",
        metavar="DTYPE", choices=("auto", "float32", "bfloat16", "float16"),
    )  # fmt: skip
    device: str = option("cpu", RUNS, "Where the models run: cpu, cuda, cuda:1, mps.")
    device_map: str | None = option(None, RUNS, "Spreads the mixture, such as `auto`.", metavar="MAP")
    offload: Path | None = option(None, RUNS, "With --device-map: holds what fits nowhere else.", metavar="FOLDER")
    max_memory: Mapping[int | str, str] | None = option(
        None, RUNS, "With --device-map: what each device may hold.", metavar="cpu=8GB,0=20GB", read=_limits
    )

    def __post_init__(self) -> None:
        for flag, given in (("--offload", self.offload), ("--max-memory", self.max_memory)):
            if given and self.device_map is None:
                raise EvalError(f"`{flag}` needs `--device-map`", hint="add `--device-map auto`")

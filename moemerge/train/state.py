"""The state of an interrupted training: one file beside the output, replaced as a whole, removed at the end.

It is a safetensors file whose metadata hold the rest as JSON, so tensors and counters cannot be of different steps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moemerge.errors import TrainError

FORMAT = 1
DELETED: Mapping[str, Any] = {"calibrate": False, "distil_weight": 0.0, "temperature": 2.0}
"""Options that were deleted, with their defaults: a state from before that has these differs in nothing."""
_KEY = "moemerge-training"


@dataclass(frozen=True)
class State:
    """Everything to go on from.

    Attributes:
        tensors: by name.
        values: plain data.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


_SUFFIX = ".training.safetensors"


def state_path(output: Path) -> Path:
    """The file of an output's training."""
    return output.with_name(output.name + _SUFFIX)


def check_state(path: Path, *, resume: bool) -> None:
    """Whether there is a state exactly where one is wanted, said before any work.

    Raises:
        TrainError: there is one and `resume` is not asked for, or the other way round.
    """
    if resume and not path.is_file():
        output = path.with_name(path.name.removesuffix(_SUFFIX))
        if output.exists():
            raise TrainError(
                f"nothing to resume: `{output}` is there, so its training has ended",
                hint="leave `--resume` out, and pass `--overwrite`, to train it again",
            )
        raise TrainError(f"nothing to resume: there is no `{path}`", hint="leave `--resume` out to start again")
    if not resume and os.path.lexists(path):
        raise TrainError(
            f"a training was interrupted: `{path}` is there",
            hint="pass `--resume` to go on with it, or remove the file to start again",
        )


def save_state(path: Path, state: State) -> None:
    """Writes beside, forces to the disk, renames; a kill at any moment leaves the old state or the new one. Missing
    folders above it are made.

    Raises:
        TrainError: the system refuses.
    """
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT, **state.values})
    data = save(
        {name: value.cpu().contiguous().clone() for name, value in state.tensors.items()}, metadata={_KEY: text}
    )
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise TrainError(
            f"the checkpoint `{path}` cannot be written: {error.strerror or error}",
            hint=(
                "the one before it is kept: free some space, then go on with `--resume`"
                if path.exists()
                else "free some space, or choose another output with `-o`"
            ),
        ) from error


def load_state(path: Path, wanted: Mapping[str, Any]) -> State:
    """Reads a state.

    Args:
        path: the file.
        wanted: what the interrupted training must have been asked for: options, and what its inputs were.

    Raises:
        TrainError: it is no such file, or of a training of something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a mapping
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise TrainError(f"`{path}` is not a state of a training: {error}", hint="remove it to start again") from error
    if values.pop("format", None) != FORMAT:
        raise TrainError(f"`{path}` was written by another version of moemerge", hint="remove it to start again")
    asked = values["asked"]
    for name, default in DELETED.items():
        if asked.get(name) == default:
            del asked[name]
    differing = [
        f"\n  {name}: {asked.get(name)!r} then, {wanted.get(name)!r} now"
        for name in dict.fromkeys([*asked, *wanted])
        if asked.get(name) != wanted.get(name)
    ]
    if differing:
        raise TrainError(
            f"`{path}` is of a training that was asked for something else:{''.join(differing)}",
            hint="give the same folder, texts and options, or remove the file to start again",
        )
    return State(tensors, values)


def remove_state(path: Path) -> None:
    """Removes the file, if it is there."""
    path.unlink(missing_ok=True)
    path.with_name(f".{path.name}.new").unlink(missing_ok=True)

"""Experiment trackers, through accelerate's: what each step and each look gave, for TensorBoard or Weights & Biases."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moemerge.console import Progress
from moemerge.errors import TrainError

TRACKERS: Mapping[str, tuple[str, ...]] = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Each tracker's packages, of which it needs one."""
PROJECT = "moemerge"
"""What wandb files the runs under."""


def check_trackers(names: Sequence[str]) -> None:
    """Whether the packages are installed; none is imported.

    Raises:
        TrainError: one is missing.
    """
    for name in names:
        if not any(importlib.util.find_spec(package) for package in TRACKERS[name]):
            package = TRACKERS[name][0]
            raise TrainError(
                f"`--track {name}` needs the package `{package}`, which is not installed",
                hint=f"`pip install {package}`",
            )


def track_dir(output: Path, given: Path | None) -> Path:
    """Where the trackers write: what was given, or a folder beside the output."""
    return given.absolute() if given is not None else output.with_name(f"{output.name}.tracking")


def check_track_dir(folder: Path, source: Path, output: Path) -> None:
    """Neither the source nor the output, which must be what was built and what was trained.

    Raises:
        TrainError: the folder lies in one of them, or is a file.
    """
    for place in (source, output):
        if place.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise TrainError(f"`--track-dir {folder}` lies in `{place}`", hint="name a folder outside of it")
    if folder.exists() and not folder.is_dir():
        raise TrainError(f"`--track-dir {folder}` is not a folder", hint="name another")


class Trackers:
    """Those of one run; none of them can end a training.

    Args:
        names: of the trackers.
        folder: where they write.
        run: the run's name.
        options: what the training was asked for.
        progress: is told of a tracker that fails; it gets nothing more.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, run: str, options: Mapping[str, Any], progress: Progress
    ) -> None:
        self._progress = progress
        self._trackers: list[Any] = []
        for name in names:
            self._trackers.append(_started(name, folder, run))
        self._tell("store_init_configuration", {name: _simple(value) for name, value in options.items()})

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step."""
        self._tell("log", dict(values), step=step)

    def finish(self) -> None:
        """Writes what is left."""
        self._tell("finish")

    def _tell(self, method: str, *arguments: Any, **named: Any) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*arguments, **named)
            except Exception as error:  # whatever a tracker raises, the training goes on
                self._trackers.remove(tracker)
                self._progress.note(f"warning: {tracker.name} is not told any more: {error or type(error).__name__}")


def _started(name: str, folder: Path, run: str) -> Any:
    from accelerate import PartialState, tracking

    PartialState()  # without which the trackers' own logging fails; it is made once
    tracker: Any
    try:
        if name == "tensorboard":
            tracker = tracking.TensorBoardTracker(run, str(folder))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            tracker = tracking.WandBTracker(PROJECT, name=run, dir=str(folder))
        getattr(tracker, "start", lambda: None)()  # older releases of accelerate start when they are made
    except Exception as error:  # a login that is missing, a folder that cannot be written
        raise TrainError(
            f"`--track {name}` cannot begin: {error or type(error).__name__}",
            hint="mend that, or leave it out" + ("; `WANDB_MODE=offline` needs no login" if name == "wandb" else ""),
        ) from error
    return tracker


def _simple(value: Any) -> Any:
    """What all trackers take."""
    return value if isinstance(value, bool | int | float | str) else str(value)

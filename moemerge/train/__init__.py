"""Trains the router of a built mixture: the gates alone, into a new folder, kept only where they are better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moemerge.console import Progress
    from moemerge.mixture.processes import Processes
    from moemerge.train.options import TrainOptions
    from moemerge.train.run import TrainResult


def train_router(
    folder: Path | str,
    output: Path | str,
    options: TrainOptions | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> TrainResult:
    """Trains the router of a folder, as `moemerge train-router` does.

    Args:
        folder: a folder that `moemerge build` made; it is never touched.
        output: the folder that appears.
        options: what is wanted (`moemerge.train.options`); the defaults when None.
        progress: how to report.
        processes: those that share the work; those of `accelerate launch` when None.
        overwrite: replaces `output` where moemerge made it.
        resume: goes on with an interrupted training of `output`.

    Returns:
        What came of it.

    Raises:
        MoemergeError: anything that the user can mend; `output` is then untouched.
    """
    from moemerge.console import Silent
    from moemerge.mixture.processes import join_processes
    from moemerge.train.options import TrainOptions
    from moemerge.train.run import train_folder

    return train_folder(
        Path(folder), Path(output), options or TrainOptions(), progress or Silent(), processes or join_processes(),
        overwrite=overwrite, resume=resume,
    )  # fmt: skip

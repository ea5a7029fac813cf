"""Measures a built mixture: losses by domain against what matters, and its routing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moemerge.console import Progress
    from moemerge.evaluate.options import EvalOptions


def evaluate(
    folder: Path | str, options: EvalOptions | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measures a mixture, as `moemerge eval` does.

    Args:
        folder: a folder that `moemerge build` made, or another mixture that transformers loads.
        options: what is measured and how (`moemerge.evaluate.options`); the folder's own recipe says it when None.
        progress: how to report.

    Returns:
        The report; docs/evaluation.md has its names.

    Raises:
        MoemergeError: anything that the user can mend.
    """
    from moemerge.console import Silent
    from moemerge.evaluate.options import EvalOptions
    from moemerge.mixture.processes import join_processes
    from moemerge.evaluate.run import evaluate_folder

    return evaluate_folder(Path(folder), options or EvalOptions(), progress or Silent(), join_processes())

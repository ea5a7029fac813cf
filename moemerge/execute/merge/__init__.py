"""Merging of the tensors that are not experts."""

from moemerge.execute.merge.methods import (
    along_arc,
    angle_between,
    dare_ties,
    drop,
    elect,
    mean,
    slerp,
    task_arithmetic,
    ties,
    trim,
    trim_threshold,
)

__all__ = [
    "along_arc",
    "angle_between",
    "dare_ties",
    "drop",
    "elect",
    "mean",
    "slerp",
    "task_arithmetic",
    "ties",
    "trim",
    "trim_threshold",
]

"""Merging of the tensors that are not experts."""

from moemerge.merge.methods import dare_ties, mean, slerp, task_arithmetic, ties

__all__ = ["dare_ties", "mean", "slerp", "task_arithmetic", "ties"]

"""How far the specialists have moved from the base: `plan --deep`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moemerge.build.idle import adds_nothing
from moemerge.console import Progress
from moemerge.errors import Problem
from moemerge.execute.stream import row_blocks
from moemerge.plan import Plan
from moemerge.sources import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_SAME = 1e-6
_FAR = 0.5


def measure_divergence(plan: Plan, progress: Progress) -> tuple[dict[str, float], list[Problem]]:
    """‖expert − base‖ / ‖base‖ over all FFN matrices, in fp64, streamed in row blocks.

    FFNs of another width are compared as a build makes them alike: the narrower one padded with zeros.

    Args:
        plan: a plan without problems whose weights are at hand.
        progress: is told layers.

    Returns:
        The distance by expert name, and warnings about experts that are the base or far from it.
    """
    progress.stage("divergence", len(plan.dense.routed_layers), "layers")
    base = plan.models["base"]
    changed = {e.model: 0.0 for e in plan.experts}
    total = 0.0
    for layer in plan.dense.routed_layers:
        for projection in plan.dense.projections:
            name = plan.dense.ffn(layer, projection)
            shapes = [plan.models[key].tensors[name].shape for key in ("base", *changed)]
            widest = tuple(map(max, *shapes)) if len(shapes) > 1 else shapes[0]
            for rows in row_blocks(widest):
                ours = _padded(base, name, rows, widest[1])
                total += float((ours * ours).sum())
                for key in changed:
                    changed[key] += float(((_padded(plan.models[key], name, rows, widest[1]) - ours) ** 2).sum())
        progress.advance()
    distance = {e.name: (changed[e.model] / total) ** 0.5 for e in plan.experts}
    return distance, [problem for e in plan.experts if (problem := _judge(e.name, e.model, distance[e.name]))]


def _padded(checkpoint: Checkpoint, name: str, rows: slice, columns: int) -> Tensor:
    """Rows of a matrix in fp64, with zeros where it is narrower or ends before them."""
    import torch

    height, width = checkpoint.tensors[name].shape
    value = torch.zeros(rows.stop - rows.start, columns, dtype=torch.float64)
    if rows.start < height:
        held = checkpoint.read(name, slice(rows.start, min(rows.stop, height)))
        value[: held.shape[0], :width] = held
    return value


def _judge(name: str, model: str, distance: float) -> Problem | None:
    if model != "base" and distance < _SAME:
        return adds_nothing(name)
    if distance > _FAR:
        message = f"expert `{name}` is far from the base (relative distance {distance:.2f})"
        return Problem("expert-far", message, "is it a fine-tune of this very base? Merging its attention may not work")
    return None

"""How far the specialists have moved from the base: `plan --deep`."""

from __future__ import annotations

from moemerge.console import Progress
from moemerge.errors import Problem
from moemerge.families import PROJECTIONS
from moemerge.plan import Plan
from moemerge.stream import row_blocks

_SAME = 1e-6
_FAR = 0.5


def measure_divergence(plan: Plan, progress: Progress) -> tuple[dict[str, float], list[Problem]]:
    """‖expert − base‖ / ‖base‖ over all FFN matrices, in fp64, streamed in row blocks.

    Args:
        plan: a plan without problems whose weights are at hand.
        progress: is told layers.

    Returns:
        The distance by expert name, and warnings about experts that are the base or far from it.
    """
    assert plan.dense is not None
    progress.stage("divergence", plan.dense.layers, "layers")
    base = plan.models["base"]
    changed = {e.model: 0.0 for e in plan.experts}
    total = 0.0
    for layer in range(plan.dense.layers):
        for projection in PROJECTIONS:
            name = plan.dense.ffn(layer, projection)
            for rows in row_blocks(base.tensors[name].shape):
                ours = base.read(name, rows).double()
                total += float((ours * ours).sum())
                for key in changed:
                    theirs = plan.models[key].read(name, rows).double()
                    if theirs.shape == ours.shape:
                        changed[key] += float(((theirs - ours) ** 2).sum())
        progress.advance()
    distance = {e.name: (changed[e.model] / total) ** 0.5 for e in plan.experts}
    return distance, [problem for e in plan.experts if (problem := _judge(e.name, e.model, distance[e.name]))]


def _judge(name: str, model: str, distance: float) -> Problem | None:
    if model != "base" and distance < _SAME:
        return Problem("expert-is-base", f"expert `{name}` has the base's FFNs: it adds nothing")
    if distance > _FAR:
        message = f"expert `{name}` is far from the base (relative distance {distance:.2f})"
        return Problem("expert-far", message, "is it a fine-tune of this very base? Merging its attention may not work")
    return None

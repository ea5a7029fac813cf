"""Experts that add nothing, told by their bytes before a build: FFNs that are the base's own, or zero throughout.

A fine-tune differs in its first block, so looking costs a read of 64 KiB. `plan --deep` measures what is not stored as
it is (folded, dequantised, of another dtype or width), which is passed over here.
"""

from __future__ import annotations

from moemerge.errors import Problem
from moemerge.families import PROJECTIONS
from moemerge.plan import Plan
from moemerge.sources import Checkpoint
from moemerge.sources.checkpoint import ITEM_SIZE
from moemerge.sources.zero import blocks, is_zero


def idle_experts(plan: Plan) -> list[Problem]:
    """A warning for each expert that is not `base` and has its FFNs, or none.

    Args:
        plan: a plan whose weights are at hand.

    Raises:
        SourceError: a file is shorter than its header says.
    """
    names = [plan.dense.ffn(layer, matrix) for layer in range(plan.dense.layers) for matrix in PROJECTIONS]
    base = plan.models["base"]
    same = {key: _same(model, base, names) for key, model in plan.models.items() if key != "base"}
    zero = {key: _zero(model, names) for key, model in plan.models.items()}
    problems = []
    for expert in plan.experts:
        if zero[expert.model]:
            hint = "it was saved before its weights were there, or is damaged: save or download it again"
            problems.append(Problem("expert-is-zero", f"expert `{expert.name}` has FFNs that are all zero", hint))
        elif same.get(expert.model, False):
            problems.append(adds_nothing(expert.name))
    return problems


def adds_nothing(name: str) -> Problem:
    """The warning for an expert whose FFNs are the base's."""
    hint = "is it the right folder, and did its training reach the FFNs? If the base is meant, write `model: base`"
    return Problem("expert-is-base", f"expert `{name}` has the base's FFNs: it adds nothing", hint)


def _same(model: Checkpoint, base: Checkpoint, names: list[str]) -> bool:
    for name in names:
        ours, theirs = model.bytes_of(name), base.bytes_of(name)
        alike = (model.tensors[name].dtype, model.tensors[name].shape) == (
            base.tensors[name].dtype, base.tensors[name].shape,
        )  # fmt: skip
        if ours is None or theirs is None or not alike:
            return False
        if ours != theirs and any(a != b for a, b in zip(blocks(ours), blocks(theirs), strict=True)):
            return False
    return True


def _zero(model: Checkpoint, names: list[str]) -> bool:
    for name in names:
        place, size = model.bytes_of(name), ITEM_SIZE[model.tensors[name].dtype]
        if place is None or not is_zero(place, size):
            return False
    return True

"""Experts that add nothing, told by their bytes before a build: FFNs that are the base's own, or zero throughout.

A fine-tune differs in its first block, so looking costs a read of 64 KiB. `plan --deep` measures what is not stored as
it is (folded, dequantised, of another dtype or width), which is passed over here.
"""

from __future__ import annotations

from moemerge.errors import Problem
from moemerge.plan import Plan
from moemerge.sources import Checkpoint
from moemerge.sources.checkpoint import ITEM_SIZE
from moemerge.sources.same import same_bytes
from moemerge.sources.zero import is_zero


def idle_experts(plan: Plan) -> list[Problem]:
    """A warning for each expert that is not `base` and has its FFNs, or none.

    Args:
        plan: a plan whose weights are at hand.

    Raises:
        SourceError: a file is shorter than its header says.
    """
    names = [plan.dense.ffn(layer, matrix) for layer in plan.dense.routed_layers for matrix in plan.dense.projections]
    base = plan.models["base"]
    others = {key: model for key, model in plan.models.items() if key != "base"}
    same = {key: all(same_bytes(model, base, name) for name in names) for key, model in others.items()}
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
    hint = "is it the right folder, and did its training reach the FFNs? If you mean the base, write `model: base`"
    return Problem("expert-is-base", f"expert `{name}` has the base's FFNs: it adds nothing", hint)


def _zero(model: Checkpoint, names: list[str]) -> bool:
    for name in names:
        place, size = model.bytes_of(name), ITEM_SIZE[model.tensors[name].dtype]
        if place is None or not is_zero(place, size):
            return False
    return True

"""What a plan will cost: peak memory, and the plan as JSON."""

from __future__ import annotations

import math
from typing import Any

from moemerge.plan.model import Compute, Copy, Fill, Merged, Part, Plan, Router
from moemerge.recipe.schema import MergeMethod
from moemerge.sources.checkpoint import ITEM_SIZE

IMPORTS = 260 << 20
"""Resident memory of Python with torch imported, in bytes (measured: 224 MB on x86-64 Linux)."""
GATE_IMPORTS = 450 << 20
"""The same with transformers' model classes, which fitting a gate on activations needs (measured: 341 MB)."""
BLOCKS = 64 << 20
"""The row blocks that are in flight while tensors stream, in bytes."""
WHOLE: frozenset[MergeMethod] = frozenset({"ties", "dare_ties"})
"""Methods that hold a whole tensor of every source at once, in fp64."""
WITHOUT_ACTIVATIONS = frozenset({"random", "uniform"})
"""Gate inits that run no model."""


def peak_memory(plan: Plan) -> int:
    """Estimated peak of the build's resident memory, in bytes.

    Streaming holds a few row blocks. Fitting a gate on activations holds one dense model at a time beside fp64
    statistics of `hidden² · 8` bytes a layer and fold.
    """
    whole = 0
    for tensor in plan.tensors:
        for part in tensor.parts:
            if isinstance(part, Merged) and part.method in WHOLE:
                whole = max(whole, tensor.size * 8 * (len(part.sources) + 2))
    streaming = IMPORTS + BLOCKS + whole
    if plan.dense is None or plan.recipe.gate.init in WITHOUT_ACTIVATIONS:
        return streaming
    dense = plan.dense
    parameters = sum(math.prod(shape) for _, shape in dense.tensors())
    statistics = 8 * dense.hidden_size**2 * dense.layers * 6
    return GATE_IMPORTS + parameters * ITEM_SIZE[plan.dtype] + statistics + whole


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs; the names are promises (see docs/cli.md)."""

    def listed(problems: Any) -> list[dict[str, Any]]:
        return [{"code": p.code, "message": p.message, "hint": p.hint} for p in problems]

    return {
        "architecture": plan.host.model_type if plan.host else None,
        "experts": [expert.name for expert in plan.experts],
        "experts_per_token": plan.recipe.experts_per_token,
        "dtype": plan.dtype,
        "parameters": {"total": plan.parameters.total, "active": plan.parameters.active},
        "bytes": {"total": plan.bytes.total, "copied": plan.bytes.copied, "computed": plan.bytes.computed},
        "memory": {"peak": peak_memory(plan)},
        "groups": groups(plan),
        "problems": listed(plan.problems),
        "warnings": listed(plan.warnings),
        "notes": list(plan.notes),
    }


def groups(plan: Plan) -> list[dict[str, Any]]:
    """Where each group of tensors comes from: name, tensors, bytes and a sentence on their making."""
    rows = []
    for group in ("embeddings", "attention", "norms", "router", "shared_expert", "expert", "lm_head"):
        tensors = [tensor for tensor in plan.tensors if tensor.group == group]
        if tensors:
            ways = sorted({_way(plan, part) for tensor in tensors for part in tensor.parts})
            size = sum(tensor.nbytes for tensor in tensors)
            rows.append({"group": group, "tensors": len(tensors), "bytes": size, "from": ways})
    return rows


def _way(plan: Plan, part: Part) -> str:
    match part:
        case Copy(source):
            return f"copied from {source.model}"
        case Compute(source):
            info = plan.models[source.model].tensors.get(source.name)
            origin = info.origin if info is not None and info.origin != "stored" else "converted"
            return f"{origin} from {source.model}"
        case Merged(method, sources=sources):
            return f"{method} of {', '.join(source.model for source in sources)}"
        case Router():
            return f"gate: {plan.recipe.gate.init}"
        case Fill(value=value):
            return f"filled with {value:g}"

"""What a plan will cost: peak memory, and the plan as JSON."""

from __future__ import annotations

import math
from typing import Any

from moemerge.plan.model import Compute, Copy, Fill, Merged, OutputTensor, Part, Plan, Router
from moemerge.recipe.schema import MergeMethod
from moemerge.sources.checkpoint import ITEM_SIZE

IMPORTS = 260 << 20
"""Resident memory of Python with torch imported, in bytes (measured: 224 MB on x86-64 Linux)."""
GATE_IMPORTS = 450 << 20
"""The same with transformers' model classes, which fitting a gate on activations needs (measured: 341 MB)."""
BLOCKS = 64 << 20
"""The row blocks that are in flight while tensors stream, in bytes."""
PASSES = 96 << 20
"""What a method takes on top that passes over a tensor several times (measured: 40 to 90 MB)."""
SEVERAL_PASSES: frozenset[MergeMethod] = frozenset({"slerp", "ties", "dare_ties"})
"""Methods that do so; an adapter's folded tensors are then held whole, those of one merged tensor at a time."""
STATISTICS = 4 << 30
"""The most that the second moments of a gate take at once: `gate.capture.STATISTICS_BYTES`."""
SAMPLE = 512 << 20
"""The most that the tokens take which a gate is judged on: `gate.capture.SAMPLE_BYTES`."""
FOLDS = 5
"""Folds of the second moments, beside one for negative prompts."""
WITHOUT_ACTIVATIONS = frozenset({"random", "uniform"})
"""Gate inits that run no model."""
MERGEKIT = frozenset({"mergekit_hidden", "hidden_avg", "cheap_embed"})
"""Gate inits that run the base and gather no statistics."""


def peak_memory(plan: Plan) -> int:
    """Estimated peak of the build's resident memory, in bytes: of streaming, or of fitting a gate if that is more.

    Fitting a gate on activations holds one dense model at a time beside fp64 statistics of `8 · hidden²` bytes a
    layer and fold, in as many passes over the layers as `STATISTICS` asks for.
    """
    streaming = IMPORTS + BLOCKS + max((_merging(plan, tensor) for tensor in plan.tensors), default=0)
    init = plan.recipe.gate.init
    if plan.dense is None or init in WITHOUT_ACTIVATIONS:
        return streaming
    dense = plan.dense
    parameters = sum(math.prod(shape) for _, shape in dense.tensors())
    fitting = parameters * ITEM_SIZE[plan.dtype] + max((tensor.nbytes for tensor in plan.tensors), default=0)
    if init not in MERGEKIT:
        tokens = plan.recipe.gate.max_tokens * len(plan.experts)
        fitting += _statistics(dense.hidden_size, dense.layers)
        fitting += min(SAMPLE, tokens * dense.layers * dense.hidden_size * 4)
        fitting += 3 * statistics_bytes(plan)  # as gathered, as one tensor, and as a file's bytes
    return max(streaming, GATE_IMPORTS + streaming - IMPORTS + fitting)


def _merging(plan: Plan, tensor: OutputTensor) -> int:
    """What merging one tensor takes beside row blocks: folding needs a whole product in fp32 beside its result."""
    most = 0
    for part in tensor.parts:
        if isinstance(part, Merged) and part.method in SEVERAL_PASSES:
            infos = [plan.models[s.model].tensors.get(s.name) for s in (part.base, *part.sources)]
            folded = sum(info.nbytes for info in infos if info is not None and info.origin == "folded")
            most = max(most, PASSES + (folded + 8 * tensor.size if folded else 0))
    return most


def _statistics(hidden_size: int, layers: int) -> int:
    """Second moments of one pass over the layers, and what the closed forms of one layer take beside them."""
    square = 8 * hidden_size**2
    each = (FOLDS + 1) * square
    passes = -(-layers // max(STATISTICS // each, 1))
    return each * -(-layers // passes) + 6 * square


def statistics_bytes(plan: Plan) -> int:
    """Bytes of `gate_statistics.safetensors`, `8 · L · (d² + 2 E d)`; zero where the recipe does not keep it."""
    gate = plan.recipe.gate
    if plan.dense is None or not gate.keep_statistics or gate.init in WITHOUT_ACTIVATIONS | MERGEKIT:
        return 0
    width, layers = plan.dense.hidden_size, plan.dense.layers
    return 8 * layers * (width**2 + 2 * len(plan.experts) * width)


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

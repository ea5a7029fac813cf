"""What a plan will cost: peak memory, and the plan as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from moemerge.device import BYTES, Computing, computing
from moemerge.families import DenseConfig
from moemerge.plan.model import (
    Adjusted,
    Compute,
    Copy,
    Fill,
    Merged,
    OutputTensor,
    Part,
    Plan,
    Redraw,
    Refused,
    Router,
    Transposed,
)
from moemerge.plan.plain import needs_torch
from moemerge.plan.writing import WRITTEN, writes
from moemerge.recipe.schema import MergeMethod
from moemerge.sources.store import TORCH_NAMES

BARE = 58 << 20
"""Resident memory of a build that loads no torch, of tiny models, in bytes (measured: 59 to 61 MB)."""
ELEMENTS = 1 << 20
"""Numbers computed, and 32-bit words copied, at a time: `blocks.ELEMENTS`."""
COMPUTED = 8
"""Bytes that a number takes while it is computed, beside what is read."""
WRITERS = 2
"""Threads that write; where they wait for a disk there are four."""
IMPORTS = 260 << 20
"""Resident memory of Python with torch imported, in bytes (measured: 224 MB on x86-64 Linux)."""
GATE_IMPORTS = 450 << 20
"""The same with transformers' model classes, which fitting a gate on activations needs (measured: 341 MB)."""
BLOCKS = 64 << 20
"""The row blocks that are in flight while tensors stream, in bytes."""
UNPACKING = 300 << 20
"""What reading a GGUF file takes on top: its rows in fp32, those that are remembered, and what `gguf` needs meanwhile
(measured with the demo, of 135 M parameters: 300 MB)."""
PASSES = 96 << 20
"""What a method takes on top that passes over a tensor several times (measured: 40 to 90 MB)."""
SEVERAL_PASSES: frozenset[MergeMethod] = frozenset({"slerp", "ties", "dare_ties"})
"""Methods that do so; an adapter's folded tensors are then held whole, those of one merged tensor at a time."""
KEPT = 512 << 20
"""The most that the tokens of layers take which wait for λ: `gate.fit.KEPT_BYTES`."""
FOLDS = 5
"""Folds of the second moments, beside one for negative prompts."""
SQUARES = FOLDS + 7
"""Matrices `[d, d]` in fp64 that fitting one layer holds: its folds' moments, all of them together, those without a
fold, and what a closed form makes of them."""
SIDE_BY_SIDE = 4
"""Layers that are fitted at once, where their matrices take no more than `KEPT`: `gate.fit.SIDE_BY_SIDE`."""
READERS = 2
"""Tensors that are read at once: `layerwise.READERS`."""
BATCH = 4096
"""Positions of a batch: `gate.capture.BATCH_TOKENS`."""
WITHOUT_ACTIVATIONS = frozenset({"random", "uniform"})
"""Gate inits that run no model."""
MERGEKIT = frozenset({"mergekit_hidden", "hidden_avg", "cheap_embed"})
"""Gate inits that run the base and gather no statistics."""


def runs_models(plan: Plan) -> bool:
    """Whether a build runs models: to fit the gate on what enters it, or to choose how the shared weights merge."""
    return plan.recipe.gate.init not in WITHOUT_ACTIVATIONS or plan.recipe.merge.shared == "auto"


def gate_computing(plan: Plan, device: str = "cpu") -> Computing:
    """The dtype that the models run in while the gate of a plan without problems is fitted.

    Args:
        plan: what is built.
        device: where they run.
    """
    return computing(
        TORCH_NAMES[plan.dtype], plan.recipe.gate.dtype, device, lambda dtype: _peak_memory(plan, BYTES[dtype])
    )


def peak_memory(plan: Plan) -> int:
    """Estimated peak of the build's resident memory, in bytes: of streaming, or of fitting a gate if that is more.

    Fitting a gate on activations runs the merged models layer by layer; a specialist that writes is held whole. They
    run in the dtype that suits this machine's CPU.
    """
    return _peak_memory(plan, BYTES[gate_computing(plan).dtype] if runs_models(plan) else 0)


def _peak_memory(plan: Plan, item: int) -> int:
    """The same where models run in a dtype of `item` bytes."""
    streaming = IMPORTS + BLOCKS + max((_merging(plan, tensor) for tensor in plan.tensors), default=0)
    models = plan.models.values()
    if any(info.origin == "dequantised" for model in models for info in model.tensors.values()):
        streaming += UNPACKING
    init = plan.recipe.gate.init
    if init in WITHOUT_ACTIVATIONS:
        return streaming if needs_torch(plan) else _bare(plan)
    fitting = _layerwise(plan, plan.dense, item)
    if init not in MERGEKIT:
        squares = SQUARES * 8 * plan.dense.hidden_size**2
        fitting += min(SIDE_BY_SIDE * squares, max(squares, KEPT))
        fitting += min(KEPT, 4 * _tokens(plan) * len(plan.dense.routed_layers) * plan.dense.hidden_size)
        fitting += 3 * statistics_bytes(plan)  # as gathered, as one tensor, and as a file's bytes
        written = plan.recipe.gate.expand != "off" and any(map(writes, plan.recipe.experts))
        if written or init == "advantage":
            fitting = max(fitting, _whole(plan, plan.dense, item))
    return max(streaming, GATE_IMPORTS + streaming - IMPORTS + fitting)


def _bare(plan: Plan) -> int:
    """Each thread reads into one block and computes in another, no larger than the tensors are."""
    read = max((tensor.nbytes for tensor in plan.tensors), default=0)
    computed = (tensor.size for tensor in plan.tensors if not all(isinstance(part, Copy) for part in tensor.parts))
    return BARE + WRITERS * (min(read, 4 * ELEMENTS) + COMPUTED * min(max(computed, default=0), ELEMENTS))


def _tokens(plan: Plan) -> int:
    """At most about so many tokens are read: a prompt has no more of them than bytes."""
    gate = plan.recipe.gate
    written = gate.expand if isinstance(gate.expand, int) else WRITTEN if gate.expand == "auto" else 0
    total = 0
    for expert in plan.recipe.experts:
        total += gate.max_tokens if expert.data or gate.data else 0
        total += written if writes(expert) and not gate.data else 0
        total += BATCH if expert.prompts_file else sum(len(prompt.encode()) for prompt in expert.prompts)
        total += sum(len(prompt.encode()) for prompt in expert.negative_prompts)
    return total


def _layerwise(plan: Plan, dense: DenseConfig, item: int) -> int:
    """The largest tensor twice more (two are read at once), one layer, the embedding's rows, the hidden states twice
    (as they pass and as they enter the MoE block), and what runs for one batch."""
    width = dense.hidden_size
    sizes = [[math.prod(shape) for _, shape, _ in dense.layer_shared_tensors(n)] for n in range(dense.layers)]
    layer = max(map(sum, sizes))
    layer += sum(math.prod(dense.ffn_shape(projection)) for projection in dense.projections)
    tokens = _tokens(plan)
    rows = min(tokens, dense.vocab_size) + 2 * tokens + 8 * BATCH
    beside = sum(shape[1] for _, shape, group in dense.first_tensors() if group == "embeddings") - width
    largest = max(math.prod(dense.ffn_shape("up")), *map(max, sizes))
    return item * (layer + READERS * largest + rows * width + tokens * beside + 3 * BATCH * dense.expert_width)


def _whole(plan: Plan, dense: DenseConfig, item: int) -> int:
    parameters = sum(math.prod(shape) for _, shape in dense.tensors())
    return parameters * item + max((tensor.nbytes for tensor in plan.tensors), default=0)


def _merging(plan: Plan, tensor: OutputTensor) -> int:
    """What merging one tensor takes beside row blocks: folding needs a whole product in fp32 beside its result, and an
    expert that is transposed is held whole."""
    most = max((tensor.nbytes // len(tensor.parts) for part in tensor.parts if isinstance(part, Transposed)), default=0)
    for part in tensor.inner:
        if isinstance(part, Merged) and part.method in SEVERAL_PASSES:
            infos = [plan.models[s.model].tensors.get(s.name) for s in part.operands]
            folded = sum(info.nbytes for info in infos if info is not None and info.origin == "folded")
            most = max(most, PASSES + (folded + 8 * tensor.size if folded else 0))
    return most


def statistics_bytes(plan: Plan) -> int:
    """Bytes of `gate_statistics.safetensors`, `8 · L · (d² + 2 E d)`; zero where the recipe does not keep it."""
    gate = plan.recipe.gate
    if not gate.keep_statistics or gate.init in WITHOUT_ACTIVATIONS | MERGEKIT:
        return 0
    width, layers = plan.dense.hidden_size, len(plan.dense.routed_layers)
    return 8 * layers * (width**2 + 2 * len(plan.experts) * width)


def plan_json(plan: Plan | Refused) -> dict[str, Any]:
    """The plan for programs; the names are promises (see docs/json.md). What is refused has no cost."""

    def listed(problems: Any) -> list[dict[str, Any]]:
        return [{"code": p.code, "message": p.message, "hint": p.hint} for p in problems]

    return {
        **(_cost_json(plan) if isinstance(plan, Plan) else {"architecture": None}),
        "experts": [expert.name for expert in plan.recipe.experts],
        "experts_per_token": plan.recipe.experts_per_token,
        "problems": listed(plan.problems),
        "warnings": listed(plan.warnings),
        "notes": list(plan.notes),
    }


def _cost_json(plan: Plan) -> dict[str, Any]:
    return {
        "architecture": plan.host.model_type,
        "because": plan.because,
        "dtype": plan.dtype,
        "parameters": {"total": plan.parameters.total, "active": plan.parameters.active},
        "bytes": {"total": plan.bytes.total, "copied": plan.bytes.copied, "computed": plan.bytes.computed},
        "memory": {"peak": peak_memory(plan)},
        "computing": gate_computing(plan).dtype if runs_models(plan) else None,
        "vocabulary": plan.vocabulary.summary(),
        "dense_layers": sorted(plan.dense.kept),
        "groups": groups(plan),
    }


def groups(plan: Plan) -> list[dict[str, Any]]:
    """Where each group of tensors comes from: name, tensors, bytes and sentences on their making."""
    rows = []
    for group in ("embeddings", "attention", "norms", "ffn", "router", "shared_expert", "expert", "lm_head", "beside"):
        tensors = [tensor for tensor in plan.tensors if tensor.group == group]
        if tensors:
            size = sum(tensor.nbytes for tensor in tensors)
            ways = _ways(plan, (part for tensor in tensors for part in tensor.parts))
            rows.append({"group": group, "tensors": len(tensors), "bytes": size, "from": ways})
    return rows


def _ways(plan: Plan, parts: Iterable[Part]) -> list[str]:
    """How some parts are made. What is done to one model at a time is said once, with all of them."""
    models: dict[tuple[str, str], set[str]] = {}
    for part in parts:
        before, model, after = _way(plan, part)
        models.setdefault((before, after), set()).add(model)
    return sorted(f"{before}{', '.join(sorted(named))}{after}" for (before, after), named in models.items())


def _way(plan: Plan, part: Part) -> tuple[str, str, str]:
    """How a part is made: what is said before the one model that it is made of, that model, and what is said after."""
    match part:
        case Copy(source):
            return "copied from ", source.model, ""
        case Compute(source, redraw=Redraw()):
            return "from ", source.model, ", drawn anew in part"
        case Compute(source):
            info = plan.models[source.model].tensors.get(source.name)
            origin = info.origin if info is not None and info.origin != "stored" else "converted"
            return f"{origin} from ", source.model, ""
        case Merged(method, sources=sources):
            return f"{method} of {', '.join(source.model for source in sources)}", "", ""
        case Adjusted(inner):
            before, model, after = _way(plan, inner)
            return before, model, f"{after}, rescaled"
        case Transposed(parts):
            first, *others = {_way(plan, own) for own in parts}
            before, model, after = first if not others else (" and ".join(_ways(plan, parts)), "", "")
            return before, model, f"{after}, transposed"
        case Router():
            return f"gate: {plan.recipe.gate.init}", "", ""
        case Fill(value=value):
            return f"filled with {value:g}", "", ""

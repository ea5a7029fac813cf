"""What is made from stored bytes with numpy alone (`blocks`); for anything else torch is loaded."""

from __future__ import annotations

from moemerge.plan.model import Adjusted, Compute, Copy, Merged, Part, Plan, TensorSource, Transposed

STORED = frozenset({"F32", "BF16", "F16"})
"""Safetensors' names of the dtypes that numpy reads."""


def made_of_bytes(plan: Plan, part: Part) -> bool:
    """Whether a part is computed from stored bytes; a copied one is not computed."""
    match part:
        case Copy() | Adjusted() | Transposed():
            return False
        case Compute(source, shape):
            own = plan.models[source.model].tensors.get(source.name)
            random = part.noise or part.redraw is not None
            return own is not None and own.shape == shape and not random and _is_stored(plan, source)
        case Merged():
            return part.method == "mean" and all(_is_stored(plan, source) for source in part.sources)
    return True


def needs_torch(plan: Plan) -> bool:
    """Whether a tensor of the output does."""
    parts = (part for tensor in plan.tensors for part in tensor.parts)
    return not all(isinstance(part, Copy) or made_of_bytes(plan, part) for part in parts)


def _is_stored(plan: Plan, source: TensorSource) -> bool:
    model = plan.models[source.model]
    info = model.tensors.get(source.name)
    return info is not None and info.dtype in STORED and model.bytes_of(source.name) is not None

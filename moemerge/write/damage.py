"""Names the sources whose NaN or Inf would spoil an output tensor."""

from __future__ import annotations

from collections.abc import Iterator

from moemerge.errors import SourceError
from moemerge.plan.model import Compute, Copy, Merged, OutputTensor, Plan, TensorSource

CODE = "not-finite"
"""Of every error that a NaN or Inf may lie behind."""


def operands(tensor: OutputTensor) -> Iterator[TensorSource]:
    """What goes into a tensor, of the sources."""
    for part in tensor.inner:
        if isinstance(part, Copy | Compute):
            yield part.source
        elif isinstance(part, Merged):
            yield from part.operands


def not_finite(tensor: OutputTensor, plan: Plan) -> SourceError:
    """Why an output tensor holds NaN or Inf: a source does, or its values are too large for the dtype."""
    return _damaged(tensor, plan) or SourceError(
        f"`{tensor.name}` holds NaN or Inf, and its sources do not: a value is too large for {tensor.dtype}",
        hint="set a `dtype` with a larger range, such as `bfloat16`",
        code=CODE,
    )


def first_damaged(plan: Plan) -> SourceError | None:
    """The same of the first output tensor a source of which holds NaN or Inf, None where there is none.

    It reads the sources up to there: for when a model that runs has shown that something is wrong.
    """
    return next((error for tensor in plan.tensors if (error := _damaged(tensor, plan)) is not None), None)


def _damaged(tensor: OutputTensor, plan: Plan) -> SourceError | None:
    damaged = {f"`{plan.models[source.model].spec}`" for source in operands(tensor) if not _is_finite(plan, source)}
    if not damaged:
        return None
    message = f"`{tensor.name}` holds NaN or Inf, from {', '.join(sorted(damaged))}"
    return SourceError(message, hint="the source is damaged: check or download it again", code=CODE)


def _is_finite(plan: Plan, source: TensorSource) -> bool:
    import torch

    from moemerge.execute.stream import row_blocks

    model = plan.models[source.model]
    blocks = (model.read(source.name, rows) for rows in row_blocks(model.tensors[source.name].shape))
    return all(bool(torch.isfinite(block).all()) for block in blocks)

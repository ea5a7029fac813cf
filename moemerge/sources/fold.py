"""The arithmetic of folding a LoRA into a weight, step for step as peft's `merge_and_unload(safe_merge=False)`.

How peft 0.21 casts, which is what makes the results equal to the last bit on a CPU: `PeftModel.from_pretrained` turns
the factors into fp32 whatever dtype they were saved in (fp64 where the base is fp64); the product B·A is taken in that
dtype, times the scaling; a linear layer's weight gets it added in place, so that a bf16 weight is widened to fp32,
added and rounded once; an embedding gets it rounded to the weight's dtype first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Layout = Literal["linear", "embedding"]

ELEMENTS = 1 << 18
"""Elements that are added and rounded at a time: 1 MiB in fp32."""


def factor_dtype(weight: torch.Tensor) -> torch.dtype:
    """The dtype in which peft holds the factors for a weight."""
    import torch

    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def delta(a: torch.Tensor, b: torch.Tensor, scaling: float, layout: Layout) -> torch.Tensor:
    """What a LoRA adds to a weight, in the dtype of its factors.

    Args:
        a: `[rank, in]`, or `[rank, rows]` for an embedding.
        b: `[out, rank]`, or `[width, rank]` for an embedding.
        scaling: the factor on the product.
        layout: `linear` gives `[out, in]`, `embedding` gives `[rows, width]`.
    """
    product: torch.Tensor = (b @ a).mul_(scaling)
    return product if layout == "linear" else product.T


def fold(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float, layout: Layout) -> torch.Tensor:
    """Plain LoRA (https://arxiv.org/abs/2106.09685): weight + delta in the weight's dtype.

    peft adds in place to a linear layer's weight, which widens it to the delta's dtype, adds, and rounds once: these
    numbers, a few rows at a time, which stay in the cache. The weight is left as it is, since it may be remembered for
    others.
    """
    import torch

    if layout == "embedding":
        return weight + delta(a, b, scaling, layout).to(weight.dtype)
    product = b @ a
    folded = torch.empty_like(weight)
    step = max(ELEMENTS // weight.shape[1], 1)
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        folded[rows] = product[rows].mul_(scaling).add_(weight[rows])
    return folded


def magnitude_factor(
    weight: torch.Tensor, change: torch.Tensor, magnitude: torch.Tensor, layout: Layout
) -> torch.Tensor:
    """DoRA's factor (https://arxiv.org/abs/2402.09353, eq. 5): the magnitude over the norm of weight + delta.

    Args:
        weight: `[out, in]`, or the whole embedding `[rows, width]`.
        change: the delta, of the same shape.
        magnitude: `[out]`, or `[width]` for an embedding.

    Returns:
        `[out, 1]`, one factor for each output row; for an embedding `[1, width]`.
    """
    import torch

    if layout == "linear":
        norm: torch.Tensor = torch.linalg.norm(weight + change, dim=1)
        return (magnitude / norm).view(-1, 1)
    norm = torch.linalg.norm(weight.T + change.T, dim=1)
    return (magnitude / norm).view(1, -1)


def rescale(weight: torch.Tensor, change: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """DoRA: factor times (weight + delta), rounded to the weight's dtype."""
    return (factor * (weight + change)).to(weight.dtype)

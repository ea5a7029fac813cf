"""Attention of short rows in bf16 on a CPU: one row of the batch at a time, so that its scores stay in the cache.

torch's fused attention keeps nothing but takes twice as long there, forward and backward, at 256 and 512 positions;
transformers' eager one keeps the scores of every layer, in fp32 too. This one is as fast as the products in it and
keeps its inputs alone: the scores are made once more in the backward pass. From about a thousand positions on, and in
fp32, torch's is faster. Figures: docs/decisions.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "moemerge_rows"
LONGEST = 512
"""Positions up to which it is the faster one."""


def use_short_rows(model: Any, context: int) -> bool:
    """Gives a model this attention where it is the faster one; returns whether it did.

    Args:
        model: of transformers, in eval mode.
        context: positions of a row.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or context > LONGEST:
        return False
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
    return True


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """As transformers calls it: `[B, H, S, D]`, keys and values `[B, H_kv, S, D]`, a mask `[B, 1, S, S]` to add."""
    output: Tensor = _Rows.apply(query, key, value, attention_mask, scaling)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2), None


def _weights(query: Tensor, key: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """One row's softmax, `[H, S, S]`, of queries `[H_kv, H / H_kv * S, D]`: those that share a key are one matrix."""
    length = key.shape[1]
    return torch.bmm(query, key.mT).view(-1, length, length).mul_(scaling).add_(mask).softmax(dim=-1)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling = scaling
        heads, length, _ = key.shape[1:]
        output = torch.empty_like(query)
        for row in range(len(query)):
            weights = _weights(query[row].view(heads, -1, query.shape[-1]), key[row], mask[row], scaling)
            torch.bmm(weights.view(heads, -1, length), value[row], out=output[row].view(heads, -1, query.shape[-1]))
        return output

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        (slope,) = slopes
        heads, length, size = key.shape[1:]
        by_query, by_key, by_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for row in range(len(query)):
            queries, outgoing = query[row].view(heads, -1, size), slope[row].reshape(heads, -1, size)
            weights = _weights(queries, key[row], mask[row], ctx.scaling)
            torch.bmm(weights.view(heads, -1, length).mT, outgoing, out=by_value[row])
            by_weight = torch.bmm(outgoing, value[row].mT).view(-1, length, length)
            inner = (by_weight * weights).sum(dim=-1, keepdim=True, dtype=torch.float32)
            by_score = weights.mul_(by_weight.sub_(inner)).mul_(ctx.scaling).view(heads, -1, length)
            torch.bmm(by_score, key[row], out=by_query[row].view(heads, -1, size))
            torch.bmm(by_score.mT, queries, out=by_key[row])
        return by_query, by_key, by_value, None, None

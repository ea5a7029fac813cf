"""Attention in bf16 on a CPU: a block of queries at a time over the keys that it may see, so that scores
stay in the cache.

torch's fused attention keeps nothing but takes two to six times as long there, forward and backward, at 256 to 2,048
positions: it makes the products that the mask throws away. transformers' eager one keeps the scores of every layer, in
fp32 too. This one skips what lies behind a block of queries or in other documents, and keeps its inputs alone: the
scores are made once more in the backward pass. In fp32 torch's is faster. Figures: docs/decisions/train-cpu-speed.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "moemerge_rows"
LONGEST = 2048
"""Positions up to which it was found to be the faster one."""
BLOCK = 128
"""Queries that are taken at once."""


def use_blocked_attention(model: Any, context: int) -> bool:
    """Gives a model this attention where it is the faster one; returns whether it did.

    Args:
        model: of transformers, in eval mode.
        context: positions of a row.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or context > LONGEST:
        return False
    if (
        not model._supports_sdpa
    ):  # attention that torch's own cannot compute, such as with sinks, is not this one's either
        return False
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
    return True


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """As transformers calls it: `[B, H, S, D]`, keys `[B, H_kv, S, D]`, values `[B, H_kv, S, V]`, a mask
    `[B, 1, S, S]` to add."""
    output: Tensor = _Rows.apply(query, key, value, attention_mask, scaling)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2), None


def _blocks(mask: Tensor) -> list[tuple[slice, slice]]:
    """Which queries look at which keys, of a mask `[1, S, S]`: behind a query, and in other documents, are none."""
    allowed = mask[0] > torch.finfo(mask.dtype).min
    found = []
    for start in range(0, len(allowed), BLOCK):
        queries = slice(start, min(start + BLOCK, len(allowed)))
        seen = allowed[queries].any(dim=0).nonzero()
        found.append((queries, slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, len(allowed))))
    return found


def _weights(query: Tensor, key: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """One block's softmax, `[H, Q, K]`, of queries `[H_kv, H / H_kv * Q, D]`: those that share a key are one matrix."""
    return torch.bmm(query, key.mT).view(-1, *mask.shape[1:]).mul_(scaling).add_(mask).softmax(dim=-1)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        shared = query.unflatten(1, (key.shape[1], -1))  # (B, H, S, D) -> (B, H_kv, H / H_kv, S, D)
        key, value = key.contiguous(), value.contiguous()
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling, ctx.blocks = scaling, [_blocks(one) for one in mask.expand(len(query), -1, -1, -1)]
        output = torch.empty(*shared.shape[:-1], value.shape[-1], dtype=query.dtype)
        for row, blocks in enumerate(ctx.blocks):
            for queries, keys in blocks:
                asking = shared[row, :, :, queries].flatten(1, 2)
                weights = _weights(asking, key[row, :, keys], mask[row, :, queries, keys], scaling)
                given = torch.bmm(weights.view(len(asking), -1, weights.shape[-1]), value[row, :, keys])
                output[row, :, :, queries] = given.view(*shared.shape[1:3], -1, value.shape[-1])
        return output.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        shared, outgoing = (one.unflatten(1, (key.shape[1], -1)) for one in (query, slopes[0]))
        by_query = torch.empty(shared.shape, dtype=query.dtype)
        by_key, by_value = torch.zeros_like(key), torch.zeros_like(value)
        for row, blocks in enumerate(ctx.blocks):
            for queries, keys in blocks:
                asking, slope = (one[row, :, :, queries].flatten(1, 2) for one in (shared, outgoing))
                weights = _weights(asking, key[row, :, keys], mask[row, :, queries, keys], ctx.scaling)
                length = weights.shape[-1]
                by_value[row, :, keys] += torch.bmm(weights.view(len(asking), -1, length).mT, slope)
                by_weight = torch.bmm(slope, value[row, :, keys].mT).view_as(weights)
                inner = (by_weight * weights).sum(dim=-1, keepdim=True, dtype=torch.float32)
                by_score = weights.mul_(by_weight.sub_(inner)).mul_(ctx.scaling).view(len(asking), -1, length)
                by_query[row, :, :, queries] = torch.bmm(by_score, key[row, :, keys]).view(
                    *shared.shape[1:3], -1, shared.shape[-1]
                )
                by_key[row, :, keys] += torch.bmm(by_score.mT, asking)
        return by_query.flatten(1, 2), by_key, by_value, None, None

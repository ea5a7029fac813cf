"""Texts of several lengths in one row: attention stays within each text, all else runs over the whole row at once.

A layer's weights are then gone through once for many short texts, and not once for each length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Runs = tuple[tuple[int, int], ...]
"""A packed row: so many texts, of so many positions each, then others."""

NAME = "moemerge_packed"


def places_of(runs: Runs) -> Tensor:
    """Position ids `[1, S]` that begin again at each text."""
    return torch.cat([torch.arange(length).repeat(texts) for texts, length in runs])[None]


@contextmanager
def packed_attention() -> Iterator[Callable[[PreTrainedModel], PreTrainedModel]]:
    """Gives a function that lends a model attention within texts, which it must be told of as `runs=...`; in the end
    each has its own again."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)  # its name has no mask function: transformers makes no mask `[S, S]`
    changed: list[tuple[ref[PreTrainedModel], str]] = []  # nor is a model held that its owner has dropped

    def lend(model: PreTrainedModel) -> PreTrainedModel:
        own = model.config._attn_implementation
        if own != NAME:
            changed.append((ref(model), own))
            model.set_attn_implementation(NAME)
        return model

    try:
        yield lend
    finally:
        for lent, own in changed:
            if (model := lent()) is not None:
                model.set_attn_implementation(own)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    runs: Runs,
    scaling: float,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: `[1, H, S, D]`, keys and values `[1, H_kv, S, D]`, sinks `[H]` where there are such;
    gives `[1, S, H, D]`."""
    found = []
    start = 0
    for texts, length in runs:
        here = slice(start, start := start + texts * length)
        asked, keys, values = (
            one[0, :, here].unflatten(1, (texts, length)).transpose(0, 1) for one in (query, key, value)
        )
        mask = None if sliding_window is None or length <= sliding_window else _band(length, sliding_window, query)
        if s_aux is not None:
            mask = _with_sinks(_band(length, length, query) if mask is None else mask, s_aux, query.dtype)
            keys, values = (torch.nn.functional.pad(one, (0, 0, 0, 1)) for one in (keys, values))
        given = torch.nn.functional.scaled_dot_product_attention(
            asked, keys, values, mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )  # [texts, H, length, D]
        found.append(given.transpose(1, 2).flatten(0, 1))
    return torch.cat(found)[None], None


def _band(length: int, window: int, like: Tensor) -> Tensor:
    """Which keys a query sees, `[S, S]`: itself and the `window - 1` before it."""
    seen = torch.ones(length, length, dtype=torch.bool, device=like.device).tril()
    return seen.triu(1 - window)


def _with_sinks(seen: Tensor, sinks: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores, `[H, S, S + 1]`: the last key is all zeros, so that its score is the head's sink."""
    barred = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, float("-inf"))
    own = sinks.to(dtype)[:, None, None].expand(-1, len(seen), -1)
    return torch.cat([barred.expand(len(sinks), -1, -1), own], dim=-1)

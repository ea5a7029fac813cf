"""Attention by rows gives what torch's gives, forward and backward, in every host, with documents packed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.nn import functional

from moemerge.train import attention
from moemerge.train.attention import LONGEST, _Rows, use_blocked_attention
from tests.evaluate.conftest import mixture
from tests.hosts import DIVIDED, HOSTS, every
from tests.train.test_step import gradients, some_rows

__all__ = ["mixture"]


@pytest.mark.parametrize("block", [5, 128])
@pytest.mark.parametrize("size", [8, 6])
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_values_and_slopes_are_those_of_torch(
    heads: int, size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four heads of queries over 4, 2 and 1 heads of keys, values of another size too; a random mask; one block and
    several, the last one short."""
    monkeypatch.setattr(attention, "BLOCK", block)
    draw = torch.Generator().manual_seed(heads)
    query, outgoing = (torch.randn(3, 4, 12, width, generator=draw) for width in (8, size))
    key, value = (torch.randn(3, heads, 12, width, generator=draw) for width in (8, size))
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    allowed = (torch.rand(3, 1, 12, 12, generator=draw) > 0.4) | torch.eye(12, dtype=torch.bool)
    mask = torch.zeros(3, 1, 12, 12).masked_fill(~allowed, torch.finfo(torch.float32).min)
    ours = _Rows.apply(query, key, value, mask, 0.3)  # type: ignore[no-untyped-call]
    theirs = functional.scaled_dot_product_attention(query, key, value, allowed, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, theirs)
    found = torch.autograd.grad(ours, inputs, outgoing)
    for one, other in zip(found, torch.autograd.grad(theirs, inputs, outgoing), strict=True):
        torch.testing.assert_close(one, other)


def test_keys_that_no_query_of_a_block_may_see_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two documents of six and four tokens in one row, and one of ten; a block that may see nothing keeps all."""
    monkeypatch.setattr(attention, "BLOCK", 4)
    documents = torch.tensor([0] * 6 + [1] * 4)
    allowed = torch.ones(10, 10, dtype=torch.bool).tril()
    lowest = torch.finfo(torch.bfloat16).min

    def blocks(seen: torch.Tensor) -> list[tuple[list[int], list[int]]]:
        found = attention._blocks(torch.zeros(1, 10, 10, dtype=torch.bfloat16).masked_fill(~seen, lowest))
        return [([q.start, q.stop], [k.start, k.stop]) for q, k in found]

    assert blocks(allowed) == [([0, 4], [0, 4]), ([4, 8], [0, 8]), ([8, 10], [0, 10])]
    packed = allowed & (documents[:, None] == documents)
    assert blocks(packed) == [([0, 4], [0, 4]), ([4, 8], [0, 8]), ([8, 10], [6, 10])]
    assert blocks(torch.zeros_like(allowed))[0] == ([0, 4], [0, 10])


@pytest.mark.parametrize("host", every(host for host, case in HOSTS.items() if not case.sinks))
def test_a_step_is_the_same_to_rounding(host: str, mixture: Any) -> None:
    """Packed rows in a real model: in bf16, where rounding sends tokens elsewhere, nearly; in fp32 to rounding."""
    model, rows = deepcopy(mixture(host, k=1, dtype=torch.bfloat16, **DIVIDED[host])), some_rows(4)
    _, losses = gradients(model, [rows], "straight-through")
    assert use_blocked_attention(model, 32)
    _, others = gradients(model, [rows], "straight-through")
    assert losses.next_token == pytest.approx(others.next_token, rel=1e-2)
    model = model.float()
    ours, losses = gradients(model, [rows], "straight-through")
    model.set_attn_implementation("sdpa")
    theirs, others = gradients(model, [rows], "straight-through")
    assert losses.next_token == pytest.approx(others.next_token, rel=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_it_is_used_where_it_is_faster_and_nowhere_else(mixture: Any) -> None:
    """In bf16 for short rows alone, and never where heads have sinks."""
    assert not use_blocked_attention(deepcopy(mixture("mixtral")), 32)
    assert not use_blocked_attention(deepcopy(mixture("granitemoe_swa", dtype=torch.bfloat16)), 32)
    model = deepcopy(mixture("mixtral", dtype=torch.bfloat16))
    assert not use_blocked_attention(model, LONGEST + 1)
    assert model.config._attn_implementation == "sdpa"

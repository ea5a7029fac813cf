"""What the user should know about a fitted gate, by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch

from moemerge.errors import Problem
from moemerge.gate.capture import Domain
from moemerge.gate.closed_forms import REGULARISED
from moemerge.gate.held_out import FEW_RIDGE, Judgement
from moemerge.gate.request import ExpertTexts, GateRequest
from moemerge.texts import text_of

TELLABLE = 0.6
"""Two experts whose tokens go to the right one of the two less often than this cannot be told apart (0.5 is a coin)."""

TELLABLE_AT_ENTRY = 0.53
"""The same at the first layer, where the experts' own FFNs have left no trace yet: only the texts differ there."""

TOKENS_PER_WIDTH = 4
"""Tokens an expert that are recommended, in units of the width: accuracy still rises up to there."""

ROUNDING = 0.98
"""Share of tokens that should go to the same expert in bf16 as in fp32."""


def few_tokens(names: Sequence[str], tokens: Sequence[int], request: GateRequest) -> list[Problem]:
    """Experts with fewer tokens than recommended."""
    wanted = TOKENS_PER_WIDTH * request.hidden_size
    few = [f"`{name}` {count:,}" for name, count in zip(names, tokens, strict=True) if count < wanted]
    if not few:
        return []
    more = f"give texts of the domain as `data`, more prompts, or set `gate.expand: {wanted}`"
    return [
        Problem(
            "few-tokens",
            f"The gate is fitted from few tokens: {', '.join(few)}; "
            f"4 × hidden size = {wanted:,} per expert are recommended",
            "give more texts that it should win in `gate.data`" if request.pool else more,
        )
    ]


def too_few_groups(
    names: Sequence[str], domains: Sequence[Domain], folds: int, needed: int, request: GateRequest
) -> list[Problem]:
    """Says that λ is fixed, where too few prompts or documents can be held out to choose it."""
    if folds >= needed or request.ridge is not None or request.init not in REGULARISED:
        return []
    few = [n for n, d in zip(names, domains, strict=True) if len({p.group for p in d.passages}) < needed]
    what = f"prompts or documents of {', '.join(f'`{name}`' for name in few)}"
    hint = f"give each expert {needed} prompts or documents at least"
    if request.pool:
        what, hint = "texts of `gate.data`", f"give {needed} texts at least"
    return [
        Problem(
            "few-groups",
            f"λ is {FEW_RIDGE}, as fewer than {needed} {what} can be held out to choose",
            hint,
        )
    ]


def inseparable(names: Sequence[str], judgements: Sequence[Judgement]) -> list[Problem]:
    """Pairs of experts that cannot be told apart, worst first."""
    mean = torch.stack([judgement.pairs for judgement in judgements]).mean(0)
    entry = judgements[0].pairs
    found = []
    for one, other in combinations(range(len(names)), 2):
        share, first = float(mean[one, other]), float(entry[one, other])
        if share < TELLABLE or first < TELLABLE_AT_ENTRY:
            place = (
                f"{share:.0%} of their tokens"
                if share < TELLABLE
                else f"{first:.0%} of their tokens at the first layer"
            )
            found.append((min(share, first), names[one], names[other], place))
    return [
        Problem(
            "inseparable-experts",
            f"Experts `{one}` and `{other}` cannot be told apart: {place} go to the right one of the two, "
            "where a coin gives 50%",
            "give them texts that differ, or keep one of the two",
        )
        for _, one, other, place in sorted(found)
    ]


def same_texts(experts: Sequence[ExpertTexts]) -> list[Problem]:
    """Pairs of experts that were given the same prompts or documents, half of them or more."""
    found = []
    for one, other in combinations(experts, 2):
        mine, theirs = ({text_of(t).strip() for t in (*e.prompts, *e.documents)} for e in (one, other))
        shared = len(mine & theirs)
        if shared and 2 * shared >= min(len(mine), len(theirs)):
            found.append(
                Problem(
                    "same-texts",
                    f"Experts `{one.name}` and `{other.name}` share {shared} of their prompts or documents, so the "
                    "gate has little to tell them apart by",
                    "give them texts that differ",
                )
            )
    return found


def rounding(agreements: Sequence[float], layers: Sequence[int], init: str) -> list[Problem]:
    """Says where bf16 sends tokens elsewhere than fp32, by a gate of that `init` in layers of these numbers."""
    least = min(agreements)
    layer = layers[agreements.index(least)]
    if least >= ROUNDING:
        return []
    return [
        Problem(
            "bf16-routes",
            f"In bf16, {1 - least:.1%} of the tokens at layer {layer} go to another expert than in fp32",
            "build with `dtype: float32`"
            + (", or use `gate.init: discriminant`, whose rows have no common part" if init != "discriminant" else ""),
        )
    ]

"""How sharp a top-1 gate's softmax is while it is trained.

With one expert a token no factor on a gate's logits changes where a token goes, so a fit leaves it open: a gate may
come with logits so large that its softmax is saturated and passes no gradient on, or so small that it is flat. So
training multiplies the logits of each layer by a factor, found on training rows; the exported gate has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moemerge.evaluate.routers import RouterOutput, Routers
from moemerge.gate.held_out import best_scale, spread
from moemerge.train.routing import TrainedRouting
from moemerge.train.rows import Rows

SPREADS = (1.0, 4.0)
"""The logits' spread (`gate.held_out.spread`) is kept between these."""


def sharpness(model: Any, routers: Routers, weights: Sequence[Tensor], batches: Sequence[Rows]) -> tuple[float, ...]:
    """A positive factor on the logits of each layer: the one that fits the domains' labels best, within `SPREADS`.

    Args:
        model: the mixture; it routes by `weights`, hard.
        routers: its routers.
        weights: each layer's gate `[E, d]`.
        batches: training rows.

    Returns:
        One factor a layer; 1 in all where a token goes to several experts, as their weights then hang on it.
    """
    if routers.experts_per_token > 1:
        return (1.0,) * len(weights)
    routing = TrainedRouting(routers, None, slopes=False)
    found: list[list[Tensor]] = [[] for _ in weights]
    labels = []
    for rows in batches:
        rows = rows.to(weights[0].device)
        counted = rows.counted.flatten()
        labels.append(rows.labels.flatten()[counted].cpu())

        def watch(place: int, output: RouterOutput, counted: Tensor = counted) -> None:
            found[place].append(output[0].detach()[counted].double().cpu())

        routing.before(rows.counted, rows.labels)
        with torch.no_grad(), routing.using(weights), routers.watched(watch):
            model.model(input_ids=rows.ids, position_ids=rows.positions, use_cache=False)
    return tuple(_factor(torch.cat(logits), torch.cat(labels)) for logits in found)


def _factor(logits: Tensor, labels: Tensor) -> float:
    size = spread(logits, labels)
    if size == 0.0:
        return 1.0
    low, high = (bound / size for bound in SPREADS)
    return min(max(best_scale(logits, labels), low), high)

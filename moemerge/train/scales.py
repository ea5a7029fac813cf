"""What the gates are like before they are trained: how sharp their softmax is, and how large each input is.

With one expert per token no factor on a gate's logits changes where a token goes, so a fit leaves it open: a gate may
come with logits so large that its softmax is saturated and passes no gradient on, or so small that it is flat. So
training multiplies the logits of each layer by a factor, found on training rows; the exported gate has none.

A few of a gate's inputs are ten times as large as the others, in every trained language model. AdamW moves each weight
by the same amount a step, so those few would decide where a token goes. So the gates are trained in units of their
inputs: weights that are multiplied by a factor a channel, near to what its root mean square is smaller than the
median's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moemerge.families import anatomy_of
from moemerge.gate.held_out import best_scale, spread
from moemerge.mixture.routers import RouterOutput, Routers, hooked
from moemerge.train.routing import TrainedRouting
from moemerge.train.rows import Rows

SPREADS = (1.0, 4.0)
"""The logits' spread (`gate.held_out.spread`) is kept between these."""
LARGEST = 6
"""Binary digits that a channel's factor is away from 1 at most."""


@dataclass(frozen=True)
class Scales:
    """Of each layer.

    Attributes:
        factors: what the logits are multiplied by in training: the positive factor that fits the domains' labels best,
            within `SPREADS`; 1 in all where a token goes to several experts, as their weights then hang on it.
        inputs: what the trained weights are multiplied by, `[d]` fp32: powers of two, so that no weight is rounded.
    """

    factors: tuple[float, ...]
    inputs: tuple[Tensor, ...]


def scales(model: Any, routers: Routers, weights: Sequence[Tensor], batches: Sequence[Rows]) -> Scales:
    """Reads training rows once.

    Args:
        model: the mixture; it routes by `weights`, hard.
        routers: its routers.
        weights: each layer's gate `[E, d]`.
        batches: training rows.
    """
    routing = TrainedRouting(routers, None, slopes=False)
    found: list[list[Tensor]] = [[] for _ in weights]
    squares = [torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device) for weight in weights]
    labels = []
    for rows in batches:
        rows = rows.to(weights[0].device)
        counted = rows.counted.flatten().cpu()
        labels.append(rows.labels.flatten().cpu()[counted])

        def reader(place: int, counted: Tensor = counted) -> Any:
            def read(module: Any, inputs: tuple[Tensor, ...], output: RouterOutput) -> None:
                found[place].append(output[0].detach().cpu()[counted].double())
                hidden = inputs[0].detach().reshape(-1, inputs[0].shape[-1])[counted.to(inputs[0].device)]
                hidden = routers.entering(module, hidden)
                squares[place].add_(hidden.square().sum(dim=0, dtype=torch.float64).to(squares[place].device))

            return read

        routing.before(rows)
        readers = [reader(place) for place in range(len(weights))]
        with torch.no_grad(), routing.using(weights), hooked(routers.modules, readers):
            anatomy_of(model).decoder_of(model)(input_ids=rows.ids, position_ids=rows.positions, use_cache=False)
    right = torch.cat(labels)
    single = routers.experts_per_token == 1
    factors = tuple(_factor(torch.cat(logits), right) if single else 1.0 for logits in found)
    return Scales(factors, tuple(_channels(sums) for sums in squares))


def _factor(logits: Tensor, labels: Tensor) -> float:
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels):  # copies of one model: no expert is a token's own
        return 1.0
    size = spread(logits, labels)
    if size == 0.0:
        return 1.0
    low, high = (bound / size for bound in SPREADS)
    return min(max(best_scale(logits, labels), low), high)


def _channels(squares: Tensor) -> Tensor:
    """A power of two a channel, `[d]`, from the sums of its squares."""
    median = squares.median().clamp(min=torch.finfo(squares.dtype).tiny)
    exponents = -0.5 * (squares / median).clamp(min=torch.finfo(squares.dtype).tiny).log2()
    return exponents.round().clamp(-LARGEST, LARGEST).exp2().float()

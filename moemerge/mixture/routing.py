"""Where a mixture's tokens go: counts by domain and layer, gathered while its losses are computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import RouterOutput, Routers
from moemerge.mixture.windows import Batch

IDLE = 0.1
"""An expert below this part of its fair share of the load is idle."""
_SCALARS = ("entropy", "top1_weight", "tokens", "agreeing", "pairs")


@dataclass(frozen=True)
class RouteCounts:
    """Sums over one domain's counted tokens; they add up over batches and processes.

    Attributes:
        first: tokens whose top-1 expert it is, `[L, E]`.
        routed: tokens that pass through it, `[L, E]`.
        scalars: `[L, 5]`, in the order of `_SCALARS`: sums of the shares' entropy in nats and of the top-1 expert's
            share of the gate's weight, tokens, neighbours with the same top-1 expert, neighbours.
    """

    first: Tensor
    routed: Tensor
    scalars: Tensor

    @classmethod
    def from_sums(cls, sums: Tensor) -> RouteCounts:
        """Takes `[L, 2 E + 5]` apart."""
        experts = (sums.shape[1] - len(_SCALARS)) // 2
        return cls(*sums.split([experts, experts, len(_SCALARS)], dim=1))

    def scalar(self, name: str) -> Tensor:
        """One of the scalars, `[L]`."""
        return self.scalars[:, _SCALARS.index(name)]


class RouteCounter:
    """Counts the routes of the batches that it is told."""

    def __init__(self, routers: Routers) -> None:
        self._routers = routers
        self._sums = torch.zeros(len(routers.modules), 2 * routers.experts + len(_SCALARS), dtype=torch.float64)
        self._new = self._follows = torch.zeros(0, dtype=torch.bool)

    def before(self, batch: Batch) -> None:
        """What the next forward pass holds."""
        self._new = batch.new.flatten()
        self._follows = batch.follows[:, 1:]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Counts while the model runs."""
        with self._routers.watched(self._see):
            yield

    def _see(self, place: int, output: RouterOutput) -> None:
        logits, weights, indices = (part.detach() for part in output)
        top = indices.gather(1, weights.argmax(dim=1, keepdim=True))[:, 0]  # (N, k) -> (N)
        counted, follows = self._new.to(top.device), self._follows.to(top.device)
        experts = self._routers.experts
        rule = self._routers.rule
        probabilities = rule.shares(rule.scores(logits[counted]))
        weight = weights[counted].float()
        tokens = top.view(follows.shape[0], -1)  # (N) -> (B, S)
        scalars = [
            -probabilities.xlogy(probabilities).double().sum(),
            (weight.amax(dim=1) / weight.sum(dim=1)).double().sum(),
            counted.sum(),
            ((tokens[:, 1:] == tokens[:, :-1]) & follows).sum(),
            follows.sum(),
        ]
        self._sums[place] += torch.cat([
            torch.bincount(top[counted], minlength=experts).double(),
            torch.bincount(indices[counted].flatten(), minlength=experts).double(),
            torch.stack([scalar.double() for scalar in scalars]),
        ]).cpu()  # fmt: skip

    def sums(self, processes: Processes) -> Tensor:
        """The sums over all processes, `[L, 2 E + 5]`; `RouteCounts.from_sums` takes them apart."""
        return processes.total(self._sums)


def routing_account(
    counts: dict[str, RouteCounts], layers: Sequence[int], experts: Sequence[str], own: dict[str, int | None]
) -> dict[str, Any]:
    """The report's `routing`.

    Every domain weighs the same, however many tokens it has. MaxVio (Wang et al. 2024, arXiv 2408.15664) is the largest
    load over the mean load, less 1.

    Args:
        counts: by domain.
        layers: the numbers of the decoder layers that have a router.
        experts: the experts' names, in order.
        own: the number of each domain's own expert, None where it has none.
    """
    shares = {domain: c.first / c.first.sum(dim=1, keepdim=True) for domain, c in counts.items()}  # each [L, E]
    routed = torch.stack([c.routed / c.routed.sum(dim=1, keepdim=True) for c in counts.values()]).mean(dim=0)
    loads = routed.mean(dim=0)  # [E]
    fair = 1 / len(experts)
    hits = [shares[domain][:, index] for domain, index in own.items() if index is not None]
    accuracy = torch.stack(hits).mean(dim=0) if hits else None  # [L]
    violations = routed.amax(dim=1) / fair - 1

    def mean_of(name: str, of: str) -> float:
        values = [c.scalar(name).sum() / c.scalar(of).sum().clamp(min=1) for c in counts.values()]
        return float(torch.stack(values).mean())

    return {
        "layers": list(layers if len(layers) == len(routed) else range(len(routed))),
        "accuracy": float(accuracy.mean()) if accuracy is not None else None,
        "accuracy_by_layer": accuracy.tolist() if accuracy is not None else None,
        "confusion": {d: dict(zip(experts, s.mean(dim=0).tolist(), strict=True)) for d, s in shares.items()},
        "confusion_by_layer": {domain: share.tolist() for domain, share in shares.items()},
        "load": loads.tolist(),
        "load_by_layer": routed.tolist(),
        "entropy": mean_of("entropy", "tokens") / math.log(len(experts)) if len(experts) > 1 else 0.0,
        "coefficient_of_variation": float((routed.std(dim=1, correction=0) / fair).mean()),
        "max_vio": float(violations.mean()),
        "max_vio_by_layer": violations.tolist(),
        "top1_weight": mean_of("top1_weight", "tokens"),
        "neighbour_agreement": mean_of("agreeing", "pairs"),
        "idle": [name for name, load in zip(experts, loads.tolist(), strict=True) if load < IDLE * fair],
    }

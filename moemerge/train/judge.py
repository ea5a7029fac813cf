"""Looks at the held-out texts with the model as it would be exported: gates rounded as stored, routing hard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moemerge.console import Progress, Silent
from moemerge.mixture.losses import document_losses
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import Routers
from moemerge.mixture.routing import IDLE, RouteCounter, RouteCounts
from moemerge.mixture.windows import Encoded
from moemerge.train.lora import Lora

RESAMPLES = 2000


@dataclass(frozen=True)
class Judgement:
    """One look.

    Attributes:
        losses: sums of each domain's documents, nats, fp64.
        tokens: scored tokens of each domain's documents.
        load: each expert's share of the assignments, mean over layers and domains, `[E]`.
        accuracy: share of the tokens whose top-1 expert is their domain's, mean over layers and domains; 0 where no
            domain has an expert.
    """

    losses: Mapping[str, Tensor]
    tokens: Mapping[str, Tensor]
    load: Tensor
    accuracy: float

    @property
    def by_domain(self) -> dict[str, float]:
        """Nats a token of each domain."""
        return {name: float(sums.sum() / self.tokens[name].sum()) for name, sums in self.losses.items()}

    @property
    def mean(self) -> float:
        """The mean of the domains' losses, nats per token: what is to fall."""
        return math.fsum(self.by_domain.values()) / len(self.losses)

    @property
    def idle(self) -> set[int]:
        """Experts with less than `IDLE` of their fair share."""
        return {number for number, share in enumerate(self.load.tolist()) if share < IDLE / len(self.load)}

    def rise_over(self, other: Judgement, seed: int) -> tuple[float, float, float]:
        """The mean less the other's, with the 95 % interval of a paired bootstrap over the documents."""
        drawn = torch.stack(list(self._gaps(other, seed).values())).mean(dim=0)
        return self.mean - other.mean, float(drawn.quantile(0.025)), float(drawn.quantile(0.975))

    def worse_than(self, other: Judgement, seed: int) -> dict[str, float]:
        """By how much each domain's loss is above the other's, nats per token, where it is so beyond doubt."""
        found, theirs = self.by_domain, other.by_domain
        gaps = self._gaps(other, seed)
        return {name: found[name] - theirs[name] for name in found if float(gaps[name].quantile(0.025)) > 0}

    def _gaps(self, other: Judgement, seed: int) -> dict[str, Tensor]:
        """Of each domain on the same resamples of its documents, `[RESAMPLES]`."""
        generator = torch.Generator().manual_seed(seed)
        gaps = {}
        for name, sums in self.losses.items():
            picked = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=generator)
            gaps[name] = (sums - other.losses[name])[picked].sum(dim=1) / self.tokens[name][picked].sum(dim=1)
        return gaps


class Judge:
    """Measures gates.

    Args:
        model: the mixture.
        routers: its routers.
        encoded: the held-out documents by domain.
        own: the number of each domain's own expert, below 0 where it has none.
        stored: the dtype in which the folder holds its weights.
        processes: those that share the work.
    """

    def __init__(
        self,
        model: Any,
        routers: Routers,
        encoded: Mapping[str, Encoded],
        own: Mapping[str, int],
        stored: torch.dtype,
        processes: Processes,
    ) -> None:
        self._model, self._routers, self._encoded, self._own = model, routers, encoded, own
        self._stored, self._processes = stored, processes

    @contextmanager
    def exported(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """The model with these gates, rounded as the folder would hold them."""
        with self._routers.routed_by([weight.to(self._stored) for weight in weights]):
            yield

    @property
    def tokens(self) -> int:
        """Scored tokens of one look."""
        return sum(sum(encoded.tokens) for encoded in self._encoded.values())

    def look(self, weights: Sequence[Tensor], also: Lora | None = None, progress: Progress | None = None) -> Judgement:
        """Measures the gates `[E, d]` of all layers, and what is trained beside them.

        Args:
            weights: the gates.
            also: what is trained beside them.
            progress: is told scored tokens.

        Raises:
            EvalError: a loss is not finite.
        """
        losses, loads, right = {}, [], []
        progress = progress or Silent()
        with ExitStack() as stack:
            stack.enter_context(self.exported(weights))
            if also is not None:
                stack.enter_context(also.exported(self._stored))
            for name, encoded in self._encoded.items():
                counter = RouteCounter(self._routers)
                with counter.watching():
                    losses[name] = document_losses(self._model, encoded, progress, self._processes, counter.before)
                counts = RouteCounts.from_sums(counter.sums(self._processes))
                loads.append((counts.routed / counts.routed.sum(dim=1, keepdim=True)).mean(dim=0))
                first = counts.first / counts.first.sum(dim=1, keepdim=True)
                own = self._own[name]
                right.append(float(first[:, own].mean()) if own >= 0 else 0.0)
        return Judgement(
            losses,
            {name: torch.tensor(encoded.tokens, dtype=torch.float64) for name, encoded in self._encoded.items()},
            torch.stack(loads).mean(dim=0),
            math.fsum(right) / len(right),
        )

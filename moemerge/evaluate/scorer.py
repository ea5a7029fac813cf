"""Losses by domain: from the cache where this very model was measured on these very texts before, else computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from moemerge.console import Progress
from moemerge.evaluate.cache import LossCache
from moemerge.mixture.losses import document_losses
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import Routers
from moemerge.mixture.routing import RouteCounter, RouteCounts
from moemerge.mixture.windows import Scorable

Loader = Callable[[], Any]
"""Gives a model of transformers; only called where something must be computed."""


class Scorer:
    """Scores models on the documents of all domains.

    Args:
        encoded: the documents, by domain.
        cache: where losses are kept.
        progress: is told scored tokens.
        processes: those that share the work. Every process asks for the same scores in the same order.
    """

    def __init__(
        self, encoded: Mapping[str, Scorable], cache: LossCache, progress: Progress, processes: Processes
    ) -> None:
        self.encoded, self.cache = encoded, cache
        self._progress, self._processes = progress, processes

    def losses(
        self,
        domain: str,
        identity: str,
        load: Loader,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Tensor:
        """Sums of one model's losses on one domain's documents, `[documents]`, nats, fp64.

        Args:
            domain: which.
            identity: what the model is and what is done to it; the same identity means the same numbers.
            load: gives the model.
            around: is entered, after loading, for the time of the passes.
        """

        def compute() -> dict[str, Tensor]:
            model = load()
            with around():
                return {"sums": document_losses(model, self.encoded[domain], self._progress, self._processes)}

        return self._kept(("sums",), domain, identity, compute)["sums"]

    def routed(
        self, domain: str, identity: str, load: Loader, routers: Callable[[], Routers]
    ) -> tuple[Tensor, RouteCounts]:
        """The same of a mixture as it is, and where its tokens went."""

        def compute() -> dict[str, Tensor]:
            model, counter = load(), RouteCounter(routers())
            with counter.watching():
                sums = document_losses(model, self.encoded[domain], self._progress, self._processes, counter.before)
            return {"sums": sums, "routes": counter.sums(self._processes)}

        found = self._kept(("sums", "routes"), domain, identity, compute)  # compared before, it has the sums alone
        return found["sums"], RouteCounts.from_sums(found["routes"])

    def _kept(
        self, names: tuple[str, ...], domain: str, identity: str, compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        encoded = self.encoded[domain]
        key = (identity, encoded.digest())
        found = self._processes.from_first(lambda: self.cache.get(names, *key))
        if found is not None:
            self._progress.advance(sum(encoded.tokens))
            return found
        computed = compute()
        if self._processes.first:
            self.cache.put(computed, *key)
        return computed

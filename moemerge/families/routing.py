"""How a router turns its logits into experts and weights, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """The rule of a host, at the values that moemerge writes into its config.

    A softmax over the k chosen logits alone is the default too: a softmax over all, divided by the chosen's sum.

    Attributes:
        score: what makes scores of the logits, in fp32.
        divided: whether the chosen experts' scores are divided by their sum.
        reads: what the router is given: the norm's output that the FFN is given too, or the residual stream itself.
        correction: name of the `[E]` tensor (below the router, fp32) that is added to the scores for the choice alone.
    """

    score: Literal["softmax", "sigmoid"] = "softmax"
    divided: bool = True
    reads: Literal["normed", "residual"] = "normed"
    correction: str | None = None

    def scores(self, logits: Tensor) -> Tensor:
        """Scores of all experts, `[..., E]` to `[..., E]`, fp32."""
        logits = logits.float()
        return logits.softmax(dim=-1) if self.score == "softmax" else logits.sigmoid()

    def chosen(self, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Weights and indices of the k experts with the largest scores, `[..., E]` to twice `[..., k]`."""
        weights, indices = scores.topk(k, dim=-1)
        return (weights / weights.sum(dim=-1, keepdim=True) if self.divided else weights), indices

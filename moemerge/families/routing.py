"""How a router turns its logits into experts and weights, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

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
        before: attributes of the router that its input passes through before the gate, each a module or a factor.
        gives: what the router's first output is.
        correction: path from the router to the tensor of E numbers that is added to the scores for the choice alone,
            where the class has one. A build writes zeros; a training that balances the load may write others.
        factor: multiplies the weights.
    """

    score: Literal["softmax", "sigmoid"] = "softmax"
    divided: bool = True
    reads: Literal["normed", "residual"] = "normed"
    before: tuple[str, ...] = ()
    gives: Literal["logits", "probabilities"] = "logits"
    correction: str | None = None
    factor: float = 1.0

    @property
    def least(self) -> float:
        """What is added to a sum that is divided by: sigmoids may all be 0, and the classes do this too."""
        return 1e-20 if self.score == "sigmoid" else 0.0

    @property
    def sees_shifts(self) -> bool:
        """Whether a number that is added to all logits of a token changes its weights, as no softmax lets it."""
        return self.score == "sigmoid"

    def entering(self, router: Any, hidden: Tensor) -> Tensor:
        """What a router's gate multiplies, of what the router is given, `[..., d]`."""
        for name in self.before:
            part = getattr(router, name)
            hidden = part(hidden) if callable(part) and not hasattr(part, "shape") else hidden * part
        return hidden

    def logits(self, given: Tensor) -> Tensor:
        """Logits of a router's first output, up to what all experts have in common."""
        return given if self.gives == "logits" else given.log()

    def scores(self, logits: Tensor) -> Tensor:
        """Scores of all experts, `[..., E]` to `[..., E]`, fp32."""
        logits = logits.float()
        return logits.softmax(dim=-1) if self.score == "softmax" else logits.sigmoid()

    def shares(self, scores: Tensor) -> Tensor:
        """What all experts' scores are of their sum, `[..., E]` to `[..., E]`: a softmax' are that already."""
        return scores if self.score == "softmax" else scores / (scores.sum(dim=-1, keepdim=True) + self.least)

    def steepness(self, scores: Tensor) -> Tensor:
        """How fast the shares p change with the logits l, `[..., E]` to `[..., E]`: `dp_e/dl_j = a_j (δ_ej - p_e)`.

        A softmax has a = p; a sigmoid's slope σ (1 - σ), over the sum of the scores, is `a = p (1 - σ)`.
        """
        return scores if self.score == "softmax" else self.shares(scores) * (1 - scores)

    def chosen(self, scores: Tensor, k: int, correction: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weights and indices of the k experts with the largest scores, `[..., E]` to twice `[..., k]`.

        Args:
            scores: of all experts.
            k: how many are chosen.
            correction: is added for the choice, `[E]`.
        """
        ranked = scores if correction is None else scores + correction
        weights, indices = ranked.topk(k, dim=-1)
        if correction is not None:
            weights = scores.gather(-1, indices)
        if self.divided:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + self.least)
        return (weights if self.factor == 1.0 else self.factor * weights), indices

    def correction_of(self, router: Any) -> Tensor | None:
        """What a router in memory adds to its scores, `[E]` in fp32; None where its class has no such thing."""
        if self.correction is None:
            return None
        value: Tensor = reduce(getattr, self.correction.split("."), router)
        return value.detach().float().flatten()

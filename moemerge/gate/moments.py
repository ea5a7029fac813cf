"""The sufficient statistics of the closed forms: second moment, means and mass, balanced over the domains.

They are additive: over tokens, over folds and over experts, so a fold is left out by subtraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from moemerge.gate.systems import System


@dataclass(frozen=True)
class Moments:
    """Weighted moments of the gate's inputs `h` at one layer, fp64: the weights of a domain's tokens sum to 1.

    Attributes:
        second: `Σ w hhᵀ` over all domains, negative ones too, shape `[d, d]`.
        first: `Σ w h` of each expert's own domain, shape `[E, d]`.
        mass: `Σ w` of each expert's own domain, shape `[E]`: 1 unless a fold is left out.
        negative: `Σ w h` of each expert's negative prompts, shape `[E, d]`.
        negative_mass: `Σ w` of each expert's negative prompts, shape `[E]`: 0 where there are none.
        aims: `Σ w t h` with each expert's targets t of `advantage`, shape `[E, d]`; None where they are not known.
        width: the d of λ's unit tr/d, where the vectors are coordinates in a span of fewer dimensions.
    """

    second: Tensor
    first: Tensor
    mass: Tensor
    negative: Tensor
    negative_mass: Tensor
    width: int | None = None
    aims: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Sum of all weights."""
        return self.mass.sum() + self.negative_mass.sum()

    @property
    def mean(self) -> Tensor:
        """`E[h]` over all domains, shape `[d]`."""
        return (self.first.sum(0) + self.negative.sum(0)) / self.total

    @property
    def classes(self) -> tuple[Tensor, Tensor]:
        """Means `[C, d]` and masses `[C]` of the experts' domains, then of the negative prompts that there are."""
        there = self.negative_mass > 0
        masses = torch.cat([self.mass, self.negative_mass[there]])
        return torch.cat([self.first, self.negative[there]]) / masses[:, None], masses

    @cached_property
    def everything(self) -> System:
        """The systems of the second moment."""
        return System(self.second, self.width)

    @cached_property
    def within(self) -> System:
        """The systems of the pooled covariance `Σ_w`, about the mean of each class."""
        means, masses = self.classes
        return System((self.second - (means * masses[:, None]).T @ means) / self.total, self.width)

    def __sub__(self, other: Moments) -> Moments:
        """The moments without the tokens of `other`."""
        return replace(self, **{name: getattr(self, name) - getattr(other, name) for name in self.additive})

    @property
    def additive(self) -> tuple[str, ...]:
        """What is added where moments are."""
        always = ("second", "first", "mass", "negative", "negative_mass")
        return always if self.aims is None else (*always, "aims")


def together(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts."""
    first, *others = (part for part in parts if part.total)
    sums = {name: getattr(first, name).clone() for name in first.additive}
    for part in others:
        for name, total in sums.items():
            total += getattr(part, name)
    return replace(first, **sums)

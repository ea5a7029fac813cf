"""A family that computes what another one does and is only stored otherwise: it is read as the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_family import Extent, Values


def from_pairs(dense: DenseConfig) -> tuple[int, ...]:
    """Of rows that are stored as pairs, which rotate together: the first ones, the second ones, those that do not."""
    rotated = dense.rotated
    return (*range(0, rotated, 2), *range(1, rotated, 2), *range(rotated, dense.head_dim))


def into_halves(dense: DenseConfig) -> tuple[int, ...]:
    """Of rows of which the first ones rotate, as halves: halves of the whole head, of which the first rows rotate.

    Empty where all of them rotate, since these are the same then.
    """
    rotated, rest = dense.rotated, dense.head_dim - dense.rotated
    if not rest:
        return ()
    half, middle = rotated // 2, rotated + rest // 2
    return (*range(half), *range(rotated, middle), *range(half, rotated), *range(middle, dense.head_dim))


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the family that it is read as, out of a stored one.

    Attributes:
        name: the tensor's name, below the layer.
        rows: how many rows it takes, each part after the one before; None takes all, whatever the parts before took.
        order: gives, by the other family's config, where each row of a head is stored among the head's rows, where the
            other family has them in another order.
        plus: is added to its values: a norm that is stored without the one that it is added to.
    """

    name: str
    rows: Extent | None = None
    order: Callable[[DenseConfig], tuple[int, ...]] | None = None
    plus: float = 0.0


def _nothing(raw: Values) -> list[Problem]:
    return []


@dataclass(frozen=True, slots=True)
class Translation:
    """How it is read.

    Attributes:
        model_type: transformers' name of it.
        title: what people call its models.
        becomes: the dense family that it is read as; its own, where only some tensors are cut otherwise.
        rather: another one that some of its models are read as, and which, by the raw config (with `defaults`).
        defaults: what transformers fills in for a missing key of its `config.json`; a key that is absent here and there
            has the other family's default.
        layer: for each stored tensor of a layer that is not the other family's as it is, what it is made into.
        once: the same for tensors outside the layers, by their whole names.
        config: makes the other family's keys of the raw config (with `defaults`); its own `model_type` is set after it.
        warn: what is exact only in part, likewise.
        refuse: what in the raw config (with `defaults`) the other family cannot compute.
    """

    model_type: str
    title: str
    becomes: str
    defaults: Mapping[str, Any]
    layer: Mapping[str, tuple[Part, ...]]
    once: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    rather: tuple[str, Callable[[Values], bool]] | None = None
    config: Callable[[Values], Values] = dict
    warn: Callable[[Values], list[Problem]] = _nothing
    refuse: Callable[[Values], list[Problem]] = _nothing

    @property
    def families(self) -> tuple[str, ...]:
        """The dense families that its models are read as."""
        return (self.becomes,) if self.rather is None else (self.becomes, self.rather[0])

    def family_of(self, raw: Values) -> str:
        """The one that a model with this raw config (with `defaults`) is read as."""
        return self.becomes if self.rather is None or not self.rather[1](raw) else self.rather[0]

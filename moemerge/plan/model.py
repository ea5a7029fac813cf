"""A plan: for every tensor of the output, where its values come from. Data only; nothing here reads weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from moemerge.errors import Problem
from moemerge.families import DenseConfig, Group, Host, why_host
from moemerge.families.runtimes import Traits, traits_of
from moemerge.plan.tokenizer_json import AddedToken
from moemerge.recipe.schema import MergeMethod, Recipe
from moemerge.sources.checkpoint import ITEM_SIZE, Checkpoint


@dataclass(frozen=True, slots=True)
class OutputVocabulary:
    """Whose tokens the output has.

    Attributes:
        anchor: key in `Plan.models` of the model whose tokenizer, template and generation config it has.
        rows: of embedding and head.
        added: tokens on top of that model's, each with its id.
        tokenizer_json: the text of its `tokenizer.json` where there are such.
    """

    anchor: str
    rows: int
    added: Mapping[str, tuple[int, AddedToken]]
    tokenizer_json: str | None = None

    def summary(self) -> dict[str, Any]:
        """As plain data: whose tokenizer, how many rows, and the ids of what was added."""
        added = {token: index for token, (index, _) in self.added.items()}
        return {"anchor": self.anchor, "rows": self.rows, "added": added}


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor of one of the plan's models.

    Attributes:
        model: key in `Plan.models`.
        name: the tensor's name in that checkpoint.
    """

    model: str
    name: str


@dataclass(frozen=True, slots=True)
class Copy:
    """The source's bytes, as they are."""

    source: TensorSource


@dataclass(frozen=True, slots=True)
class Redraw:
    """Some of an FFN's channels, drawn anew in one of its matrices; see `moemerge.execute.redraw`.

    Attributes:
        channels: how many.
        choice: names what decides which ones: the same for the three matrices of an expert's layer.
        axis: the matrix's dimension that counts channels: 0 in gate and up, 1 in down.
    """

    channels: int
    choice: str
    axis: int


@dataclass(frozen=True, slots=True)
class Compute:
    """One source, read through torch: folded, dequantised, converted, padded, drawn anew, scaled or with noise.

    Attributes:
        source: what is read.
        shape: the shape after zero-padding at the end of each dimension.
        scale: factor on the values.
        noise: standard deviation of Gaussian noise that is added before scaling.
        seed: seeds the noise and what is drawn anew.
        redraw: what is drawn anew, before noise is added.
    """

    source: TensorSource
    shape: tuple[int, ...]
    scale: float = 1.0
    noise: float = 0.0
    seed: int = 0
    redraw: Redraw | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """Several sources merged into one tensor.

    Attributes:
        method: the arithmetic; see `moemerge.execute.merge`.
        base: the base model's tensor.
        sources: the distinct experts' tensors, in their order.
        weights: one factor a source.
        scaling: λ on the merged delta (task_arithmetic, ties, dare_ties).
        slerp_t: position between the two sources of slerp.
        density: share of each delta that ties and dare_ties keep.
        seed: seeds the drop mask of dare_ties.
    """

    method: MergeMethod
    base: TensorSource
    sources: tuple[TensorSource, ...]
    weights: tuple[float, ...]
    scaling: float
    slerp_t: float
    density: float
    seed: int

    @property
    def operands(self) -> tuple[TensorSource, ...]:
        """What the arithmetic reads: the base only for methods that look at deltas, or where it is a source."""
        return self.sources if self.method in ("mean", "weighted", "slerp") else (self.base, *self.sources)


@dataclass(frozen=True, slots=True)
class Router:
    """The fitted gate of one layer, `[E, hidden]`; `place` counts the layers that have one, from 0."""

    place: int


@dataclass(frozen=True, slots=True)
class Fill:
    """Every element is `value`."""

    shape: tuple[int, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Adjusted:
    """`times · (values + plus)`, in fp64."""

    part: Copy | Compute | Merged
    times: float
    plus: float


@dataclass(frozen=True, slots=True)
class Transposed:
    """Matrices, one below another, and all of it transposed.

    Attributes:
        parts: the matrices.
        shape: of them all, before they are transposed.
    """

    parts: tuple[Copy | Compute, ...]
    shape: tuple[int, int]


Part = Copy | Compute | Merged | Router | Fill | Adjusted | Transposed


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor of the output: its parts follow one another in its bytes (row-major, first dimension outermost).

    Attributes:
        name: on-disk name in the host.
        dtype: safetensors' name.
        shape: its shape.
        group: what it belongs to.
        parts: one part, or with the fused layout one a matrix of each expert (one an expert where it is transposed).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    group: Group
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.size * ITEM_SIZE[self.dtype]

    @property
    def inner(self) -> Iterator[Part]:
        """The parts before anything is rescaled or transposed."""
        for part in self.parts:
            match part:
                case Transposed(parts):
                    yield from parts
                case Adjusted(own):
                    yield own
                case _:
                    yield part

    @property
    def copied(self) -> bool:
        """Whether every byte is copied from a file."""
        return all(isinstance(part, Copy) for part in self.parts)


@dataclass(frozen=True, slots=True)
class PlannedExpert:
    """One expert of the output.

    Attributes:
        name: as in the recipe.
        model: key in `Plan.models`.
        width: its FFN's own intermediate size, before padding.
    """

    name: str
    model: str
    width: int


@dataclass(frozen=True)
class Refused:
    """A recipe that cannot be built.

    Attributes:
        recipe: what was asked.
        models: the models that could be opened.
        problems: everything that is wrong, at least one thing.
        warnings: what the user should know beside it.
        notes: plain facts worth a line.
    """

    ok: ClassVar[bool] = False
    recipe: Recipe
    models: Mapping[str, Checkpoint]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that a build will do; nothing is wrong with it.

    Attributes:
        recipe: what was asked.
        models: `base` and one key an expert that is not the base, each with the output's vocabulary.
        opened: the same as they are stored.
        vocabulary: the output's.
        experts: in the order of the router's rows.
        dense: the base's architecture, with the experts' FFN width.
        host: the class that will run the result.
        config: its `config.json`.
        tensors: every output tensor, in layer order.
        dtype: safetensors' name of the weights' dtype.
        shared_expert: key in `models` of the always-on expert, or None.
        warnings: what the user should know.
        notes: plain facts worth a line.
    """

    ok: ClassVar[bool] = True
    problems: ClassVar[tuple[Problem, ...]] = ()
    recipe: Recipe
    models: Mapping[str, Checkpoint]
    opened: Mapping[str, Checkpoint]
    vocabulary: OutputVocabulary
    experts: tuple[PlannedExpert, ...]
    dense: DenseConfig
    host: Host
    config: Mapping[str, Any]
    tensors: tuple[OutputTensor, ...]
    dtype: str
    shared_expert: str | None = None
    warnings: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def because(self) -> str | None:
        """Why it is this host, where there was a choice."""
        return why_host(self.dense, self.recipe.architecture) if self.host.wrapper is None else None

    @cached_property
    def traits(self) -> Traits:
        """What the mixture has that not every runtime holds."""
        return traits_of(
            self.dense,
            self.host,
            layout=self.recipe.output.layout,
            experts_per_token=self.recipe.experts_per_token,
            shared=self.shared_expert is not None,
        )

    @cached_property
    def parameters(self) -> Parameters:
        """Total and active parameters."""
        total = sum(tensor.size for tensor in self.tensors)
        expert = sum(tensor.size for tensor in self.tensors if tensor.group == "expert")
        count = max(len(self.experts), 1)
        idle = max(count - self.recipe.experts_per_token, 0)
        return Parameters(total=total, active=total - expert // count * idle)

    @cached_property
    def bytes(self) -> Bytes:
        """Bytes of the output by how they come about."""
        copied = computed = 0
        for tensor in self.tensors:
            if tensor.copied:
                copied += tensor.nbytes
            else:
                computed += tensor.nbytes
        return Bytes(total=copied + computed, copied=copied, computed=computed)

    def of_group(self, group: Group) -> Iterator[OutputTensor]:
        """The tensors of one group."""
        return (tensor for tensor in self.tensors if tensor.group == group)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameter counts; `active` are those that one token passes through."""

    total: int
    active: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """Sizes in bytes; `total = copied + computed`."""

    total: int
    copied: int
    computed: int

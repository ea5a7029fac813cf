"""What a row of `hosts` says of a host, which is a mixture-of-experts class of transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moemerge.verify.dense import Dense

Shape = tuple[int, ...]
COUNTED = ".num_batches_tracked"
"""What the names of batch norms' counts end in."""

FromBase = Callable[[Dense], Any]
"""The value of a config's key, by the base's architecture."""


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """An FFN beside the experts, which every token passes through, times the sigmoid of its gate where it has one.

    Attributes:
        matrices: names of its gate and up, or of up alone, `[W, hidden]` and last of down `[hidden, W]`, with
            `{layer}`.
        gate: name of the `[1, hidden]` gate on its output, with `{layer}`; None where its output is added as it is.
        width: the config's key of W; None where W is the experts' width.
        silent: W where the recipe names none and it says nothing (never wider than an expert); None as above.
        count: the config's key of how many there are: none where the recipe names none; None where there is always one.
    """

    matrices: tuple[str, ...]
    gate: str | None
    width: str | None
    silent: int | None
    count: str | None = None

    def names(self, layer: int) -> tuple[str, ...]:
        """One layer's gate, up and down, or up and down."""
        return tuple(name.format(layer=layer) for name in self.matrices)


@dataclass(frozen=True, slots=True)
class Zeros:
    """A tensor of zeros beside a layer's router, which would otherwise change what is chosen.

    Attributes:
        name: on disk, with `{layer}`.
        shape: by E.
        dtype: safetensors' name of its own dtype, whatever that of the folder.
        in_memory: the name in the class, with `{layer}`, where it is another.
    """

    name: str
    shape: Callable[[int], Shape]
    dtype: str = "F32"
    in_memory: str | None = None


@dataclass(frozen=True, slots=True)
class Silenced:
    """An FFN beside the experts that says nothing, where no recipe can ask for another.

    Attributes:
        both: name of its gate and up in one, `[2W, hidden]`, with `{layer}`.
        down: name of its down, `[hidden, W]`, likewise.
        width: the config's key of W.
        most: W (never wider than an expert).
    """

    both: str
    down: str
    width: str
    most: int


@dataclass(frozen=True, slots=True)
class Derived:
    """A tensor that is one of the base's, multiplied.

    Attributes:
        name: of it, with `{layer}` where each layer has one.
        of: the base's, likewise.
        times: what it is multiplied by.
    """

    name: str
    of: str
    times: float = 1.0


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host.

    Attributes:
        model_type: its `model_type`, which is also the record's `architecture`.
        class_name: the class that transformers builds from the config.
        router: the router's `[E, hidden]` weight on disk, with `{layer}`.
        expert: one expert's gate and up, or up alone, `[I, hidden]` and last its down `[hidden, I]` on disk, with
            `{layer}` and `{expert}`; None where they are always fused.
        fixed: keys of the config that have one value in every folder, those that say how tokens are routed among them.
        counts: keys that hold E.
        tops: keys that hold the number of experts per token, beside the one that every host has.
        widths: keys that hold I.
        repeated: keys that repeat the base's value, beside those that every host repeats.
        from_base: keys that follow from the base in another way, beside those that every host has.
        dense_layers: keys that follow from which layers are dense, and how; none where every layer routes.
        kinds: the key that lists layers by what they are, where it says which route: the word of one that has an FFN,
            as all have where the base has no such key, and that of one that routes.
        lacks: keys of every other host that this one does not have.
        always_on: the FFN beside the experts, where the class has one.
        silenced: another such FFN, which the class cannot do without.
        correction: what the class adds to the router's scores for the choice, where it does.
        near: whether it computes not quite what the base does, so that the record has a measured error.
        auto_class: the Auto class of transformers that loads it.
        router_in_memory: the router's weight in the class, where it has another name.
        fused: the experts on disk in the fused layout, with `{layer}`: `[E, 2I, hidden]` (gate rows before up rows), or
            `[E, I, hidden]` without gates, and `[E, hidden, I]`.
        fused_in_memory: the same in the class, where it has other names.
        transposed: whether each fused expert lies transposed on disk: `[E, hidden, 2I]` and `[E, I, hidden]`.
        wide: whether its experts are as wide as the base's widest layer, where layers differ.
        down: factor on the experts' down.
        filled: tensors of each layer that hold one number, with `{layer}`, by the base and E: shape and number.
        derived: what is made of the base's tensors beside what takes their places, by the base.
        adjusted: what takes the place of the base's tensor of a name: `a · (values + b)`, by the base and the dtype.
        on_disk: the name on disk of a tensor that the dense model calls so.
        in_memory: the name in the class of another tensor on disk.
    """

    model_type: str
    class_name: str
    router: str
    expert: tuple[str, ...] | None
    fixed: Mapping[str, Any]
    counts: tuple[str, ...]
    widths: tuple[str, ...]
    tops: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    from_base: Mapping[str, FromBase] = field(default_factory=dict)
    dense_layers: Mapping[str, Callable[[tuple[int, ...]], Any]] = field(default_factory=dict)
    kinds: tuple[str, str, str] | None = None
    lacks: tuple[str, ...] = ()
    always_on: AlwaysOn | None = None
    silenced: Silenced | None = None
    correction: Zeros | None = None
    near: bool = False
    auto_class: str = "AutoModelForCausalLM"
    router_in_memory: str | None = None
    fused: tuple[str, str] = (
        "model.layers.{layer}.mlp.experts.gate_up_proj",
        "model.layers.{layer}.mlp.experts.down_proj",
    )

    fused_in_memory: tuple[str, str] | None = None
    transposed: bool = False
    wide: bool = False
    down: float = 1.0
    filled: Callable[[Dense, int], Mapping[str, tuple[Shape, float]]] = lambda dense, experts: {}
    derived: Callable[[Dense], tuple[Derived, ...]] = lambda dense: ()
    adjusted: Callable[[Dense, str, str], tuple[float, float]] = lambda dense, name, dtype: (1.0, 0.0)
    on_disk: Callable[[str], str] = str
    in_memory: Callable[[str], str] = str

    def own_dtype(self, name: str) -> str | None:
        """The dtype of a tensor on disk, where the class keeps it in one of its own: a batch norm's count, say."""
        if name.endswith(COUNTED):
            return "I64"
        if self.correction is None:
            return None
        before, after = map(re.escape, self.correction.name.split("{layer}"))
        return self.correction.dtype if re.fullmatch(rf"{before}\d+{after}", name) else None

    def router_of(self, layer: int) -> str:
        """One layer's router."""
        return self.router.format(layer=layer)

    def expert_of(self, layer: int, expert: int) -> tuple[str, ...]:
        """One expert's gate, up and down, or up and down, where they are not fused."""
        return tuple(name.format(layer=layer, expert=expert) for name in self.expert or ())

    def fused_of(self, layer: int) -> tuple[str, str]:
        """One layer's experts in one: gate with up, and down."""
        gate_up, down = (name.format(layer=layer) for name in self.fused)
        return gate_up, down

"""How llama.cpp stores a mixture in a GGUF file, as data of its host."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from moemerge.errors import Problem
from moemerge.families.gguf import LAYER, TOP
from moemerge.families.gguf_rope import ROPES, Config, head_dim, llama3_factors

Value = float | int | bool | str | list[int] | list[bool]
"""What a key of a file's metadata can be."""

ELSEWHERE = "run it with transformers 5; `moemerge families HOST` says what else holds it"
"""What helps where llama.cpp cannot hold a mixture."""

TEXT_ALONE = "its language model alone is in the file: there it reads text, and neither pictures nor sounds"
"""What is said of a mixture that sees or hears."""

QKV = frozenset({"attn_q", "attn_k", "attn_v"})
"""The maps of attention that may have biases in most architectures."""

OUTPUT = frozenset({"attn_output"})
"""The one after it."""

_NAMES: Mapping[str, str] = {**{ours: theirs for theirs, ours in LAYER.items()}, "mlp.gate": "ffn_gate_inp"}
_TOP: Mapping[str, str] = {ours: theirs for theirs, ours in TOP.items()}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the file that is made of one of the mixture's.

    Attributes:
        name: llama.cpp's, of a layer's below the layer.
        rows: which rows it has, in their order, by the config and the number of those there are; None for all.
        unit: how many rows `turn` needs at once, by the config.
        turn: what it is given is `[rows, columns]` in fp32 and the config, and what it gives is written; None for
            the same.
        shape: its shape by the config and the stored one; None for the same, or as many rows as `rows` names.
    """

    name: str
    rows: Callable[[Config, int], Sequence[range]] | None = None
    unit: Callable[[Config], int] = lambda config: 1
    turn: Callable[[Any, Config], Any] | None = None
    shape: Callable[[Config, tuple[int, ...]], tuple[int, ...]] | None = None


def paired(rows: Any, size: int) -> Any:
    """Rows of whole heads `[n D, d]`, the halves of each head interleaved: row s D/2 + j becomes row 2 j + s."""
    halves = rows.reshape(-1, 2, size // 2, rows.shape[-1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


PAIRED: Mapping[str, tuple[Stored, ...]] = {
    f"self_attn.{letter}_proj.{kind}": (
        Stored(f"attn_{letter}.{kind}", unit=head_dim, turn=lambda rows, config: paired(rows, head_dim(config))),
    )
    for letter in "qk"
    for kind in ("weight", "bias")
}
"""Queries and keys of an architecture that rotates neighbouring rows, where transformers rotates halves of a head."""


def added(one: float) -> Callable[[Any, Config], Any]:
    """Adds a number."""
    return lambda rows, config: rows + one


def minus_exp(rows: Any, config: Config) -> Any:
    """What the logarithm of a recurrence's decay stands for: `-exp(A)`."""
    import numpy as np

    return -np.exp(rows)


def squeezed(config: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a convolution's kernel, `[channels, 1, tokens]` here, without the one in its middle."""
    return (shape[0], shape[-1])


def window_keys(config: Config) -> Mapping[str, Value]:
    """The sliding window, and which layers have it."""
    kinds = [kind == "sliding_attention" for kind in config["layer_types"]]
    return {"attention.sliding_window": config["sliding_window"], "attention.sliding_window_pattern": kinds}


def halves(name: str, first: str, second: str) -> Mapping[str, tuple[Stored, ...]]:
    """A tensor whose first half of rows is one of theirs, and whose second half another."""
    return {
        name: (
            Stored(first, lambda config, rows: [range(rows // 2)]),
            Stored(second, lambda config, rows: [range(rows // 2, rows)]),
        )
    }


def always_on(names: Mapping[Any, str]) -> Mapping[str, str]:
    """llama.cpp's names of the always-on expert, by a host's `shared_expert`."""
    stems = ((part, name.partition("{layer}.")[2].removesuffix(".weight")) for part, name in names.items())
    return {stem: f"ffn_{part}_shexp" for part, stem in stems}


def correction(name: str) -> Mapping[str, tuple[Stored, ...]]:
    """What is added to the router's scores for the choice, by its name in a layer: `[E]` there, whatever it is here."""
    return {name: (Stored("exp_probs_b.bias", shape=lambda config, shape: (math.prod(shape),)),)}


def _no_keys(config: Config) -> Mapping[str, Value | None]:
    return {}


def _no_problems(config: Config) -> Iterator[Problem]:
    return iter(())


def _the_rope(config: Config) -> Mapping[str, Any] | None:
    return config["rope_parameters"]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class GgufForm:
    """A host's form there. What is not said here, llama.cpp does as transformers does.

    Attributes:
        architecture: llama.cpp's name of it.
        names: llama.cpp's name of what lies at a place in a layer, where it is not the usual one. Both have no
            `.weight` or `.bias`.
        made: what is not stored as it is, by its whole name in a layer, or in the model.
        prefix: what the names of tensors in layers begin with.
        biases: the maps that may have biases, by llama.cpp's names.
        ropes: kinds of rope that it computes.
        rope: the rope that its usual keys speak of, by the config; None where there is none.
        factors: what each frequency of rope is divided by (`rope_freqs.weight`), `[pairs]`, by the config; None for
            all ones.
        partial: whether it heeds `partial_rotary_factor`, as the host's class then does.
        windows: whether it heeds sliding windows; `keys` say which.
        activation: the config's key of the experts' activation, and the only value that it computes.
        epsilon: the config's key of the epsilon of its norms.
        dense: which layers it lets stay dense.
        shared: whether it has a place for an expert that is always on. A silent one is left out where it has none.
        head: whether it needs a head of its own where that is the embedding.
        down: what the experts' `down` is multiplied by; another tensor takes it back.
        keys: further metadata below the architecture's name, by the config. They go before the usual ones, and None
            is not a key.
        refuse: what else it would compute otherwise, by the config.
    """

    architecture: str
    names: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, tuple[Stored, ...]] = field(default_factory=dict)
    prefix: str = "model.layers."
    biases: frozenset[str] = frozenset()
    ropes: frozenset[str] = ROPES
    rope: Callable[[Config], Mapping[str, Any] | None] = _the_rope
    factors: Callable[[Config], Sequence[float] | None] = llama3_factors
    partial: bool = False
    windows: bool = False
    activation: tuple[str, str] = ("hidden_act", "silu")
    epsilon: str = "rms_norm_eps"
    dense: Literal["none", "first", "any"] = "none"
    shared: bool = False
    head: bool = False
    down: float = 1.0
    keys: Callable[[Config], Mapping[str, Value | None]] = _no_keys
    refuse: Callable[[Config], Iterator[Problem]] = _no_problems

    @property
    def biased(self) -> frozenset[str]:
        """The maps by llama.cpp's names, any of which transformers may give a bias."""
        return frozenset({**_NAMES, **self.names}.values())

    def places(self, name: str) -> tuple[Stored, ...]:
        """What is made of a tensor, by its own name; nothing where it has no place."""
        layer = re.fullmatch(rf"{re.escape(self.prefix)}(\d+)\.(.+)", name)
        if layer is None:
            return self._of(name, _TOP)
        return tuple(replace(one, name=f"blk.{layer[1]}.{one.name}") for one in self._of(layer[2], _NAMES))

    def _of(self, name: str, usual: Mapping[str, str]) -> tuple[Stored, ...]:
        if name in self.made:
            return self.made[name]
        stem, _, kind = name.rpartition(".")
        found = self.names.get(stem) or usual.get(stem)
        return (Stored(f"{found}.{kind}"),) if found is not None and kind in ("weight", "bias") else ()

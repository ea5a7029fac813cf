"""Layers with Mamba 2 in the place of attention: their tensors, which merge as attention does, and their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Extent, LayerTensor, Values, of_kind
from moemerge.families.values import is_whole

MAMBA = "linear_attention"
"""transformers' word for such a layer."""

_OLD_NAMES = {"mamba": MAMBA, "attention": "full_attention"}
_PUBLISHED = {today: old for old, today in _OLD_NAMES.items()}
_NO_LIMIT: Sequence[Any] = (None, [0.0, float("inf")], [0.0, {"__float__": "Infinity"}])


def mamba2(place: str, conv_bias: str, other_bias: str) -> tuple[LayerTensor, ...]:
    """The tensors of one.

    Args:
        place: from a layer to it.
        conv_bias: the config's key that asks for a bias of its convolution.
        other_bias: likewise of its two projections.
    """
    return of_kind(MAMBA, (
        LayerTensor(f"{place}.A_log", ("mamba heads",), "attention"),
        LayerTensor(f"{place}.D", ("mamba heads",), "attention"),
        LayerTensor(f"{place}.conv1d.bias", ("mixed",), "attention", conv_bias),
        LayerTensor(f"{place}.conv1d.weight", ("mixed", "one", "kernel"), "attention"),
        LayerTensor(f"{place}.dt_bias", ("mamba heads",), "attention"),
        LayerTensor(f"{place}.in_proj.bias", ("entering",), "attention", other_bias),
        LayerTensor(f"{place}.in_proj.weight", ("entering", "hidden"), "attention"),
        LayerTensor(f"{place}.norm.weight", ("inner",), "norms"),
        LayerTensor(f"{place}.out_proj.bias", ("hidden",), "attention", other_bias),
        LayerTensor(f"{place}.out_proj.weight", ("hidden", "inner"), "attention"),
    ))  # fmt: skip


def mamba2_extents(
    inner: Callable[[Values], int], heads: str, groups: str, state: str, kernel: str
) -> Mapping[Extent, Callable[[Values], int]]:
    """The extents of their shapes: the inner width, and the config's keys of its heads, of the groups and the size of
    its state, and of how many tokens its convolution sees."""

    def mixed(sizes: Values) -> int:  # what the convolution runs over: values, and the state's two maps
        return inner(sizes) + 2 * int(sizes[groups] * sizes[state])

    return {
        "inner": inner,
        "mamba heads": lambda sizes: int(sizes[heads]),
        "mixed": mixed,
        "entering": lambda sizes: inner(sizes) + mixed(sizes) + int(sizes[heads]),
        "kernel": lambda sizes: int(sizes[kernel]),
        "one": lambda sizes: 1,
    }


def kinds_by_todays_names(kinds: Any) -> Any:
    """`layer_types` by the names that transformers has for them today; what is not a list stays as it is."""
    return [_OLD_NAMES.get(kind, kind) for kind in map(str, kinds)] if isinstance(kinds, list) else kinds


def kinds_as_published(kinds: Sequence[str]) -> list[str]:
    """`layer_types` as models are published with them: transformers 5 reads both, transformers 4 and mlx-lm these."""
    return [_PUBLISHED.get(kind, kind) for kind in kinds]


def without_limit(raw: Values) -> dict[str, Any]:
    """A config without the limit of its time steps that is none."""
    return {key: value for key, value in raw.items() if key != "time_step_limit"}


def limit_problems(raw: Values) -> list[Problem]:
    """A limit of its time steps, which transformers heeds when a model reads and not when it writes."""
    if raw.get("time_step_limit") in _NO_LIMIT:
        return []
    message = f"a `{raw['model_type']}` whose time steps have a limit (`time_step_limit`) has no host here"
    return [Problem("time-step", message, "transformers heeds it when a model reads and not when it writes")]


def head_size(raw: Values) -> Any:
    """`mamba_d_head`, which `auto` leaves to the other sizes."""
    if raw["mamba_d_head"] != "auto":
        return raw["mamba_d_head"]
    wide, heads = raw["mamba_expand"], raw["mamba_n_heads"]
    sizes = (wide, heads, raw["hidden_size"])
    return wide * raw["hidden_size"] // heads if all(is_whole(size) and size > 0 for size in sizes) else None

"""Which host a dense model goes into: of those that hold it, the one that the most other runtimes hold rightly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.host import Host
from moemerge.families.registry import HOSTS
from moemerge.families.runtimes import known_of, runtimes_where, traits_of
from moemerge.families.wrapper import Wrapper


def hosts_of(family: str, within: Wrapper | None = None, dense: DenseConfig | None = None) -> list[Host]:
    """The hosts that a dense family may go into, alone or within a wrapper, the preferred one first.

    An exact one comes before a near miss. With `dense` the one comes first that is right in the most other runtimes
    with what that very model has, as far as was tried. Of equals the one that was made for the family comes before
    others, and then the one that is right in the most with plain models. Without `dense` the last two alone count.
    """

    def rank(host: Host) -> tuple[bool, int, int, int]:
        right = 0 if dense is None else len(runtimes_where("right", host, traits_of(dense, host)))
        return host.near is not None, -right, host.fits.index(family), -len(runtimes_where("right", host))

    able = (host for host in HOSTS.values() if family in host.fits)
    return sorted((host for host in able if _stands(host, within)), key=rank)


def _stands(host: Host, within: Wrapper | None) -> bool:
    """Whether it is a model by itself, or was run within this wrapper."""
    return host.alone if within is None else host.model_type in within.languages


def choose_host(
    dense: DenseConfig, architecture: str, within: Wrapper | None = None
) -> tuple[Host | None, list[Problem]]:
    """Picks the host for a dense model, or says why there is none.

    Args:
        dense: the base model; `kept` has the layers that are to stay dense.
        architecture: the recipe's `architecture`: `auto` or a host's `model_type`.
        within: the wrapper that it lies within, if it does.

    Returns:
        The host (also when it refuses, so that planning can go on and find more) and the problems.
    """
    alone = hosts_of(dense.family, dense=dense)
    able = hosts_of(dense.family, within, dense) or alone  # none of these was run within, which planning says
    holding = list(_holding(dense, within))
    if architecture == "auto":
        if holding:
            return holding[0], []
        refusals = [(host, host.problems(dense)) for host in able]
        first, problems = min(refusals, key=lambda refusal: len(refusal[1]))  # the one that lacks the least
        return first, _without_dense_layers(dense, problems)
    host = HOSTS.get(architecture)
    if host is None:
        known = ", ".join(f"`{name}`" for name in HOSTS)
        return None, [Problem("unknown-host", f"`architecture: {architecture}` is not a host", f"one of {known}")]
    if host not in (*able, *alone):
        names = ", ".join(f"`{other.model_type}`" for other in able)
        message = f"`architecture: {architecture}` cannot hold `{dense.family}`"
        return None, [Problem("host-family", message, f"set `architecture: auto`, or one of {names}")]
    problems = host.problems(dense)
    if holding:
        hint = f"set `architecture: auto`, which takes `{holding[0].model_type}`"
        return host, [replace(problem, hint=hint) for problem in problems]
    return host, _without_dense_layers(dense, problems)


def _without_dense_layers(dense: DenseConfig, problems: list[Problem]) -> list[Problem]:
    """What helps where no host holds the layers that are to stay dense."""
    hint = f"leave it out: no host of `{dense.family}` can keep them"
    return [replace(one, hint=hint) if one.code == "dense-layers" and one.hint is None else one for one in problems]


def why_host(dense: DenseConfig, architecture: str) -> str | None:
    """Why `auto` took the host that it did; None where there was no choice, or the recipe made it."""
    able = list(_holding(dense))
    if architecture != "auto" or len(able) < 2:
        return None
    others = ", ".join(f"{host.model_type} ({_standing(host, dense)})" for host in able[1:])
    first, traits = able[0], traits_of(dense, able[0])
    tried = f"{len(runtimes_where('right', first, traits))} other runtimes run it correctly"
    return f"{tried if any(known_of(first, traits)) else 'not tried in other runtimes'}; {others} would fit too"


def _holding(dense: DenseConfig, within: Wrapper | None = None) -> Iterator[Host]:
    """The hosts that hold this very model."""
    return (host for host in hosts_of(dense.family, within, dense) if not host.problems(dense))


def _standing(host: Host, dense: DenseConfig) -> str:
    if host.near is not None:
        return "near"
    traits = traits_of(dense, host)
    count = len(runtimes_where("right", host, traits))
    return str(count) if any(known_of(host, traits)) else "not tried"

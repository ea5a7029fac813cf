"""Which dense family goes into which mixture-of-experts class of transformers, as one small file a host."""

from __future__ import annotations

from collections.abc import Mapping

from moemerge.errors import Problem
from moemerge.families.dense import DENSE_FAMILIES, PROJECTIONS, DenseConfig, Group, Projection
from moemerge.families.host import Constant, Host
from moemerge.families.mixtral import MIXTRAL
from moemerge.families.qwen2_moe import QWEN2_MOE
from moemerge.families.qwen3_moe import QWEN3_MOE

HOSTS: Mapping[str, Host] = {host.model_type: host for host in (MIXTRAL, QWEN2_MOE, QWEN3_MOE)}
"""Every host by `model_type`, the preferred one for a dense family first."""

NO_HOST: Mapping[str, str] = {
    "gemma2": "norms after attention and FFN are part of its residual path",
    "gemma3": "norms after attention and FFN are part of its residual path",
    "gemma3_text": "norms after attention and FFN are part of its residual path",
    "olmo": "its layer norms have no weights",
    "olmo2": "its router would have to see the residual stream (`flex_olmo` is not written yet)",
    "gpt2": "its FFN has no gate projection",
    "gpt_neox": "its FFN has no gate projection",
    "phi": "its FFN has no gate projection",
    "falcon": "its FFN has no gate projection",
    "opt": "its FFN has no gate projection",
    "bloom": "its FFN has no gate projection",
    "starcoder2": "its FFN has no gate projection",
    "phi3": "its projections are fused (`qkv_proj`, `gate_up_proj`), which is not written yet",
}
"""Why some well-known families are refused, in one clause."""


def choose_host(dense: DenseConfig, architecture: str) -> tuple[Host | None, list[Problem]]:
    """Picks the host for a dense model, or says why there is none.

    Args:
        dense: the base model.
        architecture: the recipe's `architecture`: `auto` or a host's `model_type`.

    Returns:
        The host (also when it refuses, so that planning can go on and find more) and the problems.
    """
    if architecture != "auto":
        host = HOSTS.get(architecture)
        if host is None:
            known = ", ".join(f"`{name}`" for name in HOSTS)
            return None, [Problem("unknown-host", f"`architecture: {architecture}` is no host", f"one of {known}")]
        if dense.family not in host.fits:
            able = ", ".join(f"`{name}`" for name, h in HOSTS.items() if dense.family in h.fits)
            message = f"`architecture: {architecture}` cannot hold `{dense.family}`"
            return None, [Problem("host-family", message, f"set `architecture: auto`, or one of {able}")]
        return host, host.refuse(dense)
    hosts = [host for host in HOSTS.values() if dense.family in host.fits]
    preferred = sorted(hosts, key=lambda host: host.fits.index(dense.family))
    refusals = [(host, host.refuse(dense)) for host in preferred]
    return next(((host, problems) for host, problems in refusals if not problems), refusals[0])


def family_problem(model_type: object) -> Problem:
    """The refusal of a `model_type` that is not a known dense family."""
    known = ", ".join(f"`{name}`" for name in DENSE_FAMILIES)
    reason = NO_HOST.get(str(model_type))
    if model_type in HOSTS:
        return Problem("is-moe", f"`{model_type}` is a mixture of experts already", f"moemerge starts from {known}")
    because = f": {reason}" if reason else ""
    message = f"model type `{model_type}` has no exact mixture-of-experts class here{because}"
    return Problem("no-host", message, f"families that build today: {known}")


__all__ = [
    "DENSE_FAMILIES",
    "HOSTS",
    "PROJECTIONS",
    "Constant",
    "DenseConfig",
    "Group",
    "Host",
    "Projection",
    "choose_host",
    "family_problem",
]

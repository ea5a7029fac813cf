"""The hosts that tests run, one line each, and which of their tests run by default."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.tiny import DEFAULTS, OWN


@dataclass(frozen=True)
class HostCase:
    """A host at its tiniest.

    Attributes:
        dense: a dense family that goes into it.
        sizes: what its config has beside `tests.tiny.DEFAULTS`, given E.
        switch: whether its config says if weights are divided by their sum (`norm_topk_prob`); the others always are.
        always_on: whether it has an expert that every token passes through.
        recurrent: whether a layer carries a state along a row.
        sinks: whether heads of attention have sinks, which torch's fused attention does not know.
    """

    dense: str
    sizes: Callable[[int], dict[str, Any]]
    switch: bool = False
    always_on: bool = False
    recurrent: bool = False
    sinks: bool = False


_SHARED = {"moe_intermediate_size": 48, "shared_expert_intermediate_size": 24}
_QWEN3_5 = {key: value for key, value in OWN["qwen3_5_text"].items() if key != "full_attention_interval"}

HOSTS: dict[str, HostCase] = {
    "mixtral": HostCase("llama", lambda e: {"num_local_experts": e}),
    "qwen2_moe": HostCase("qwen2", lambda e: {"num_experts": e, **_SHARED}, switch=True, always_on=True),
    "qwen3_moe": HostCase(
        "qwen3", lambda e: {"num_experts": e, "moe_intermediate_size": 48, "head_dim": 8}, switch=True),
    "flex_olmo": HostCase("olmo2", lambda e: {"num_experts": e}, switch=True),
    "granitemoe": HostCase("granite", lambda e: {"num_local_experts": e, **OWN["granite"]}),
    "cohere2_moe": HostCase("cohere2", lambda e: {
        "num_experts": e, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6,
        "logit_scale": 0.7, "tie_word_embeddings": False}),
    "granitemoe_swa": HostCase("smollm3", lambda e: {
        "num_local_experts": e, "attention_multiplier": 8**-0.5, "layer_rope_theta": [2e6, 0.0],
        "layer_types": ["full_attention"] * 2, "sliding_window": 256},
        sinks=True),
    "qwen3_5_moe_text": HostCase("qwen3_5_text", lambda e: {
        "num_experts": e, **_SHARED, **_QWEN3_5, "layer_types": ["linear_attention", "full_attention"]},
        always_on=True, recurrent=True),
}  # fmt: skip

DIVIDED: dict[str, dict[str, Any]] = {
    host: {"norm_topk_prob": True} if case.switch else {} for host, case in HOSTS.items()
}
"""What makes each host divide the chosen weights by their sum, as every built folder does."""

USUAL = ("mixtral", "qwen2_moe", "qwen3_moe", "flex_olmo", "granitemoe")
"""Hosts on which every test runs by default; on the others most run behind the marker `families`."""


def every(hosts: Iterable[str] = HOSTS) -> list[Any]:
    """Parameters: the usual hosts, and the others behind the marker."""
    return [pytest.param(host, marks=() if host in USUAL else pytest.mark.families) for host in hosts]


def host_config(host: str, experts: int, k: int, **config: Any) -> dict[str, Any]:
    """The settings of a tiny host with `experts` experts, of which each token goes to k."""
    return {**DEFAULTS, "num_experts_per_tok": k, **HOSTS[host].sizes(experts), **config}

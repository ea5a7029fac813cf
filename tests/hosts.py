"""The hosts that tests run, one line each, and which of their tests run by default."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pytest
from torch import Tensor

from tests.tiny import DEFAULTS, OWN


@dataclass(frozen=True)
class HostCase:
    """A host at its tiniest.

    Attributes:
        dense: a dense family that goes into it.
        sizes: what its config has beside `tests.tiny.DEFAULTS`, given E.
        settings: what a dense model of that family has beside, so that it goes there and nowhere else.
        switch: whether its config says if weights are divided by their sum (`norm_topk_prob`); the others always are.
        always_on: whether it has an expert that every token passes through.
        recurrent: whether a layer carries a state along a row.
        sinks: whether heads of attention have sinks, which torch's fused attention does not know.
        tied: whether its head may be the embedding.
        layers: the numbers of the layers that route.
        top: the config's key of k.
        silu: whether its experts have a gate and their activation is a module, SiLU, as those of most are.
        sigmoid: whether scores are sigmoids of the logits, and no softmax.
        added: from a router to what it adds to the scores for the choice.
    """

    dense: str
    sizes: Callable[[int], dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    switch: bool = False
    always_on: bool = False
    recurrent: bool = False
    sinks: bool = False
    tied: bool = True
    layers: tuple[int, ...] = (0, 1)
    top: str = "num_experts_per_tok"
    silu: bool = True
    sigmoid: bool = False
    added: str | None = None

    def scores(self, logits: Tensor) -> Tensor:
        """Of all experts, as transformers' class has them."""
        return logits.float().sigmoid() if self.sigmoid else logits.float().softmax(dim=-1)

    def chosen(self, logits: Tensor, router: Any, k: int, *, divided: bool = True) -> tuple[Tensor, Tensor]:
        """Weights and indices of k experts, likewise."""
        scores = self.scores(logits)
        added = attrgetter(self.added)(router).detach().flatten() if self.added is not None else 0.0
        indices = (scores + added).topk(k, dim=-1).indices
        weights = scores.gather(-1, indices)
        return weights / weights.sum(dim=-1, keepdim=True) if divided else weights, indices


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
    "granitemoehybrid": HostCase("granitemoehybrid", lambda e: {
        **OWN["granitemoehybrid"], "num_local_experts": e, "shared_intermediate_size": 24,
        "layer_types": ["linear_attention", "full_attention"]}, recurrent=True),
    "deepseek_v3": HostCase("deepseek_v3", lambda e: {
        **OWN["deepseek_v3"], "first_k_dense_replace": 0, "n_routed_experts": e, "moe_intermediate_size": 48,
        "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0}, switch=True, always_on=True,
        sigmoid=True, added="e_score_correction_bias"),
    "nemotron_h": HostCase("nemotron_h", lambda e: {
        **OWN["nemotron_h"], "n_routed_experts": e, "moe_intermediate_size": 48,
        "moe_shared_expert_intermediate_size": 24,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]}, switch=True, always_on=True,
        recurrent=True, tied=False, layers=(1, 3), silu=False, sigmoid=True, added="e_score_correction_bias"),
    "qwen3_5_moe_text": HostCase("qwen3_5_text", lambda e: {
        "num_experts": e, **_SHARED, **_QWEN3_5, "layer_types": ["linear_attention", "full_attention"]},
        always_on=True, recurrent=True),
    "gemma4_text": HostCase("gemma4_text", lambda e: {
        "num_experts": e, "moe_intermediate_size": 48, "enable_moe_block": True,
        "head_dim": 8, "global_head_dim": 16, "sliding_window": 6, "final_logit_softcapping": 30.0,
        "vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 4,
        "layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": False}, top="top_k_experts",
        silu=False),
    "beam": HostCase("gemma3_text", lambda e: {
        "num_experts": e, "moe_intermediate_size": 48, "head_dim": 8, "sliding_window": 6, "n_group": 1,
        "topk_group": 1, "routed_scaling_factor": 1.0, "mlp_layer_types": ["sparse"] * 2,
        "hidden_act": "gelu_pytorch_tanh", "layer_types": ["sliding_attention", "full_attention"]}, switch=True,
        sigmoid=True, added="e_score_correction_bias", silu=False),
    "lfm2_moe": HostCase("lfm2", lambda e: {
        "num_experts": e, "moe_intermediate_size": 48, "head_dim": 8, "num_dense_layers": 0, "use_expert_bias": False,
        "layer_types": ["conv", "full_attention"], "tie_word_embeddings": False}, switch=True, sigmoid=True,
        recurrent=True, silu=False),
    "glm4_moe": HostCase("glm4_moe", lambda e: {
        "n_routed_experts": e, "moe_intermediate_size": 48, "first_k_dense_replace": 0, "partial_rotary_factor": 0.5},
        switch=True, always_on=True, sigmoid=True, added="e_score_correction_bias"),
    "ernie4_5_moe": HostCase("ernie4_5", lambda e: {
        "moe_num_experts": e, "moe_intermediate_size": 48, "moe_num_shared_experts": 0, "moe_layer_start_index": 0,
        "head_dim": 8, "tie_word_embeddings": False}, added="moe_statics.e_score_correction_bias"),
    "hunyuan_v1_moe": HostCase("hunyuan_v1_dense", lambda e: {"num_experts": e, "head_dim": 8}, always_on=True),
    "mellum": HostCase("qwen3", lambda e: {
        "num_experts": e, "moe_intermediate_size": 48, "head_dim": 8, "sliding_window": 6,
        "layer_types": ["full_attention", "sliding_attention"]}, switch=True,
        settings={"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
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
    return {**DEFAULTS, HOSTS[host].top: k, **HOSTS[host].sizes(experts), **config}

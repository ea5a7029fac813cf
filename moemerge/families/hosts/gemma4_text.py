"""Gemma 4 into its own class with `enable_moe_block`: experts beside an FFN that gives zero.

The class normalises what the experts give, adds the FFN's part, and normalises the sum: two norms, where the dense
model has one. They are one again. Let y be what the FFN gives, m the mean of its squares, s a factor on y, c the weight
of the first norm, ε the epsilon of both. Then the second gives

    y / sqrt(m + ε·m/c² + ε²/(c·s)²), and the dense model y / sqrt(m + ε).

With c·s = sqrt(ε) the last term is ε, and what is left of the middle one is at most ε/c², relative to m. So s is a
small power of two, on the experts' `down`, which rounds nothing, and c = sqrt(ε)/s.

The router reads the residual, which it normalises without a weight, multiplies by a scale and by hidden^-½. With the
scale at sqrt(hidden) times the weight of the norm before the FFN, the gate multiplies what the FFN is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.host import Constant, Host, Made, bias_problems
from moemerge.families.routing import Routing
from moemerge.families.shared_expert import SILENT_WIDTH

DOWN = 2.0**-12
"""s. With ε = 1e-6, c is 4.1 and ε/c² 6e-8."""

_LAYER = "model.layers.{layer}"


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "hidden_activation": dense.hidden_act,
        "intermediate_size": SILENT_WIDTH,
        "moe_intermediate_size": dense.expert_width,
        "num_experts": experts,
        "top_k_experts": experts_per_token,
        "enable_moe_block": True,
        "layer_types": [kind.split()[0] for kind in dense.kinds],
        "sliding_window": next((window for window in dense.windows if window is not None), None),
        **dense.extra,
        "use_double_wide_mlp": False,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    problems = bias_problems(dense, "gemma4_text", qkv=True, output=True)
    if dense.norm_eps <= 0:
        message = "`gemma4_text` holds its own dense model by the epsilon of its norms, and `rms_norm_eps` is 0"
        problems.append(Problem("host-eps", message, "Gemma 4 has 1e-6"))
    return problems


def _made(dense: DenseConfig, name: str) -> tuple[Made, ...]:
    before, norm, after = name.partition(".pre_feedforward_layernorm.")
    if not norm:
        return (Made(name),)
    scale = Made(f"{before}.router.scale", math.sqrt(dense.hidden_size))
    return Made(name), Made(f"{before}.pre_feedforward_layernorm_2.{after}"), scale


def _constants(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    prefix, hidden, width = _LAYER.format(layer=layer), dense.hidden_size, SILENT_WIDTH
    yield Constant(f"{prefix}.mlp.gate_proj.weight", (width, hidden), 0.0)
    yield Constant(f"{prefix}.mlp.up_proj.weight", (width, hidden), 0.0)
    yield Constant(f"{prefix}.mlp.down_proj.weight", (hidden, width), 0.0)
    yield Constant(f"{prefix}.post_feedforward_layernorm_1.weight", (hidden,), 1.0)
    yield Constant(f"{prefix}.post_feedforward_layernorm_2.weight", (hidden,), math.sqrt(dense.norm_eps) / DOWN)
    yield Constant(f"{prefix}.router.per_expert_scale", (experts,), 1.0)


HOST = Host(
    model_type="gemma4_text",
    architecture="Gemma4ForCausalLM",
    holds="windows, heads of another size in full attention, keys that are values too, layers that share keys and "
    "values, embeddings for each layer, FFNs twice as wide in some layers, softcapped logits, tied embeddings",
    fits=("gemma4_text",),
    gate=f"{_LAYER}.router.proj.weight",
    expert=None,
    fused={"gate_up": f"{_LAYER}.experts.gate_up_proj", "down": f"{_LAYER}.experts.down_proj"},
    config=_config,
    refuse=_refuse,
    made=_made,
    down=DOWN,
    lacks=("rope_theta", "rope_scaling"),
    constants=_constants,
    anatomy=Anatomy(beside=True, router="router", router_matrix="proj.weight", softcap="final_logit_softcapping"),
    routing=Routing(reads="residual", before=("norm", "scale", "scalar_root_size"), gives="probabilities"),
)

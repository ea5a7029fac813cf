"""Nemotron-H into `nemotron_h`, its own class with experts: sigmoids, top-k, divided by their sum; no gates in experts.

A layer that was an FFN becomes one of experts; the others stay. A correction is added to the scores for the choice:
zeros. The class always has a shared expert: zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.corrected import CORRECTION, SIGMOIDS, deepseek_config, zero_correction
from moemerge.families.dense.nemotron_h import DISK, FFN
from moemerge.families.dense_family import Projection, exchanged
from moemerge.families.gguf_form import ELSEWHERE, GgufForm, Value, always_on, correction
from moemerge.families.gguf_mamba import mamba2_keys, mamba2_made
from moemerge.families.gguf_rope import Config
from moemerge.families.host import Constant, Host, bias_problems
from moemerge.families.shared_expert import silent_width

_LAYER = "backbone.layers.{layer}.mixer"
_SHARED: Mapping[Projection, str] = {
    "up": f"{_LAYER}.shared_experts.up_proj.weight",
    "down": f"{_LAYER}.shared_experts.down_proj.weight",
}
_ENDS = {"model.embed_tokens.": "backbone.embeddings.", "model.norm.": "backbone.norm_f."}


def _stored(name: str) -> str:
    return exchanged(name, {**_ENDS, **DISK})


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    routed = frozenset(dense.routed_layers)
    return {
        **deepseek_config(dense, experts),
        "layer_norm_epsilon": dense.norm_eps,
        "layers_block_type": ["moe" if layer in routed else kind for layer, kind in enumerate(dense.kinds)],
        "mlp_hidden_act": dense.hidden_act,
        "moe_latent_size": None,
        "moe_shared_expert_intermediate_size": silent_width(dense),
        **dense.extra,
    }


def _silent(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    width, hidden = silent_width(dense), dense.hidden_size
    yield Constant(_SHARED["up"].format(layer=layer), (width, hidden), 0.0)
    yield Constant(_SHARED["down"].format(layer=layer), (hidden, width), 0.0)


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "nemotron_h", qkv=True, output=True)


def _any_layers(dense: DenseConfig) -> Mapping[str, Any]:
    return {}  # `layers_block_type` says it


_SHORTEST = 1e-3
"""`time_step_min` of all models. llama.cpp does not lift shorter steps to it: docs/gguf.md has what that moves."""


def _keys(config: Config) -> Mapping[str, Value]:
    width = {"moe": config["moe_intermediate_size"]}
    inner = config["mamba_num_heads"] * config["mamba_head_dim"]
    return {
        **mamba2_keys(
            config, inner, "layers_block_type", "mamba_num_heads", "n_groups", "ssm_state_size", "conv_kernel"
        ),
        "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),  # read, and used by no layer of ours
        "feed_forward_length": [width.get(kind, 0) for kind in config["layers_block_type"]],
        "expert_shared_count": config["n_shared_experts"],
        "expert_shared_feed_forward_length": config["moe_shared_expert_intermediate_size"],
    }


def _no_place(config: Config) -> Iterator[Problem]:
    if FFN in config["layers_block_type"]:
        message = "llama.cpp's `nemotron_h_moe` has experts in every FFN, and one of these stays dense"
        yield Problem("dense-layers", message, f"build it without `layers`, or {ELSEWHERE}")
    if config["time_step_min"] > _SHORTEST:
        message = f"llama.cpp has no `time_step_min`, and this one's is {config['time_step_min']}"
        yield Problem("time-step", message, ELSEWHERE)


_GGUF = GgufForm(
    "nemotron_h_moe",
    names={
        "backbone.embeddings": "token_embd",
        "backbone.norm_f": "output_norm",
        "norm": "attn_norm",
        "mixer.q_proj": "attn_q",
        "mixer.k_proj": "attn_k",
        "mixer.v_proj": "attn_v",
        "mixer.o_proj": "attn_output",
        "mixer.gate": "ffn_gate_inp",
        "mixer.up_proj": "ffn_up",
        "mixer.down_proj": "ffn_down",
        **always_on(_SHARED),
    },
    made={**mamba2_made("mixer", "n_groups"), **correction(f"mixer.gate.{CORRECTION}")},
    prefix="backbone.layers.",
    rope=lambda config: None,
    factors=lambda config: None,
    activation=("mlp_hidden_act", "relu2"),
    epsilon="layer_norm_epsilon",
    dense="any",
    shared=True,
    keys=_keys,
    refuse=_no_place,
)

HOST = Host(
    model_type="nemotron_h",
    architecture="NemotronHForCausalLM",
    holds="layers of Mamba 2, of attention without rope, and of experts without a gate, FFNs that stay dense; "
    "its shared expert is made exactly silent, or is a real one (`shared_experts`)",
    fits=("nemotron_h",),
    gate=f"{_LAYER}.gate.weight",
    expert={
        "up": f"{_LAYER}.experts.{{expert}}.up_proj.weight",
        "down": f"{_LAYER}.experts.{{expert}}.down_proj.weight",
    },
    fused={"gate_up": f"{_LAYER}.experts.up_proj", "down": f"{_LAYER}.experts.down_proj"},
    config=_config,
    refuse=_refuse,
    shared_expert=_SHARED,
    shared_config=lambda dense: {"moe_shared_expert_intermediate_size": dense.intermediate_size},
    silent=_silent,
    constants=zero_correction(f"{_LAYER}.gate.{CORRECTION}"),
    attention=f"{_LAYER}.{{projection}}.weight",
    lacks=("rope_parameters", "rope_theta", "rope_scaling"),
    stored=_stored,
    anatomy=Anatomy(norm="norm_f", block="mixer", attention="mixer", recurrent="mixer", kind="block_type",
                    gate_up="up_proj", gated=False, shared="shared_experts"),
    routing=SIGMOIDS,
    dense_layers=_any_layers,
    gguf=_GGUF,
)  # fmt: skip

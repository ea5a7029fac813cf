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
from collections.abc import Iterator, Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.gguf_form import ELSEWHERE, GgufForm, Stored, Value, window_keys
from moemerge.families.gguf_rope import Config, proportional_factors
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


def _keys(config: Config) -> Mapping[str, Value | None]:
    full = config["num_global_key_value_heads"] if config["attention_k_eq_v"] else None
    heads = {"sliding_attention": config["num_key_value_heads"]}
    return {
        **window_keys(config),
        "attention.head_count_kv": [heads.get(kind, full or config["num_key_value_heads"])
                                    for kind in config["layer_types"]],
        "attention.key_length": config["global_head_dim"],
        "attention.key_length_swa": config["head_dim"],
        "attention.shared_kv_layers": config["num_kv_shared_layers"],
        "attention.value_length": config["global_head_dim"],
        "attention.value_length_swa": config["head_dim"],
        "embedding_length_per_layer_input": config["hidden_size_per_layer_input"] or 0,
        "feed_forward_length": config["intermediate_size"],
        "final_logit_softcapping": config["final_logit_softcapping"],
        "rope.dimension_count": config["global_head_dim"],
        "rope.dimension_count_swa": config["head_dim"],
        "rope.freq_base_swa": float(config["rope_parameters"]["sliding_attention"]["rope_theta"]),
    }  # fmt: skip


def _no_place(config: Config) -> Iterator[Problem]:
    sliding = config["rope_parameters"]["sliding_attention"]
    if sliding["rope_type"] != "default" or sliding.get("partial_rotary_factor", 1.0) != 1.0:
        message = "llama.cpp's `gemma4` has rope of the type `default` on whole heads in layers with a window"
        yield Problem("rope", message, ELSEWHERE)
    if config["hidden_size_per_layer_input"] and config["vocab_size_per_layer_input"] != config["vocab_size"]:
        message = "llama.cpp's `gemma4` has embeddings for each layer of all tokens, and these are of " \
            f"{config['vocab_size_per_layer_input']:,} of {config['vocab_size']:,}"  # fmt: skip
        yield Problem("per-layer", message, ELSEWHERE)


_GGUF = GgufForm(
    "gemma4",
    names={
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
        "post_feedforward_layernorm": "post_ffw_norm",
        "post_feedforward_layernorm_1": "post_ffw_norm_1",
        "post_feedforward_layernorm_2": "post_ffw_norm_2",
        "router.proj": "ffn_gate_inp",
        "per_layer_input_gate": "inp_gate",
        "per_layer_projection": "proj",
        "post_per_layer_input_norm": "post_norm",
        "model.embed_tokens_per_layer": "per_layer_token_embd",
        "model.per_layer_model_projection": "per_layer_model_proj",
        "model.per_layer_projection_norm": "per_layer_proj_norm",
    },
    made={
        "layer_scalar": (Stored("layer_output_scale.weight"),),
        "router.scale": (Stored("ffn_gate_inp.scale"),),
        # takes back what `down` multiplies by, so that small types hold the experts as they hold others
        "router.per_expert_scale": (Stored("ffn_down_exps.scale", turn=lambda rows, config: rows * DOWN),),
    },
    ropes=frozenset({"proportional"}),
    rope=lambda config: config["rope_parameters"]["full_attention"],
    factors=proportional_factors,
    windows=True,
    activation=("hidden_activation", "gelu_pytorch_tanh"),
    down=1 / DOWN,
    keys=_keys,
    refuse=_no_place,
)

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
    gguf=_GGUF,
)

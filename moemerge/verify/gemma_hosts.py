"""Rows of the hosts of Gemma 3 and 4, some of whose tensors are made of the base's."""

from __future__ import annotations

from collections.abc import Mapping

from moemerge.verify.dense import Dense
from moemerge.verify.host_row import Derived, HostRow, Shape, Zeros
from moemerge.verify.numbers import to_nearest


def _gemma4_derived(dense: Dense) -> tuple[Derived, ...]:
    """Experts and router see the residual through norms of their own; the router's input is divided by sqrt(hidden)."""
    norm = "model.layers.{layer}.pre_feedforward_layernorm"
    return (
        Derived(norm + "_2.weight", norm + ".weight"),
        Derived("model.layers.{layer}.router.scale", norm + ".weight", dense.hidden_size**0.5),
    )


def _open_gate(dense: Dense, experts: int) -> Mapping[str, tuple[Shape, float]]:
    """Beam's gate on attention: sigmoid(30) is 1."""
    heads, size = int(dense.fields["num_attention_heads"]), int(dense.fields["head_dim"])
    prefix = "model.layers.{layer}.self_attn."
    return {
        prefix + "gate_proj.weight": ((heads * size, dense.hidden_size), 0.0),
        prefix + "gate_bias": ((heads,), 30.0),
    }


def _beam_adjusted(dense: Dense, name: str, dtype: str) -> tuple[float, float]:
    """Gemma adds 1 to a norm's weight and multiplies embeddings by sqrt(hidden), as it is in its dtype."""
    if name == "model.embed_tokens.weight":
        return to_nearest(dense.hidden_size**0.5, dtype), 0.0
    if "norm" not in name:
        return 1.0, 0.0
    if "q_norm" in name:
        return float((dense.fields["head_dim"] / dense.values["query_pre_attn_scalar"]) ** 0.5), 1.0
    return 1.0, 1.0


def _gemma4_filled(dense: Dense, experts: int) -> Mapping[str, tuple[Shape, float]]:
    """An FFN of zeros, whose norm may hold anything; and on the experts' way a norm's weight c and a factor s with
    c s = sqrt(eps), so that of two norms one after the other no more than one is felt."""
    hidden, width = dense.hidden_size, 256
    prefix = "model.layers.{layer}."
    return {
        prefix + "mlp.gate_proj.weight": ((width, hidden), 0.0),
        prefix + "mlp.up_proj.weight": ((width, hidden), 0.0),
        prefix + "mlp.down_proj.weight": ((hidden, width), 0.0),
        prefix + "post_feedforward_layernorm_1.weight": ((hidden,), 1.0),
        prefix + "post_feedforward_layernorm_2.weight": ((hidden,), dense.values["rms_norm_eps"] ** 0.5 * 4096),
        prefix + "router.per_expert_scale": ((experts,), 1.0),
    }


GEMMA_HOSTS = (
    HostRow(
        "gemma4_text",
        "Gemma4ForCausalLM",
        router="model.layers.{layer}.router.proj.weight",
        expert=None,
        fixed={"enable_moe_block": True, "use_double_wide_mlp": False, "intermediate_size": 256},
        counts=("num_experts",),
        widths=("moe_intermediate_size",),
        repeated=(
            "global_head_dim", "num_global_key_value_heads", "attention_k_eq_v", "num_kv_shared_layers",
            "hidden_size_per_layer_input", "vocab_size_per_layer_input", "final_logit_softcapping",
            "use_bidirectional_attention",
        ),
        from_base={
            "attention_bias": lambda dense: dense.bias,
            "hidden_activation": lambda dense: dense.values["hidden_act"],
            "layer_types": lambda dense: dense.layer_types,
            "sliding_window": lambda dense: dense.window,
        },
        tops=("top_k_experts",),
        fused=("model.layers.{layer}.experts.gate_up_proj", "model.layers.{layer}.experts.down_proj"),
        lacks=("rope_theta", "rope_scaling"),
        wide=True,
        down=2.0**-12,
        filled=_gemma4_filled,
        derived=_gemma4_derived,
    ),
    HostRow(
        "beam",
        "BeamForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=(
            "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
            "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
            "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
        ),
        fixed={"n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0},
        counts=("num_experts",),
        widths=("intermediate_size", "moe_intermediate_size"),
        repeated=("final_logit_softcapping",),
        from_base={
            "attention_bias": lambda dense: dense.bias,
            "layer_types": lambda dense: dense.layer_types,
            "sliding_window": lambda dense: dense.window,
            "tie_word_embeddings": lambda dense: False,
        },
        kinds=("mlp_layer_types", "dense", "sparse"),
        lacks=("rope_theta", "rope_scaling"),
        correction=Zeros("model.layers.{layer}.mlp.gate.e_score_correction_bias", lambda experts: (experts,)),
        near=True,
        filled=_open_gate,
        derived=lambda dense: (Derived("lm_head.weight", "model.embed_tokens.weight"),) if dense.tied else (),
        adjusted=_beam_adjusted,
    ),
)  # fmt: skip

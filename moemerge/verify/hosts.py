"""What the checker knows of each host: a row of plain data. It is written apart from `families` on purpose.

A host is a mixture-of-experts class of transformers. A mistake in the build's tables is seen only because these are
others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moemerge.verify.dense import Dense
from moemerge.verify.gemma_hosts import GEMMA_HOSTS
from moemerge.verify.host_row import AlwaysOn, FromBase, HostRow, Shape, Silenced, Zeros
from moemerge.verify.hybrid_hosts import HYBRID_HOSTS

_QWEN_EXPERT = (
    "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
    "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
    "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
)
_QWEN_FIXED: Mapping[str, Any] = {"decoder_sparse_step": 1, "norm_topk_prob": True}
_QWEN_DENSE: Mapping[str, Callable[[tuple[int, ...]], Any]] = {"mlp_only_layers": list}

_QWEN_ALWAYS_ON = AlwaysOn(
    (
        "model.layers.{layer}.mlp.shared_expert.gate_proj.weight",
        "model.layers.{layer}.mlp.shared_expert.up_proj.weight",
        "model.layers.{layer}.mlp.shared_expert.down_proj.weight",
    ),
    gate="model.layers.{layer}.mlp.shared_expert_gate.weight",
    width="shared_expert_intermediate_size",
    silent=256,
)


def _added(names: str, count: str | None = None) -> AlwaysOn:
    """An FFN beside the experts that is as wide as they are, and has no gate."""
    gate, up, down = (f"model.layers.{{layer}}.mlp.{names}.{which}_proj.weight" for which in ("gate", "up", "down"))
    return AlwaysOn((gate, up, down), gate=None, width=None, silent=None, count=count)


def _has_head_norms(dense: Dense) -> bool:
    return "self_attn.q_norm" in dense.row.norms


def _whole_rope(dense: Dense) -> dict[str, Any]:
    return {key: value for key, value in dense.rope.items() if key != "partial_rotary_factor"}


def _partial_rope(dense: Dense) -> dict[str, Any]:
    return {**_whole_rope(dense), "partial_rotary_factor": dense.rotated}


def _full_every(dense: Dense) -> list[str]:
    """`layer_types`, or every fourth layer with full attention."""
    every = dense.values["full_attention_interval"]
    usual = ["linear_attention" if number % every else "full_attention" for number in range(1, dense.layers + 1)]
    return list(dense.values.get("layer_types") or usual)


def _first_names(dense: Dense) -> list[str]:
    """`layer_types` of a hybrid by the names that transformers first had for them."""
    first = {"linear_attention": "mamba", "full_attention": "attention"}
    return [first[kind] for kind in dense.values["layer_types"] or ["linear_attention"] * dense.layers]


def _own(key: str, usual: FromBase) -> FromBase:
    """The base's value of a key that its family has, and else the one at which it does nothing."""
    return lambda dense: dense.values[key] if key in dense.row.missing else usual(dense)


_GRANITE: Mapping[str, FromBase] = {
    "attention_multiplier": _own("attention_multiplier", lambda dense: dense.fields["head_dim"] ** -0.5),
    "embedding_multiplier": _own("embedding_multiplier", lambda dense: 1.0),
    "logits_scaling": _own("logits_scaling", lambda dense: 1.0),
    "residual_multiplier": _own("residual_multiplier", lambda dense: 1.0),
    "attention_bias": lambda dense: dense.bias or dense.output_bias,
}
"""What Granite's mixtures compute on top of a Llama."""


def _all_biases_or_none(dense: Dense, experts: int) -> dict[str, tuple[Shape, float]]:
    """Zeros for those of q, k, v and the output that the base has none for, where it has some."""
    sizes = {"q": "num_attention_heads", "k": "num_key_value_heads", "v": "num_key_value_heads"}
    wide = {name: dense.fields[key] * dense.fields["head_dim"] for name, key in sizes.items()}
    missing: dict[str, int] = {}
    if dense.bias and not dense.output_bias:
        missing = {"o": dense.hidden_size}
    if dense.output_bias and not dense.bias:
        missing = wide
    return {f"model.layers.{{layer}}.self_attn.{name}_proj.bias": ((size,), 0.0) for name, size in missing.items()}


def _low_sinks(dense: Dense, experts: int) -> dict[str, tuple[Shape, float]]:
    """A logit that takes no weight from the others, in each head of a base that has none of its own."""
    name = "self_attn.sinks"
    heads = (dense.fields["num_attention_heads"],)
    return {} if name in dense.row.instead else {f"model.layers.{{layer}}.{name}": (heads, -(2.0**15))}


_GRANITE_ROUTER = "model.layers.{layer}.block_sparse_moe.router.layer.weight"
_GRANITE_ROUTER_IN_MEMORY = "model.layers.{layer}.block_sparse_moe.router.weight"
_GRANITE_FUSED = (
    "model.layers.{layer}.block_sparse_moe.input_linear.weight",
    "model.layers.{layer}.block_sparse_moe.output_linear.weight",
)
_GRANITE_FUSED_IN_MEMORY = (
    "model.layers.{layer}.block_sparse_moe.experts.gate_up_proj",
    "model.layers.{layer}.block_sparse_moe.experts.down_proj",
)

_ROWS = (
    HostRow(
        "mixtral",
        "MixtralForCausalLM",
        router="model.layers.{layer}.block_sparse_moe.gate.weight",
        router_in_memory="model.layers.{layer}.mlp.gate.weight",
        expert=(
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
        ),
        fixed={"router_jitter_noise": 0.0},
        counts=("num_local_experts",),
        widths=("intermediate_size",),
        from_base={"sliding_window": lambda dense: dense.window},
    ),
    HostRow(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed=_QWEN_FIXED,
        dense_layers=_QWEN_DENSE,
        counts=("num_experts",),
        widths=("intermediate_size", "moe_intermediate_size"),
        from_base={
            "qkv_bias": lambda dense: dense.bias,
            "sliding_window": lambda dense: dense.window,
            "use_sliding_window": lambda dense: dense.window is not None,
            "layer_types": lambda dense: dense.layer_types,
            "max_window_layers": lambda dense: [*dense.layer_types, "sliding_attention"].index("sliding_attention"),
        },
        always_on=_QWEN_ALWAYS_ON,
    ),
    HostRow(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed=_QWEN_FIXED,
        dense_layers=_QWEN_DENSE,
        counts=("num_experts", "num_local_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        from_base={
            "attention_bias": lambda dense: dense.bias,
            "sliding_window": lambda dense: dense.window,
            "use_sliding_window": lambda dense: dense.window is not None,
            "max_window_layers": lambda dense: dense.layers,
        },
    ),
    HostRow(
        "qwen3_vl_moe_text",
        "Qwen3VLMoeForConditionalGeneration",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=None,
        transposed=True,
        fixed=_QWEN_FIXED,
        dense_layers=_QWEN_DENSE,
        counts=("num_experts", "num_local_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        from_base={"attention_bias": lambda dense: dense.bias},
    ),
    HostRow(
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={},
        counts=("num_experts",),
        widths=("moe_intermediate_size",),
        repeated=(
            "linear_conv_kernel_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_num_key_heads",
            "linear_num_value_heads",
        ),
        from_base={"attention_bias": lambda dense: dense.bias, "layer_types": _full_every},
        always_on=_QWEN_ALWAYS_ON,
    ),
    HostRow(
        "flex_olmo",
        "FlexOlmoForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={"norm_topk_prob": True},
        counts=("num_experts", "num_local_experts"),
        widths=("intermediate_size",),
        from_base={"attention_bias": lambda dense: dense.bias},
    ),
    HostRow(
        "granitemoe",
        "GraniteMoeForCausalLM",
        router=_GRANITE_ROUTER,
        expert=None,
        fixed={},
        counts=("num_local_experts",),
        widths=("intermediate_size",),
        from_base=_GRANITE,
        filled=_all_biases_or_none,
        router_in_memory=_GRANITE_ROUTER_IN_MEMORY,
        fused=_GRANITE_FUSED,
        fused_in_memory=_GRANITE_FUSED_IN_MEMORY,
    ),
    HostRow(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={
            "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0, "n_shared_experts": 1,
            "num_nextn_predict_layers": 0, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
        },
        counts=("n_routed_experts", "num_local_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        repeated=(
            "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rope_interleave",
        ),
        from_base={"attention_bias": lambda dense: dense.bias},
        dense_layers={"first_k_dense_replace": len},
        always_on=_added("shared_experts"),
        correction=Zeros("model.layers.{layer}.mlp.gate.e_score_correction_bias", lambda experts: (experts,)),
    ),
    HostRow(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        router=_GRANITE_ROUTER,
        expert=None,
        fixed={},
        counts=("num_local_experts",),
        widths=("intermediate_size",),
        repeated=(
            "mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_head",
            "mamba_d_conv", "mamba_expand", "mamba_chunk_size", "mamba_conv_bias", "mamba_proj_bias",
        ),
        from_base={
            **_GRANITE,
            "layer_types": _first_names,
            "position_embedding_type": lambda dense: dense.values["position_embedding_type"] or "nope",
        },
        silenced=Silenced(
            both="model.layers.{layer}.shared_mlp.input_linear.weight",
            down="model.layers.{layer}.shared_mlp.output_linear.weight",
            width="shared_intermediate_size",
            most=256,
        ),
        router_in_memory=_GRANITE_ROUTER_IN_MEMORY,
        fused=_GRANITE_FUSED,
        fused_in_memory=_GRANITE_FUSED_IN_MEMORY,
    ),
    HostRow(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={
            "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "norm_topk_prob": True,
            "num_nextn_predict_layers": 0, "routed_scaling_factor": 1.0,
        },
        dense_layers={"first_k_dense_replace": len},
        counts=("n_routed_experts", "num_local_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        from_base={
            "attention_bias": lambda dense: dense.bias,
            "partial_rotary_factor": lambda dense: dense.rotated,
            "rope_parameters": _partial_rope,
            "rope_scaling": lambda dense: {k: v for k, v in _partial_rope(dense).items() if k != "rope_theta"},
            "use_qk_norm": _has_head_norms,
        },
        always_on=_added("shared_experts"),
        correction=Zeros("model.layers.{layer}.mlp.gate.e_score_correction_bias", lambda experts: (experts,)),
    ),
    HostRow(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={
            "moe_layer_interval": 1, "moe_norm_min": 1e-12, "use_bias": False,
        },
        counts=("moe_num_experts", "num_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        dense_layers={"moe_layer_start_index": len},
        tops=("moe_k",),
        from_base={"moe_layer_end_index": lambda dense: dense.layers - 1},
        always_on=_added("shared_experts", "moe_num_shared_experts"),
        correction=Zeros(
            "model.layers.{layer}.mlp.moe_statics.e_score_correction_bias",
            lambda experts: (1, experts),
            in_memory="model.layers.{layer}.mlp.gate.moe_statics.e_score_correction_bias",
        ),
    ),
    HostRow(
        "hunyuan_v1_moe",
        "HunYuanMoEV1ForCausalLM",
        router="model.layers.{layer}.mlp.gate.wg.weight",
        expert=_QWEN_EXPERT,
        fixed={},
        counts=("num_experts", "num_local_experts"),
        widths=("intermediate_size",),
        tops=("moe_topk",),
        from_base={"attention_bias": lambda dense: dense.bias},
        always_on=_added("shared_mlp"),
    ),
    HostRow(
        "mellum",
        "MellumForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={"norm_topk_prob": True},
        counts=("num_experts", "num_local_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        from_base={
            "attention_bias": lambda dense: dense.bias,
            "layer_types": lambda dense: dense.layer_types,
            "rope_parameters": lambda dense: dict.fromkeys(("full_attention", "sliding_attention"), _whole_rope(dense)),
            "sliding_window": lambda dense: dense.window,
        },
        kinds=("mlp_layer_types", "dense", "sparse"),
        lacks=("rope_scaling", "rope_theta"),
    ),
    HostRow(
        "granitemoe_swa",
        "GraniteMoeSWAForCausalLM",
        router=_GRANITE_ROUTER_IN_MEMORY,
        expert=None,
        fixed={"shared_intermediate_size": 0},
        counts=("num_local_experts",),
        widths=("intermediate_size",),
        from_base={
            **_GRANITE,
            "sliding_window": lambda dense: dense.window or dense.fields["max_position_embeddings"],
            "layer_types": lambda dense: dense.layer_types,
            "layer_rope_theta": lambda dense: dense.thetas,
        },
        filled=_low_sinks,
        fused=_GRANITE_FUSED_IN_MEMORY,
    ),
    HostRow(
        "cohere2_moe",
        "Cohere2MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={
            "expert_selection_fn": "softmax", "norm_topk_prob": True, "shared_expert_combination_strategy": "sum",
            "prefix_dense_sliding_window_pattern": 2,
        },
        counts=("num_experts",),
        widths=("intermediate_size", "prefix_dense_intermediate_size"),
        repeated=("layer_norm_eps", "logit_scale"),
        from_base={
            "attention_bias": lambda dense: dense.bias,
            "rms_norm_eps": lambda dense: None,
            "layer_types": lambda dense: dense.layer_types,
            "sliding_window": lambda dense: dense.window or dense.fields["max_position_embeddings"],
        },
        kinds=("mlp_layer_types", "dense", "sparse"),
        always_on=_added("shared_experts", "num_shared_experts"),
    ),
)  # fmt: skip

HOSTS: Mapping[str, HostRow] = {row.model_type: row for row in (*_ROWS, *HYBRID_HOSTS, *GEMMA_HOSTS)}
"""Every host, by its `model_type`."""

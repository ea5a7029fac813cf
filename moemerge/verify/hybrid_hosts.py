"""Rows of hosts that name everything their own way, with Mamba 2 or a convolution in some layers."""

from __future__ import annotations

import re

from moemerge.verify.host_row import AlwaysOn, HostRow, Zeros


def _nemotron_on_disk(name: str) -> str:
    """The decoder is the backbone there, with other names of what lies outside its layers."""
    ends = {"model.embed_tokens.weight": "backbone.embeddings.weight", "model.norm.weight": "backbone.norm_f.weight"}
    return ends.get(name, re.sub(r"^model\.", "backbone.", name))


HYBRID_HOSTS = (
    HostRow(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        router="model.layers.{layer}.feed_forward.gate.weight",
        expert=(
            "model.layers.{layer}.feed_forward.experts.{expert}.w1.weight",
            "model.layers.{layer}.feed_forward.experts.{expert}.w3.weight",
            "model.layers.{layer}.feed_forward.experts.{expert}.w2.weight",
        ),
        fixed={
            "norm_topk_prob": True, "routed_scaling_factor": 1.0, "use_expert_bias": False,
        },
        dense_layers={"num_dense_layers": len},
        counts=("num_experts",),
        widths=("intermediate_size", "moe_intermediate_size"),
        repeated=("conv_bias", "conv_L_cache"),
        from_base={
            "layer_types": lambda dense: dense.values["layer_types"],
            "norm_eps": lambda dense: dense.values["rms_norm_eps"],
        },
        fused=(
            "model.layers.{layer}.feed_forward.experts.gate_up_proj",
            "model.layers.{layer}.feed_forward.experts.down_proj",
        ),
        near=True,
    ),
    HostRow(
        "nemotron_h",
        "NemotronHForCausalLM",
        router="backbone.layers.{layer}.mixer.gate.weight",
        expert=(
            "backbone.layers.{layer}.mixer.experts.{expert}.up_proj.weight",
            "backbone.layers.{layer}.mixer.experts.{expert}.down_proj.weight",
        ),
        fixed={
            "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0, "n_shared_experts": 1,
            "num_nextn_predict_layers": 0, "moe_latent_size": None,
        },
        counts=("n_routed_experts", "num_local_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        repeated=(
            "mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel", "chunk_size",
            "mamba_hidden_act", "time_step_min", "use_bias", "use_conv_bias",
        ),
        from_base={
            "mlp_hidden_act": lambda dense: dense.fields["hidden_act"],
            "layer_norm_epsilon": lambda dense: dense.fields["rms_norm_eps"],
        },
        kinds=("layers_block_type", "mlp", "moe"),
        lacks=("rope_parameters", "rope_theta", "rope_scaling"),
        always_on=AlwaysOn(
            (
                "backbone.layers.{layer}.mixer.shared_experts.up_proj.weight",
                "backbone.layers.{layer}.mixer.shared_experts.down_proj.weight",
            ),
            gate=None,
            width="moe_shared_expert_intermediate_size",
            silent=256,
        ),
        correction=Zeros(
            "backbone.layers.{layer}.mixer.gate.e_score_correction_bias",
            lambda experts: (experts,),
            in_memory="model.layers.{layer}.mixer.gate.e_score_correction_bias",
        ),
        router_in_memory="model.layers.{layer}.mixer.gate.weight",
        fused=("backbone.layers.{layer}.mixer.experts.up_proj", "backbone.layers.{layer}.mixer.experts.down_proj"),
        fused_in_memory=("model.layers.{layer}.mixer.experts.up_proj", "model.layers.{layer}.mixer.experts.down_proj"),
        on_disk=_nemotron_on_disk,
        in_memory=lambda name: re.sub(r"^backbone\.", "model.", name),
    ),
)  # fmt: skip

"""Hosts whose layers are no plain attention: what they have beside the experts is checked as the rest is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.hosts import every
from tests.verify.conftest import Folder, set_value

LAST = 3
"""The byte of an fp32 number that holds most of its exponent."""
DAMAGE: dict[str, tuple[str, ...]] = {
    "granitemoehybrid": (
        "model.layers.0.shared_mlp.output_linear.weight", "model.layers.0.mamba.A_log", "model.layers.0.mamba.D",
        "model.layers.0.mamba.conv1d.bias", "model.layers.0.mamba.norm.weight", "model.layers.0.mamba.in_proj.weight",
        "model.layers.1.block_sparse_moe.input_linear.weight", "model.layers.1.block_sparse_moe.output_linear.weight",
    ),
    "nemotron_h": (
        "backbone.layers.1.mixer.shared_experts.down_proj.weight", "backbone.layers.1.mixer.experts.2.up_proj.weight",
        "backbone.layers.1.mixer.gate.e_score_correction_bias", "backbone.layers.0.mixer.dt_bias",
        "backbone.layers.2.mixer.k_proj.weight", "backbone.layers.2.norm.weight", "backbone.embeddings.weight",
        "backbone.norm_f.weight", "lm_head.weight",
    ),
    "deepseek_v3": (
        "model.layers.0.mlp.shared_experts.down_proj.weight", "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.0.self_attn.q_a_proj.weight", "model.layers.0.self_attn.q_a_layernorm.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "model.layers.1.self_attn.kv_b_proj.weight",
    ),
}  # fmt: skip
KEYS: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {
        "layer_types": ["full_attention"] * 2, "position_embedding_type": "rope", "mamba_d_state": 9,
        "mamba_conv_bias": False, "shared_intermediate_size": 47, "residual_multiplier": 1.0,
    },
    "nemotron_h": {
        "layers_block_type": ["moe"] * 4, "n_groups": 1, "time_step_min": 0.0, "norm_topk_prob": False,
        "layer_norm_epsilon": 0.1, "mlp_hidden_act": "silu", "moe_latent_size": 3,
    },
    "deepseek_v3": {
        "q_lora_rank": None, "rope_interleave": False, "routed_scaling_factor": 2.5, "n_group": 2,
        "first_k_dense_replace": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("host", every(DAMAGE))
def test_every_kind_of_tensor_is_compared(host: str, tampered: Callable[..., Folder]) -> None:
    """The largest bit of one exponent: its source, the merge or the zero is named, not the digest alone."""
    folder = tampered(host)
    assert folder.differences() == []
    for name in DAMAGE[host]:
        folder.flip(name, LAST, 6)
        found = folder.differences()
        assert found
        assert all(said.startswith(f"{name}: ") for said in found), found
        assert not found[0].endswith("its bytes changed after the build"), found
        folder.flip(name, LAST, 6)


@pytest.mark.parametrize("host", every(KEYS))
def test_every_key_of_their_own_is_compared(host: str, tampered: Callable[..., Folder]) -> None:
    """Another value is said, though the record agrees."""
    folder = tampered(host)
    own = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    for key, value in KEYS[host].items():
        assert own[key] != value
        folder.edit("config.json", set_value(key, value=value))
        folder.record_file("config.json")
        assert any(said.startswith(f"config.json: {key}") for said in folder.differences()), key
        folder.edit("config.json", set_value(key, value=own[key]))

"""Tiny, real models for tests: transformers' own classes with seeded random weights and a real tokenizer."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

WORDS = tuple(
    """
    the a of to and in is it for on with as def return if else while print list number sum add minus equals reverse
    function class le la un une est et dans pour avec bonjour monde merci chat chien one two three four five six seven
    eight nine ten hello world code math french general
    """.split()  # noqa: SIM905  # eighty quoted words would read worse
)

DEFAULTS: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write_tokenizer(folder: Path, *, extra: tuple[str, ...] = (), chat: bool = False) -> None:
    """Writes a word-level tokenizer of at most 128 tokens into `folder`, as fast tokenizers are stored."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", "<unk>", *WORDS, *extra]
    words += [chr(c) for c in range(33, 127) if chr(c) not in words]
    vocabulary = {word: index for index, word in enumerate(words[:128])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 256,
    }
    if chat:
        config["chat_template"] = "{% for m in messages %}<s> {{ m['content'] }} </s>{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


FFN = re.compile(r"mlp\.|feed_forward\.|mixer\.(up|down)_proj")
"""What is in the names of FFN matrices, whatever the family."""

_MAMBA = {"mamba_n_heads": 4, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}

_LATENT = {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
           "qk_nope_head_dim": 12, "v_head_dim": 10}  # fmt: skip

OWN: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 8},
    "helium": {"head_dim": 8},
    "seed_oss": {"head_dim": 8},
    "cwm": {"head_dim": 8, "sliding_window": 6, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}},
    "ministral": {"head_dim": 8, "sliding_window": 6},
    "gemma": {"head_dim": 8},
    "cohere": {"logit_scale": 0.7},
    "cohere2": {"sliding_window": 6, "sliding_window_pattern": 2, "logit_scale": 0.7},
    "smollm3": {"no_rope_layer_interval": 2},
    "granite_swa": {
        "sliding_window": 6, "layer_rope_theta": [20000.0, 0, 500.0, 0] * 2, "embedding_multiplier": 6.0,
        "attention_multiplier": 0.25, "residual_multiplier": 0.7, "logits_scaling": 1.5,
    },
    "internlm3": {"head_dim": 8},
    "iquestcoder": {"head_dim": 8},
    "olmo3": {"layer_types": ["full_attention"] * 8},
    "hyperclovax": {"use_post_norm": False, "embedding_multiplier": 6.0, "attention_multiplier": 0.25,
                    "residual_multiplier": 0.7, "logits_scaling": 0.7},
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"] * 4, "num_local_experts": 0,
        "shared_intermediate_size": 48, "embedding_multiplier": 6.0, "attention_multiplier": 0.25,
        "residual_multiplier": 0.7, "logits_scaling": 1.5, **_MAMBA,
    },
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
        "head_dim": 8, "ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 2, "chunk_size": 8,
    },
    "deepseek_v3": {**_LATENT, "first_k_dense_replace": 10, "num_nextn_predict_layers": 0},
    "youtu": {**_LATENT, "initializer_range": 0.02, "tie_word_embeddings": False},
    "bamba": {"attn_layer_indices": [1], "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}, **_MAMBA},
    "qwen3_5_text": {
        "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "full_attention_interval": 2,
    },
    "gemma3_text": {
        "head_dim": 8, "query_pre_attn_scalar": 20, "sliding_window": 6, "final_logit_softcapping": 30.0,
        "layer_types": ["sliding_attention", "full_attention"] * 4,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        },
    },
    "lfm2": {"head_dim": 8, "layer_types": ["conv", "full_attention"] * 4, "block_auto_adjust_ff_dim": False,
             "conv_bias": True},
    "ministral3": {"head_dim": 8, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64,
        "max_position_embeddings": 256, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1}},
    "gemma4_text": {
        "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": True,
        "sliding_window": 6, "final_logit_softcapping": 30.0, "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "glm4_moe": {"first_k_dense_replace": 99, "partial_rotary_factor": 0.5, "attention_bias": True},
    "ernie4_5": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "glm": {"head_dim": 8},
    "granite": {
        "embedding_multiplier": 6.0, "attention_multiplier": 0.25, "residual_multiplier": 0.7, "logits_scaling": 1.5,
    },
}  # fmt: skip
"""What a tiny model of a family has beside: no multiplier is one, so that a forgotten one shows."""


def tiny_config(family: str, **config: Any) -> Any:
    """The transformers config of a tiny dense model of `family`, its `model_type`."""
    from transformers import AutoConfig

    settings = copy.deepcopy(DEFAULTS | OWN.get(family, {}) | config)  # a config writes into its rope
    if "layer_types" in settings:
        settings["layer_types"] = settings["layer_types"][: settings["num_hidden_layers"]]
    return AutoConfig.for_model(family, **settings)


def as_read(raw: dict[str, Any]) -> dict[str, Any]:
    """A raw config as a source's is read: by the keys of the dense family that it counts as."""
    from moemerge.families import TRANSLATIONS

    row = TRANSLATIONS.get(raw["model_type"])
    return raw if row is None else {**row.config({**row.defaults, **raw}), "model_type": row.family_of(raw)}


def tiny_model(
    family: str, folder: Path, *, seed: int = 0, dtype: str = "float32", scale: float = 1.0, **config: Any
) -> Path:
    """Saves a tiny model with seeded random weights and a tokenizer; returns `folder`.

    Norm weights, biases and what begins as zeros are made random too, so that a tensor in the wrong place shows in the
    logits. `scale` multiplies every weight matrix (1.0 keeps transformers' initialisation, which gives nearly flat
    logits).
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
            elif "norm" in name:
                parameter.normal_(1.0, 0.1)
            elif not parameter.any():
                parameter.normal_(0.0, 0.5)
            elif parameter.dim() == 1:  # what a recurrent layer starts at is the same whatever the seed
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            else:
                parameter.mul_(scale)
        for name, buffer in model.state_dict().items():
            if name not in dict(model.named_parameters()) and name != "lm_head.weight":
                buffer.normal_(1.0, 0.1)
    model = model.to(getattr(torch, dtype))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder

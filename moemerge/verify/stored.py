"""What the checker knows of families that are stored otherwise: it sees their checkpoints as those that they equal.

It is written apart from `families` on purpose, as the other rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moemerge.sources import Checkpoint, Piece, View, stored
from moemerge.verify.dense import Dense
from moemerge.verify.wrapped import as_language

Config = dict[str, Any]
_LAYER = "model.layers.{layer}."


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A family that is stored otherwise.

    Attributes:
        model_type: its `model_type`.
        config: makes the raw config of the family that it equals.
        pieces: where the tensors of one layer come from that are not stored as they are, below the layer.
        once: the same for those outside the layers.
        begins: what all names of the decoder's tensors begin with on disk.
    """

    model_type: str
    config: Callable[[Config], Config]
    pieces: Callable[[Dense], Mapping[str, Piece]]
    once: Mapping[str, Piece] = field(default_factory=dict)
    begins: str = "model."


def as_dense(model: Checkpoint) -> Checkpoint:
    """A source as one of the families in `families`; itself where it is one, or none that is known."""
    under = as_language(stored(model))
    row = STORED.get(str(under.config.get("model_type")))
    if row is None:
        return under
    renamed = {"model." + name[len(row.begins) :]: Piece(name) for name in under.tensors if name.startswith(row.begins)}
    if row.begins != "model.":
        under = View(under, under.config, renamed, {piece.of for piece in renamed.values()})
    config = row.config(dict(under.config))
    pieces = dict(row.once) | dict(_everywhere(row, Dense.of(config)))
    return View(under, config, pieces, {piece.of for piece in pieces.values()})


def _everywhere(row: StoredRow, dense: Dense) -> Iterator[tuple[str, Piece]]:
    yield from row.once.items()
    for name, piece in row.pieces(dense).items():
        for layer in range(dense.layers):
            prefix = _LAYER.format(layer=layer)
            yield prefix + name, replace(piece, of=prefix + piece.of)


def _phi3_config(raw: Config) -> Config:
    """Microsoft's 128k models say `su`, later `yarn`, for what is `longrope`; a full rotation need not be said, and a
    partial one is what GLM-4.5's layers do."""
    rope = dict(raw.pop("rope_scaling", None) or raw.pop("rope_parameters", None) or {})
    kind = rope.pop("type", None) if rope.get("rope_type") is None else rope["rope_type"]
    rope.pop("type", None)
    outside = raw.pop("partial_rotary_factor", 1.0)
    share = rope.pop("partial_rotary_factor", outside)
    if kind is not None:
        rope["rope_type"] = {"su": "longrope", "yarn": "longrope"}.get(kind, kind)
    absent = {
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "eos_token_id": 32000, "pad_token_id": 32000, "original_max_position_embeddings": 4096,
        "sliding_window": None, "num_key_value_heads": None, "num_hidden_layers": 32, "num_attention_heads": 32,
        "bos_token_id": 1,
    }  # fmt: skip
    if share in (None, 1.0):
        return {**absent, **raw, "rope_parameters": rope, "model_type": "mistral"}
    rope["partial_rotary_factor"] = share
    return {**absent, **raw, "rope_parameters": rope, "attention_bias": False, "model_type": "glm4_moe"}


def _phi3_pieces(dense: Dense) -> Mapping[str, Piece]:
    """q, then k, then v in one matrix; the first half of the other is the gate."""
    size = int(dense.fields["head_dim"])
    q, kv = int(dense.fields["num_attention_heads"]) * size, int(dense.fields["num_key_value_heads"]) * size
    wide = int(dense.values["intermediate_size"])
    both, fused = "self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"
    return {
        "self_attn.q_proj.weight": Piece(both, 0, q),
        "self_attn.k_proj.weight": Piece(both, q, q + kv),
        "self_attn.v_proj.weight": Piece(both, q + kv, q + 2 * kv),
        "mlp.gate_proj.weight": Piece(fused, 0, wide),
        "mlp.up_proj.weight": Piece(fused, wide, 2 * wide),
    }


def _unpaired(size: int, turned: int) -> tuple[int, ...]:
    """Row i of the rotated half is stored at 2i, its partner at 2i + 1; rows behind them stay."""
    half = turned // 2
    return tuple(row if row >= turned else 2 * (row % half) + row // half for row in range(size))


def _glm_config(raw: Config) -> Config:
    absent = {
        "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128,
        "rms_norm_eps": 1.5625e-7, "pad_token_id": 151329, "attention_bias": True, "intermediate_size": 13696,
    }  # fmt: skip
    ends = raw.get("eos_token_id")
    raw["eos_token_id"] = [151329, 151336, 151338] if ends is None else ends
    return {**absent, **raw, "model_type": "glm4_moe"}


def _glm_pieces(dense: Dense) -> Mapping[str, Piece]:
    """Of the first part of a head dimensions 2i and 2i + 1 rotate together; gate, then up in one matrix."""
    size, wide, fused = int(dense.fields["head_dim"]), int(dense.values["intermediate_size"]), "mlp.gate_up_proj.weight"
    turned = 2 * -(-int(size * dense.rotated) // 2)
    names = [f"self_attn.{which}_proj.{what}" for which in "qk" for what in ("weight", "bias")]
    return {
        **{name: Piece(name, order=_unpaired(size, turned)) for name in names},
        "mlp.gate_proj.weight": Piece(fused, 0, wide),
        "mlp.up_proj.weight": Piece(fused, wide, 2 * wide),
    }


def _arcee_config(raw: Config) -> Config:
    absent = {
        "hidden_size": 2560, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "bos_token_id": 128000,
        "eos_token_id": 128001,
    }  # fmt: skip
    return {**absent, **raw, "hidden_act": "relu", "model_type": "llama"}


def _arcee_pieces(dense: Dense) -> Mapping[str, Piece]:
    """Its FFN is down(relu(up x)²): as a gated one, gate and up are the same matrix."""
    return {name: Piece("mlp.up_proj.weight") for name in ("mlp.gate_proj.weight", "mlp.up_proj.weight")}


def _helium_config(raw: Config) -> Config:
    absent = {
        "vocab_size": 48000, "hidden_size": 2560, "num_hidden_layers": 24, "num_attention_heads": 20,
        "num_key_value_heads": 20, "head_dim": 128, "max_position_embeddings": 4096, "rms_norm_eps": 1e-8,
        "pad_token_id": 3, "rope_theta": 100000.0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return {**absent, **raw, "model_type": "qwen2" if raw.get("attention_bias") else "llama"}


def _helium_pieces(dense: Dense) -> Mapping[str, Piece]:
    """Dimensions 2i and 2i + 1 of a head rotate together, which Llama has at i and i + half."""
    size = int(dense.fields["head_dim"])
    names = [f"self_attn.{which}_proj.{what}" for which in "qk" for what in ("weight", "bias")]
    return {name: Piece(name, order=_unpaired(size, size)) for name in names}


def _granite_config(raw: Config) -> Config:
    """Granite 4's FFN is the shared one of a mixture that has no experts. Older names of its layers are read too."""
    raw.pop("time_step_limit", None)  # none, or it is refused
    today = {"mamba": "linear_attention", "attention": "full_attention"}
    kinds = raw.get("layer_types") or raw.get("layers_block_type")
    rope = "rope" if raw.get("position_embedding_type") == "rope" else None
    return {
        **raw,
        "layer_types": kinds and [today.get(kind, kind) for kind in kinds],
        "intermediate_size": raw.get("shared_intermediate_size", 1024),
        "mamba_d_head": _mamba_head(raw),
        "position_embedding_type": rope,
    }


def _mamba_head(raw: Config) -> int:
    """The inner width is shared out among the heads where none is said."""
    size = raw.get("mamba_d_head", "auto")
    inner = raw.get("mamba_expand", 2) * raw.get("hidden_size", 4096)
    return int(inner // raw.get("mamba_n_heads", 128) if size == "auto" else size)


def _bamba_config(raw: Config) -> Config:
    """Attention in some layers, by their numbers; its scores are scaled as usual.

    Rope turns a part of each head. Stretched over the whole head its base is raised to one over that part.
    """
    absent = {
        "vocab_size": 128000, "intermediate_size": 14336, "max_position_embeddings": 262144, "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    raw.pop("time_step_limit", None)
    values = {**absent, **raw}
    size = values.get("head_dim") or values.get("hidden_size", 4096) // values.get("num_attention_heads", 32)
    layers, full = range(values.get("num_hidden_layers", 32)), values.get("attn_layer_indices") or ()
    rope = dict(values.pop("rope_scaling", None) or values.get("rope_parameters") or {})
    part = int(size * rope.pop("partial_rotary_factor", 0.5))
    if part != size:
        theta = float(rope.get("rope_theta", values.get("rope_theta", 10000.0)))
        rope = {
            "rope_type": "proportional", "rope_theta": theta ** (size / part), "partial_rotary_factor": part / size,
        }  # fmt: skip
    return {
        **values,
        "layer_types": ["full_attention" if layer in full else "linear_attention" for layer in layers],
        "position_embedding_type": "rope",
        "rope_parameters": rope,
        "attention_multiplier": size**-0.5,
        "mamba_d_head": _mamba_head(values),
        "model_type": "granitemoehybrid",
    }


def _bamba_pieces(dense: Dense) -> Mapping[str, Piece]:
    ffn = {f"mlp.{which}_proj.weight": f"feed_forward.{which}_proj.weight" for which in ("gate", "up", "down")}
    renamed = {**ffn, "post_attention_layernorm.weight": "pre_ff_layernorm.weight"}
    found = {name: Piece(of) for name, of in renamed.items()}
    size, share = int(dense.fields["head_dim"]), dense.rope.get("partial_rotary_factor")
    if share is None:
        return found
    half, turned = size // 2, round(size * share) // 2  # row i < half turns with row i + half, for i < turned alone
    stored = [row if row < turned else row + turned for row in range(half)]
    partner = [row + turned if row < turned else row + half for row in range(half)]
    names = [f"self_attn.{which}_proj.{what}" for which in "qk" for what in ("weight", "bias")]
    return {**found, **{name: Piece(name, order=(*stored, *partner)) for name in names}}


def _granite_pieces(dense: Dense) -> Mapping[str, Piece]:
    """The first half of the input map is the gate."""
    wide, both = int(dense.values["intermediate_size"]), "shared_mlp.input_linear.weight"
    return {
        "mlp.gate_proj.weight": Piece(both, 0, wide),
        "mlp.up_proj.weight": Piece(both, wide, 2 * wide),
        "mlp.down_proj.weight": Piece("shared_mlp.output_linear.weight"),
    }


def _hyperclovax_config(raw: Config) -> Config:
    """Its logits are multiplied by what Granite's are divided by; attention is scaled as usual where none is said."""
    size = raw.get("head_dim") or raw.get("hidden_size", 4096) // raw.get("num_attention_heads", 32)
    scale = raw.get("attention_multiplier")
    raw["attention_multiplier"] = size**-0.5 if scale is None else scale
    return {**raw, "logits_scaling": 1.0 / raw.get("logits_scaling", 1.0), "model_type": "granite"}


def _qwen3_vl_config(raw: Config) -> Config:
    """On text it is a Qwen3 without windows."""
    absent = {"max_position_embeddings": 128000, "rope_theta": 500000.0}
    return {**absent, **raw, "use_sliding_window": False, "layer_types": None, "model_type": "qwen3"}


def _gemma_config(raw: Config) -> Config:
    """Embeddings times the root of their size, attention scaled as usual; its tied head is the bare embedding."""
    absent = {
        "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192, "tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": 2,
    }  # fmt: skip
    full = {**absent, **raw, "model_type": "granite"}
    full["hidden_act"] = {"gelu": "gelu_pytorch_tanh"}.get(full["hidden_act"], full["hidden_act"])
    return {
        **full,
        "embedding_multiplier": full["hidden_size"] ** 0.5,
        "attention_multiplier": full["head_dim"] ** -0.5,
    }


_ADDED = ("input_layernorm.weight", "post_attention_layernorm.weight")
"""Gemma's norms within a layer, which it multiplies by one more than what is stored."""


def _gemma_pieces(dense: Dense) -> Mapping[str, Piece]:
    return {name: Piece(name, plus=1.0) for name in _ADDED}


def _olmo3_config(raw: Config) -> Config:
    """Each type of layers has its rope; where all are full, theirs holds."""
    rope = dict((raw.get("rope_parameters") or {}).get("full_attention") or {"rope_type": "default"})
    rope.update(raw.pop("rope_scaling", None) or {})
    absent = {"rope_theta": 500000.0}
    return {**absent, **raw, "rope_parameters": rope, "layer_types": None, "model_type": "olmo2"}


def _internlm3_config(raw: Config) -> Config:
    """Biases have other names too: one for the attention, one for the rest."""
    absent = {
        "vocab_size": 128512, "num_hidden_layers": 48, "num_key_value_heads": 2, "head_dim": 128,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 2, "intermediate_size": 10240,
    }  # fmt: skip
    full = {**absent, **raw, "model_type": "llama"}
    if "qkv_bias" in raw:
        full["attention_bias"] = raw["qkv_bias"]
    return full


def _iquestcoder_config(raw: Config) -> Config:
    absent = {
        "vocab_size": 76800, "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 80,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
    }  # fmt: skip
    return {**absent, **raw, "model_type": "llama"}


def _cohere_config(raw: Config) -> Config:
    """Rope in every layer is what the second Cohere has where there is a window: one of 2^24 tokens bars nothing."""
    layers = raw.get("num_hidden_layers", 40)
    absent = {"rope_theta": 500000.0}
    windows = {"layer_types": ["sliding_attention"] * layers, "sliding_window": 2**24}
    return {**absent, **raw, **windows, "model_type": "cohere2"}


def _youtu_config(raw: Config) -> Config:
    """A DeepSeek-V3 of dense layers alone; its initial spread follows from its width where it is not said."""
    absent = {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 32,
        "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 131072,
        "bos_token_id": 128000, "eos_token_id": 128001, "tie_word_embeddings": True, "initializer_range": None,
    }  # fmt: skip
    values = {**absent, **raw, "model_type": "deepseek_v3"}
    if values["initializer_range"] is None:
        values["initializer_range"] = 2.0 / (5.0 * values["hidden_size"]) ** 0.5
    return {**values, "first_k_dense_replace": values["num_hidden_layers"]}


def _nemotron_config(raw: Config) -> Config:
    """Its FFN's activation and its norms' epsilon have keys of their own; a pattern of letters may say its layers."""
    letters = {"M": "linear_attention", "-": "mlp", "*": "full_attention", "E": "moe"}
    today = {"mamba": "linear_attention", "attention": "full_attention"}
    kinds = raw.get("layers_block_type") or raw.get("layer_types")
    pattern = raw.pop("hybrid_override_pattern", None)
    if kinds is None:
        kinds = [letters[letter] for letter in pattern or ""]
    for old, key in (
        ("mamba_n_groups", "n_groups"), ("mamba_d_conv", "conv_kernel"), ("mamba_dt_min", "time_step_min"),
        ("mamba_conv_bias", "use_conv_bias"), ("mamba_chunk_size", "chunk_size"),
    ):  # fmt: skip
        if old in raw:
            raw[key] = raw.pop(old)
    for key in ("time_step_limit", "mamba_dt_limit", "layer_types"):
        raw.pop(key, None)
    return {
        **raw,
        "layers_block_type": [today.get(kind, kind) for kind in kinds],
        "num_hidden_layers": len(kinds),
        "hidden_act": raw.get("mlp_hidden_act", "relu2"),
        "rms_norm_eps": raw.get("layer_norm_epsilon", 1e-5),
    }


def _no_pieces(dense: Dense) -> Mapping[str, Piece]:
    return {}


def _ministral3_config(raw: Config) -> Config:
    """A Mistral, as long as no query is multiplied by its position."""
    absent = {
        "vocab_size": 131072, "num_hidden_layers": 34, "num_key_value_heads": 8, "head_dim": 128, "pad_token_id": 11,
        "max_position_embeddings": 262144, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
        "sliding_window": None, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
            "max_position_embeddings": 262144, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    }  # fmt: skip
    found = {**absent, **raw, "model_type": "mistral"}
    rope = dict(found.pop("rope_scaling", None) or found["rope_parameters"] or {})
    rope.pop("llama_4_scaling_beta", None)
    return {**found, "rope_parameters": rope}


STORED: Mapping[str, StoredRow] = {
    row.model_type: row
    for row in (
        StoredRow("phi3", _phi3_config, _phi3_pieces),
        StoredRow("glm", _glm_config, _glm_pieces),
        StoredRow("arcee", _arcee_config, _arcee_pieces),
        StoredRow("helium", _helium_config, _helium_pieces),
        StoredRow("granitemoehybrid", _granite_config, _granite_pieces),
        StoredRow("bamba", _bamba_config, _bamba_pieces, {"model.norm.weight": Piece("model.final_layernorm.weight")}),
        StoredRow("ministral3", _ministral3_config, _no_pieces),
        StoredRow("hyperclovax", _hyperclovax_config, _no_pieces),
        StoredRow("qwen3_vl_text", _qwen3_vl_config, _no_pieces),
        StoredRow("gemma", _gemma_config, _gemma_pieces, {"model.norm.weight": Piece("model.norm.weight", plus=1.0)}),
        StoredRow("cohere", _cohere_config, _no_pieces),
        StoredRow("olmo3", _olmo3_config, _no_pieces),
        StoredRow("internlm3", _internlm3_config, _no_pieces),
        StoredRow("iquestcoder", _iquestcoder_config, _no_pieces),
        StoredRow("youtu", _youtu_config, _no_pieces),
        StoredRow(
            "nemotron_h",
            _nemotron_config,
            _no_pieces,
            {
                "model.embed_tokens.weight": Piece("model.embeddings.weight"),
                "model.norm.weight": Piece("model.norm_f.weight"),
            },
            begins="backbone.",
        ),
    )
}
"""Every family that is stored otherwise, by its `model_type`."""

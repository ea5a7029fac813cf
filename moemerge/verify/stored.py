"""What the checker knows of families that are stored otherwise: it sees their checkpoints as those that they equal.

It is written apart from `families` on purpose, as the other rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
    """

    model_type: str
    config: Callable[[Config], Config]
    pieces: Callable[[Dense], Mapping[str, Piece]]
    once: Mapping[str, Piece] = field(default_factory=dict)


def as_dense(model: Checkpoint) -> Checkpoint:
    """A source as one of the families in `families`; itself where it is one, or none that is known."""
    under = as_language(stored(model))
    row = STORED.get(str(under.config.get("model_type")))
    if row is None:
        return under
    config = row.config(dict(under.config))
    pieces = dict(_everywhere(row, Dense.of(config)))
    return View(under, config, pieces, {piece.of for piece in pieces.values()})


def _everywhere(row: StoredRow, dense: Dense) -> Iterator[tuple[str, Piece]]:
    yield from row.once.items()
    for name, piece in row.pieces(dense).items():
        for layer in range(dense.layers):
            prefix = _LAYER.format(layer=layer)
            own = Piece(prefix + piece.of, piece.start, piece.stop, piece.block, piece.rotated, piece.plus)
            yield prefix + name, own


def _phi3_config(raw: Config) -> Config:
    """Microsoft's 128k models say `su`, later `yarn`, for what is `longrope`; a full rotation need not be said."""
    rope = dict(raw.pop("rope_scaling", None) or raw.pop("rope_parameters", None) or {})
    kind = rope.pop("type", None) if rope.get("rope_type") is None else rope["rope_type"]
    rope.pop("type", None)
    rope.pop("partial_rotary_factor", None)
    raw.pop("partial_rotary_factor", None)
    if kind is not None:
        rope["rope_type"] = {"su": "longrope", "yarn": "longrope"}.get(kind, kind)
    absent = {
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "eos_token_id": 32000, "pad_token_id": 32000, "original_max_position_embeddings": 4096,
        "sliding_window": None, "num_key_value_heads": None,
    }  # fmt: skip
    return {**absent, **raw, "rope_parameters": rope, "model_type": "mistral"}


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
        "pad_token_id": 3, "rope_theta": 100000.0,
    }  # fmt: skip
    return {**absent, **raw, "model_type": "llama"}


def _helium_pieces(dense: Dense) -> Mapping[str, Piece]:
    """Dimensions 2i and 2i + 1 of a head rotate together, which Llama has at i and i + half."""
    size = int(dense.fields["head_dim"])
    names = [f"self_attn.{which}_proj.{what}" for which in "qk" for what in ("weight", "bias")]
    return {name: Piece(name, block=size, rotated=size) for name in names}


def _granite_config(raw: Config) -> Config:
    """Granite 4's FFN is the shared one of a mixture that has no experts."""
    width = raw.get("shared_intermediate_size", 1024)
    return {**raw, "layer_types": None, "intermediate_size": width, "model_type": "granite"}


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


def _no_pieces(dense: Dense) -> Mapping[str, Piece]:
    return {}


STORED: Mapping[str, StoredRow] = {
    row.model_type: row
    for row in (
        StoredRow("phi3", _phi3_config, _phi3_pieces),
        StoredRow("arcee", _arcee_config, _arcee_pieces),
        StoredRow("helium", _helium_config, _helium_pieces),
        StoredRow("granitemoehybrid", _granite_config, _granite_pieces),
        StoredRow("hyperclovax", _hyperclovax_config, _no_pieces),
        StoredRow("qwen3_vl_text", _qwen3_vl_config, _no_pieces),
        StoredRow("gemma", _gemma_config, _gemma_pieces, {"model.norm.weight": Piece("model.norm.weight", plus=1.0)}),
        StoredRow("cohere", _cohere_config, _no_pieces),
        StoredRow("olmo3", _olmo3_config, _no_pieces),
        StoredRow("internlm3", _internlm3_config, _no_pieces),
        StoredRow("iquestcoder", _iquestcoder_config, _no_pieces),
    )
}
"""Every family that is stored otherwise, by its `model_type`."""

"""Gemma 4's language model: norms before and after both blocks, windows, and in small ones embeddings for each layer.

Full attention has heads of another size, and its keys may be its values too. The last layers may take keys and values
of earlier ones; these have none of their own, and in some models an FFN twice as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import DenseFamily, LayerTensor, Values, norm, of_kind
from moemerge.families.layer_types import FULL, SLIDING, full_every
from moemerge.families.values import FLAG, Kind, is_number, is_size, is_whole

_KEYS, _VALUES, _INPUTS = "keys", "values", "inputs"
_COUNT: Kind = (lambda value: is_whole(value) and value >= 0, "a whole number of 0 or more")


def _types(values: Values) -> list[str]:
    """`layer_types`, whose last one is always full attention."""
    types = list(map(str, values.get("layer_types") or full_every(6, values["num_hidden_layers"])))
    return [*types[:-1], FULL]


def _takes(values: Values) -> int:
    """The first layer that takes keys and values of earlier ones."""
    return max(int(values["num_hidden_layers"]) - int(values["num_kv_shared_layers"]), 0)


def _kinds(values: Values) -> Sequence[str]:
    found = []
    for layer, kind in enumerate(_types(values)):
        own = layer < _takes(values)
        words = {
            _KEYS: own,
            _VALUES: own and not (values["attention_k_eq_v"] and kind == FULL),
            _INPUTS: bool(values["hidden_size_per_layer_input"]),
        }
        found.append(" ".join([kind, *(word for word, there in words.items() if there)]))
    return found


def _wide(values: Values) -> Sequence[int]:
    twice = values["use_double_wide_mlp"]
    return [2 if twice and layer >= _takes(values) else 1 for layer in range(values["num_hidden_layers"])]


def _unread(values: Values) -> list[str]:
    """Keys and values of layers that take those of others: Google's files have them, and nothing reads them."""
    names = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias", "k_norm.weight")
    layers = range(_takes(values), values["num_hidden_layers"])
    return [f"model.layers.{layer}.self_attn.{name}" for layer in layers for name in names]


def _read(raw: Values) -> Values:
    """transformers 5 writes what full attention has otherwise as `per_layer_config`, layer by layer."""
    found = dict(raw)
    if "hidden_activation" in raw:
        found["hidden_act"] = raw["hidden_activation"]
    if isinstance(raw.get("layer_types"), list) and raw["layer_types"]:
        found["layer_types"] = [*raw["layer_types"][:-1], FULL]
    own = raw.get("per_layer_config")
    if not isinstance(own, Mapping) or not all(isinstance(value, Mapping) for value in own.values()):
        return found
    full = [str(layer) for layer, kind in enumerate(found.get("layer_types") or ()) if kind == FULL]
    first: Mapping[str, Any] = next(iter(own.values()), {})
    alike = set(map(str, own)) == set(full) and all(value == first for value in own.values())
    if alike and set(first) <= {"head_dim", "num_key_value_heads"}:
        del found["per_layer_config"]
        found["global_head_dim"] = first.get("head_dim", raw.get("head_dim"))
        found["num_global_key_value_heads"] = first.get("num_key_value_heads")
    return found


def _full_heads(sizes: Mapping[str, Any]) -> int:
    own = sizes["num_global_key_value_heads"] if sizes["attention_k_eq_v"] else None
    return int(own or sizes["keys"] // sizes["head"])


_NORMS = tuple(norm(name) for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                                       "post_feedforward_layernorm"))  # fmt: skip


def _attention(queries: str, keys: str, head: str) -> tuple[LayerTensor, ...]:
    return (
        LayerTensor("self_attn.q_proj.weight", (queries, "hidden"), "attention"),
        LayerTensor("self_attn.q_proj.bias", (queries,), "attention", "qkv"),
        norm("self_attn.q_norm", head),
        LayerTensor("self_attn.k_proj.weight", (keys, "hidden"), "attention", kind=_KEYS),
        LayerTensor("self_attn.k_proj.bias", (keys,), "attention", "qkv", kind=_KEYS),
        norm("self_attn.k_norm", head, _KEYS),
        LayerTensor("self_attn.v_proj.weight", (keys, "hidden"), "attention", kind=_VALUES),
        LayerTensor("self_attn.v_proj.bias", (keys,), "attention", "qkv", kind=_VALUES),
        LayerTensor("self_attn.o_proj.weight", ("hidden", queries), "attention"),
        LayerTensor("self_attn.o_proj.bias", ("hidden",), "attention", "output"),
    )


FAMILY = DenseFamily(
    model_type="gemma4_text",
    title="Gemma 4, text",
    defaults={"vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
              "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
              "max_position_embeddings": 131072, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
              "tie_word_embeddings": True, "sliding_window": 512, "global_head_dim": 512,
              "num_global_key_value_heads": None, "attention_k_eq_v": False, "num_kv_shared_layers": 0,
              "use_double_wide_mlp": False, "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144,
              "final_logit_softcapping": None, "use_bidirectional_attention": None,
              "enable_moe_block": False,
              "rope_parameters": {
                  SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
                  FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
              }},
    layer=(
        *_NORMS,
        *of_kind(SLIDING, _attention("queries", "keys", "head")),
        *of_kind(FULL, _attention("full queries", "full keys", "full head")),
        LayerTensor("layer_scalar", ("one",), "attention"),
        LayerTensor("per_layer_input_gate.weight", ("input", "hidden"), "attention", kind=_INPUTS),
        LayerTensor("per_layer_projection.weight", ("hidden", "input"), "attention", kind=_INPUTS),
        norm("post_per_layer_input_norm", kind=_INPUTS),
    ),
    once=(
        LayerTensor("model.embed_tokens_per_layer.weight", ("input tokens", "all inputs"), "embeddings", kind=_INPUTS),
        LayerTensor("model.per_layer_model_projection.weight", ("all inputs", "hidden"), "attention", kind=_INPUTS),
        LayerTensor("model.per_layer_projection_norm.weight", ("input",), "norms", kind=_INPUTS),
    ),
    output_bias="attention_bias",
    windows=_types,
    read=_read,
    settings={
        "global_head_dim": (lambda value: is_whole(value) and value > 0, "a positive integer"),
        "num_global_key_value_heads": (is_size, "a positive integer"),
        "attention_k_eq_v": FLAG,
        "num_kv_shared_layers": _COUNT,
        "use_double_wide_mlp": FLAG,
        "hidden_size_per_layer_input": (lambda value: value is None or _COUNT[0](value), _COUNT[1]),
        "vocab_size_per_layer_input": _COUNT,
        "final_logit_softcapping": (lambda value: value is None or (is_number(value) and value > 0),
                                    "a number above 0, or null"),
        "use_bidirectional_attention": (lambda value: value in (None, "vision"),
                                        "null or `vision`: no host lets a token of text see those after it"),
    },
    must={"enable_moe_block": (
        lambda values: not values["enable_moe_block"], "false: with experts it is a mixture already")},
    kinds=_kinds,
    wide=_wide,
    unread=_unread,
    extents={
        "full head": lambda sizes: int(sizes["global_head_dim"]),
        "full queries": lambda sizes: int(sizes["queries"] // sizes["head"] * sizes["global_head_dim"]),
        "full keys": lambda sizes: _full_heads(sizes) * int(sizes["global_head_dim"]),
        "one": lambda sizes: 1,
        "input": lambda sizes: int(sizes["hidden_size_per_layer_input"] or 0),
        "input tokens": lambda sizes: int(sizes["vocab_size_per_layer_input"]),
        "all inputs": lambda sizes: int(sizes["layers"]) * int(sizes["hidden_size_per_layer_input"] or 0),
    },
    anatomy=Anatomy(softcap="final_logit_softcapping"),
)  # fmt: skip

"""Raw configs of families that say things their own way, by the names that most families have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]


def keys_of_takers(config: Values) -> frozenset[str]:
    """The last `num_kv_shared_layers` layers attend to what earlier ones have stored."""
    layers, taking = int(config["num_hidden_layers"]), int(config["num_kv_shared_layers"])
    parts = [f"{name}_{what}" for name in "kv" for what in ("proj.weight", "proj.bias", "norm.weight")]
    return frozenset(f"model.layers.{n}.self_attn.{part}" for n in range(layers - taking, layers) for part in parts)


def gemma3(config: Values) -> Values:
    """Ropes may lie at the top, those of windows and of full attention under two names; a pattern names the windows."""
    found = {**config, "hidden_act": config.get("hidden_activation", "gelu_pytorch_tanh")}
    ropes = dict(found.get("rope_parameters") or {})
    local, far = dict(ropes.get("sliding_attention") or {}), dict(ropes.get("full_attention") or {})
    far |= found.pop("rope_scaling", None) or {}
    for rope, key, theta in ((local, "rope_local_base_freq", 1e4), (far, "rope_theta", 1e6)):
        usual = found.pop(key, theta)
        rope["rope_theta"] = rope.get("rope_theta", usual)
        rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
        rope.pop("type", None)
    found["rope_parameters"] = {"sliding_attention": local, "full_attention": far}
    every = config.get("sliding_window_pattern", 6)
    if not config.get("layer_types"):
        layers = range(1, config.get("num_hidden_layers", 26) + 1)
        found["layer_types"] = ["sliding_attention" if layer % every else "full_attention" for layer in layers]
    return found


def lfm2(config: Values) -> Values:
    """Its epsilon is `norm_eps`; which layers have attention may be said by their numbers."""
    found = {**config, "rms_norm_eps": config.get("norm_eps", 1e-5)}
    if "tie_embedding" in config:
        found["tie_word_embeddings"] = config["tie_embedding"]
    if not config.get("layer_types"):
        layers = range(config.get("num_hidden_layers", 32))
        full = config.get("full_attn_idxs")
        found["layer_types"] = ["full_attention" if full is None or n in full else "conv" for n in layers]
    return found


def gemma4(config: Values) -> Values:
    """What full-attention layers have otherwise may be said once or layer by layer; the last layer is one of them."""
    found = {**config, "hidden_act": config.get("hidden_activation", "gelu_pytorch_tanh")}
    kinds = config.get("layer_types")
    if kinds:
        found["layer_types"] = [*kinds[:-1], "full_attention"]
    for own in (found.pop("per_layer_config", None) or {}).values():
        found["global_head_dim"] = own.get("head_dim", config.get("head_dim", 256))
        found["num_global_key_value_heads"] = own.get("num_key_value_heads")
    return found

"""From llama.cpp's names and metadata to transformers': tensor names and a config for the dense families that are read.

The metadata keys are those of llama.cpp's `convert_hf_to_gguf.py`; the config says what transformers' own GGUF loading
resolves, and beyond that what it passes over: biases, rope scaling, token ids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moemerge.errors import SourceError
from moemerge.families.gguf import CLASSES, model_name
from moemerge.sources.gguf_header import GgufHeader

ROPE_FACTORS = "rope_freqs.weight"
_IGNORED = re.compile(r"blk\.\d+\.attn_rot_embd(\.weight)?")
"""Rotary frequencies that very old files store though they follow from the config."""


def model_names(header: GgufHeader, spec: str) -> dict[str, str]:
    """transformers' name to GGUF name, for every tensor but those that become config.

    Raises:
        SourceError: tensors that have no place in a dense model.
    """
    names: dict[str, str] = {}
    unknown = []
    for name in header.tensors:
        if name == ROPE_FACTORS or _IGNORED.fullmatch(name):
            continue
        ours = model_name(name)
        if ours is None:
            unknown.append(name)
        else:
            names[ours] = name
    if unknown:
        shown = ", ".join(f"`{name}`" for name in unknown[:6])
        raise SourceError(f"Model `{spec}` holds {len(unknown)} tensors that a dense model has no place for: {shown}")
    return names


def architecture_of(header: GgufHeader, spec: str) -> str:
    """The GGUF architecture.

    Raises:
        SourceError: one that is not read, a split file, or a mixture of experts.
    """
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if metadata.get("split.count", 1) not in (0, 1):
        raise SourceError(
            f"Model `{spec}` is one of {metadata['split.count']} parts of a split GGUF file",
            hint="join them: `llama-gguf-split --merge FIRST_PART OUT.gguf`",
        )
    if architecture not in CLASSES:
        raise SourceError(
            f"Model `{spec}` has the GGUF architecture `{architecture}`; {', '.join(f'`{name}`' for name in CLASSES)} "
            "can be read",
            hint="use the model's safetensors checkpoint",
        )
    if metadata.get(f"{architecture}.expert_count"):
        raise SourceError(f"Model `{spec}` is a mixture of experts already, not a dense model")
    return str(architecture)


def config_of(header: GgufHeader, spec: str, rope_factors: Callable[[], Sequence[float]]) -> dict[str, Any]:
    """The config of a GGUF file's model.

    Args:
        header: the file's.
        spec: for messages.
        rope_factors: reads the `rope_freqs.weight` tensor; called where there is one.

    Raises:
        SourceError: a key that is missing or not a number, or a rope that no config can say.
    """
    architecture = architecture_of(header, spec)
    read = _Metadata(header.metadata, architecture, spec)
    model_type, model_class = CLASSES[architecture]
    window = header.metadata.get(f"{architecture}.attention.sliding_window")
    if architecture == "llama" and (window or header.metadata.get("general.name") == "mistral"):
        model_type, model_class = "mistral", "MistralForCausalLM"
    elif window:
        raise SourceError(f"Model `{spec}` has a sliding window, which cannot be read from GGUF for `{architecture}`")
    hidden, heads = read.count("embedding_length"), read.count("attention.head_count")
    head = read.count("attention.key_length", read.count("rope.dimension_count", hidden // heads))
    config: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [model_class],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": read.count("feed_forward_length"),
        "num_hidden_layers": read.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": read.count("attention.head_count_kv", heads),
        "max_position_embeddings": read.count("context_length"),
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": read.count("vocab_size", len(header.metadata.get("tokenizer.ggml.tokens", ()))),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    if model_type != "qwen2" or head != hidden // heads:  # Qwen2's config has no such field
        config["head_dim"] = head
    if model_type == "mistral":
        config["sliding_window"] = window or None
    if model_type in ("llama", "qwen3"):
        config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    if model_type == "llama":
        config["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    config["rope_parameters"] = _rope(header, read, head, spec, rope_factors)
    for key, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token = header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None:
            config[f"{key}_token_id"] = token
    return config


class _Metadata:
    """Metadata of one architecture, checked as it is taken."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str, spec: str) -> None:
        self.metadata, self.architecture, self.spec = metadata, architecture, spec

    def number(self, key: str, default: float | None = None) -> float:
        name = f"{self.architecture}.{key}"
        value = self.metadata.get(name, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            what = "lacks" if value is None else "has no single number for"
            raise SourceError(f"Model `{self.spec}` {what} the metadata key `{name}`")
        number: float = value
        return number

    def count(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if type(value) is not int or value < 1:
            raise SourceError(f"Model `{self.spec}` has `{self.architecture}.{key}` = {value}, which is not a count")
        return value


def _rope(
    header: GgufHeader, read: _Metadata, head: int, spec: str, rope_factors: Callable[[], Sequence[float]]
) -> dict[str, Any]:
    theta = float(read.number("rope.freq_base", 10_000.0))
    scaling = header.metadata.get(f"{read.architecture}.rope.scaling.type", "none")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if f"{read.architecture}.rope.scale_linear" in header.metadata:
        rope |= {"rope_type": "linear", "factor": float(read.number("rope.scale_linear"))}
    if scaling == "linear":
        rope |= {"rope_type": "linear", "factor": float(read.number("rope.scaling.factor"))}
    elif scaling == "yarn":
        rope |= {
            "rope_type": "yarn",
            "factor": float(read.number("rope.scaling.factor")),
            "original_max_position_embeddings": read.count("rope.scaling.original_context_length"),
        }
    elif scaling != "none":
        raise SourceError(f"Model `{spec}` has the rope scaling `{scaling}`, which cannot be read from GGUF")
    if ROPE_FACTORS in header.tensors:
        factors = rope_factors()
        llama3 = _llama3(factors, theta, head)
        if llama3 is None or rope["rope_type"] != "default":
            raise SourceError(
                f"Model `{spec}` scales its rope by a tensor (`{ROPE_FACTORS}`) that no config can say",
                hint="use the model's safetensors checkpoint",
            )
        rope |= llama3
    return rope


def _llama3(factors: Sequence[float], theta: float, head: int) -> dict[str, Any] | None:
    """Llama 3's rope settings where they give these factors: llama.cpp stores the factors and drops the settings."""
    if all(value == 1.0 for value in factors):
        return {}
    factor, low, high, context = max(factors), 1.0, 4.0, 8192
    expected = []
    for index in range(head // 2):
        length = 2 * math.pi * theta ** (2 * index / head)
        smooth = (context / length - low) / (high - low)
        inside = 1 / ((1 - smooth) / factor + smooth)
        expected.append(1.0 if length < context / high else factor if length > context / low else inside)
    if len(factors) != len(expected) or any(
        not math.isclose(have, want, rel_tol=1e-4) for have, want in zip(factors, expected, strict=True)
    ):
        return None
    return {
        "rope_type": "llama3",
        "factor": float(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }

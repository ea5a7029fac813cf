"""Layers of Mamba 2, as llama.cpp stores them."""

from __future__ import annotations

from collections.abc import Mapping

from moemerge.families.gguf_form import Stored, Value, minus_exp, squeezed
from moemerge.families.gguf_rope import Config


def mamba2_made(place: str, groups: str) -> Mapping[str, tuple[Stored, ...]]:
    """Its tensors.

    Args:
        place: where it lies in a layer.
        groups: the config's key of how many parts of the inner width are normalised apart.
    """

    def grouped(config: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (config[groups], shape[0] // config[groups])

    def column(config: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape, 1)

    return {
        f"{place}.A_log": (Stored("ssm_a", turn=minus_exp, shape=column),),
        f"{place}.D": (Stored("ssm_d", shape=column),),
        f"{place}.conv1d.weight": (Stored("ssm_conv1d.weight", shape=squeezed),),
        f"{place}.conv1d.bias": (Stored("ssm_conv1d.bias"),),
        f"{place}.dt_bias": (Stored("ssm_dt.bias"),),
        f"{place}.in_proj.weight": (Stored("ssm_in.weight"),),
        f"{place}.norm.weight": (Stored("ssm_norm.weight", shape=grouped),),
        f"{place}.out_proj.weight": (Stored("ssm_out.weight"),),
    }


def mamba2_keys(
    config: Config, inner: int, kinds: str, heads: str, groups: str, state: str, kernel: str
) -> Mapping[str, Value]:
    """Its sizes, and in which layers there is attention.

    Args:
        config: the language model's.
        inner: the inner width.
        kinds: the config's key of what each layer is; the others likewise.
        heads: of its number of heads.
        groups: of the groups of its state.
        state: of the state's size.
        kernel: of how many tokens its convolution sees.
    """
    return {
        "ssm.conv_kernel": config[kernel],
        "ssm.inner_size": inner,
        "ssm.state_size": config[state],
        "ssm.group_count": config[groups],
        "ssm.time_step_rank": config[heads],
        "attention.head_count_kv": [
            config["num_key_value_heads"] if kind == "full_attention" else 0 for kind in config[kinds]
        ],
    }

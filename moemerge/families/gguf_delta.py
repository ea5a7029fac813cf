"""Layers of linear attention by the gated delta rule (Qwen3.5), as llama.cpp stores them.

Where there are more heads of values than of keys, r of them belong to each key. transformers has those of one key side
by side, and llama.cpp the first ones of all keys, then the second ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moemerge.families.gguf_form import Stored, Value, minus_exp, squeezed
from moemerge.families.gguf_rope import Config

Rows = Callable[[Config, int], Sequence[range]]


def _values(config: Config) -> int:
    return int(config["linear_num_value_heads"] * config["linear_value_head_dim"])


def _heads(config: Config, size: int, before: int = 0) -> list[range]:
    """The values' heads of `size` rows each in llama.cpp's order, after rows that stay where they are."""
    keys = config["linear_num_key_heads"]
    each = config["linear_num_value_heads"] // keys
    order = [key * each + one for one in range(each) for key in range(keys)]
    kept = [range(before)] if before else []
    return kept + [range(before + head * size, before + (head + 1) * size) for head in order]


def _of_values(config: Config, rows: int) -> list[range]:
    return _heads(config, config["linear_value_head_dim"])


def _after_keys(config: Config, rows: int) -> list[range]:
    return _heads(config, config["linear_value_head_dim"], rows - _values(config))


def _one_a_head(config: Config, rows: int) -> list[range]:
    return _heads(config, 1)


def _columns(rows: Any, config: Config) -> Any:
    return rows[:, [column for head in _of_values(config, 0) for column in head]]


PLACE = "linear_attn"
NAMES: Mapping[str, str] = {f"{PLACE}.norm": "ssm_norm"}
"""What is stored as it is."""
MADE: Mapping[str, tuple[Stored, ...]] = {
    f"{PLACE}.in_proj_qkv.weight": (Stored("attn_qkv.weight", _after_keys),),
    f"{PLACE}.in_proj_z.weight": (Stored("attn_gate.weight", _of_values),),
    f"{PLACE}.in_proj_a.weight": (Stored("ssm_alpha.weight", _one_a_head),),
    f"{PLACE}.in_proj_b.weight": (Stored("ssm_beta.weight", _one_a_head),),
    f"{PLACE}.A_log": (Stored("ssm_a", _one_a_head, turn=minus_exp),),
    f"{PLACE}.dt_bias": (Stored("ssm_dt.bias", _one_a_head),),
    f"{PLACE}.conv1d.weight": (Stored("ssm_conv1d.weight", _after_keys, shape=squeezed),),
    f"{PLACE}.out_proj.weight": (Stored("ssm_out.weight", turn=_columns),),
}
"""What is not."""


def keys(config: Config) -> Mapping[str, Value]:
    """Their sizes."""
    return {
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.inner_size": _values(config),
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.time_step_rank": config["linear_num_value_heads"],
        "ssm.group_count": config["linear_num_key_heads"],
        "attention.recurrent_layers": [kind == "linear_attention" for kind in config["layer_types"]],
    }

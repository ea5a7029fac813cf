"""What the checker knows of each host: a row of plain data. It is written apart from `families` on purpose.

A host is a mixture-of-experts class of transformers. A mistake in the build's tables is seen only because these are
others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moemerge.verify.dense import Dense

Shape = tuple[int, ...]
COUNTED = ".num_batches_tracked"
"""What the names of batch norms' counts end in."""

FromBase = Callable[[Dense], Any]
"""The value of a config's key, by the base's architecture."""


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """An FFN beside the experts, which every token passes through, times the sigmoid of its gate.

    Attributes:
        matrices: names of its gate and up `[W, hidden]` and down `[hidden, W]`, with `{layer}`.
        gate: name of the `[1, hidden]` gate on its output, with `{layer}`.
        width: the config's key of W.
        silent: W where the recipe names none and it says nothing (never wider than an expert).
    """

    matrices: tuple[str, str, str]
    gate: str
    width: str
    silent: int

    def names(self, layer: int) -> tuple[str, str, str, str]:
        """One layer's gate, up, down, and the gate on the output."""
        gate, up, down, out = (name.format(layer=layer) for name in (*self.matrices, self.gate))
        return gate, up, down, out


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host.

    Attributes:
        model_type: its `model_type`, which is also the record's `architecture`.
        class_name: the class that transformers builds from the config.
        router: the router's `[E, hidden]` weight on disk, with `{layer}`.
        expert: one expert's gate and up `[I, hidden]` and down `[hidden, I]` on disk, with `{layer}` and `{expert}`;
            None where they are always fused.
        fixed: keys of the config that have one value in every folder, those that say how tokens are routed among them.
        counts: keys that hold E.
        widths: keys that hold I.
        repeated: keys that repeat the base's value, beside those that every host repeats.
        from_base: keys that follow from the base in another way, beside those that every host has.
        always_on: the FFN beside the experts, where the class has one.
        added: tensors of a layer that the class has and no source: shape and the one value of all elements, by the
            name on disk, given the base and the layer.
        auto_class: the Auto class of transformers that loads it.
        router_in_memory: the router's weight in the class, with `{layer}`.
        fused: the experts on disk in the fused layout, with `{layer}`: `[E, 2I, hidden]` (gate rows before up rows) and
            `[E, hidden, I]`.
        fused_in_memory: the same in the class, where it has other names.
        on_disk: the name on disk of a tensor that the dense model calls so.
        in_memory: the name in the class of another tensor on disk.
    """

    model_type: str
    class_name: str
    router: str
    expert: tuple[str, str, str] | None
    fixed: Mapping[str, Any]
    counts: tuple[str, ...]
    widths: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    from_base: Mapping[str, FromBase] = field(default_factory=dict)
    always_on: AlwaysOn | None = None
    added: Callable[[Dense, int], Mapping[str, tuple[Shape, float]]] = lambda dense, layer: {}
    auto_class: str = "AutoModelForCausalLM"
    router_in_memory: str = "model.layers.{layer}.mlp.gate.weight"
    fused: tuple[str, str] = (
        "model.layers.{layer}.mlp.experts.gate_up_proj",
        "model.layers.{layer}.mlp.experts.down_proj",
    )

    fused_in_memory: tuple[str, str] | None = None
    on_disk: Callable[[str], str] = str
    in_memory: Callable[[str], str] = str

    def own_dtype(self, name: str) -> str | None:
        """The dtype of a tensor on disk, where the class keeps it in one of its own: a batch norm's count."""
        return "I64" if name.endswith(COUNTED) else None

    def router_of(self, layer: int) -> str:
        """One layer's router."""
        return self.router.format(layer=layer)

    def expert_of(self, layer: int, expert: int) -> tuple[str, str, str]:
        """One expert's gate, up and down, where they are not fused."""
        gate, up, down = (name.format(layer=layer, expert=expert) for name in self.expert or ())
        return gate, up, down

    def fused_of(self, layer: int) -> tuple[str, str]:
        """One layer's experts in one: gate with up, and down."""
        gate_up, down = (name.format(layer=layer) for name in self.fused)
        return gate_up, down


_QWEN_EXPERT = (
    "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
    "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
    "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
)
_QWEN_FIXED: Mapping[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}

_QWEN_ALWAYS_ON = AlwaysOn(
    (
        "model.layers.{layer}.mlp.shared_expert.gate_proj.weight",
        "model.layers.{layer}.mlp.shared_expert.up_proj.weight",
        "model.layers.{layer}.mlp.shared_expert.down_proj.weight",
    ),
    gate="model.layers.{layer}.mlp.shared_expert_gate.weight",
    width="shared_expert_intermediate_size",
    silent=256,
)


def _full_every(dense: Dense) -> list[str]:
    """`layer_types`, or every fourth layer with full attention."""
    every = dense.values["full_attention_interval"]
    usual = ["linear_attention" if number % every else "full_attention" for number in range(1, dense.layers + 1)]
    return list(dense.values.get("layer_types") or usual)


def _own(key: str, usual: FromBase) -> FromBase:
    """The base's value of a key that its family has, and else the one at which it does nothing."""
    return lambda dense: dense.values[key] if key in dense.row.missing else usual(dense)


_GRANITE: Mapping[str, FromBase] = {
    "attention_multiplier": _own("attention_multiplier", lambda dense: dense.fields["head_dim"] ** -0.5),
    "embedding_multiplier": _own("embedding_multiplier", lambda dense: 1.0),
    "logits_scaling": _own("logits_scaling", lambda dense: 1.0),
    "residual_multiplier": _own("residual_multiplier", lambda dense: 1.0),
    "attention_bias": lambda dense: dense.bias or dense.output_bias,
}
"""What Granite's mixtures compute on top of a Llama."""


def _all_biases_or_none(dense: Dense, layer: int) -> dict[str, tuple[Shape, float]]:
    """Zeros for those of q, k, v and the output that the base has none for, where it has some."""
    sizes = {"q": "num_attention_heads", "k": "num_key_value_heads", "v": "num_key_value_heads"}
    wide = {name: dense.fields[key] * dense.fields["head_dim"] for name, key in sizes.items()}
    missing: dict[str, int] = {}
    if dense.bias and not dense.output_bias:
        missing = {"o": dense.hidden_size}
    if dense.output_bias and not dense.bias:
        missing = wide
    return {f"model.layers.{layer}.self_attn.{name}_proj.bias": ((size,), 0.0) for name, size in missing.items()}


def _low_sinks(dense: Dense, layer: int) -> dict[str, tuple[Shape, float]]:
    """A logit that takes no weight from the others, in each head of a base that has none of its own."""
    name = "self_attn.sinks"
    heads = (dense.fields["num_attention_heads"],)
    return {} if name in dense.row.instead else {f"model.layers.{layer}.{name}": (heads, -(2.0**15))}


_ROWS = (
    HostRow(
        "mixtral",
        "MixtralForCausalLM",
        router="model.layers.{layer}.block_sparse_moe.gate.weight",
        expert=(
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
        ),
        fixed={"router_jitter_noise": 0.0},
        counts=("num_local_experts",),
        widths=("intermediate_size",),
        from_base={"sliding_window": lambda dense: dense.window},
    ),
    HostRow(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed=_QWEN_FIXED,
        counts=("num_experts",),
        widths=("intermediate_size", "moe_intermediate_size"),
        from_base={
            "qkv_bias": lambda dense: dense.bias,
            "sliding_window": lambda dense: dense.window,
            "use_sliding_window": lambda dense: dense.window is not None,
            "layer_types": lambda dense: dense.layer_types,
            "max_window_layers": lambda dense: [*dense.layer_types, "sliding_attention"].index("sliding_attention"),
        },
        always_on=_QWEN_ALWAYS_ON,
    ),
    HostRow(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed=_QWEN_FIXED,
        counts=("num_experts", "num_local_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        from_base={
            "attention_bias": lambda dense: dense.bias,
            "sliding_window": lambda dense: dense.window,
            "use_sliding_window": lambda dense: dense.window is not None,
            "max_window_layers": lambda dense: dense.layers,
        },
    ),
    HostRow(
        "qwen3_vl_moe_text",
        "Qwen3VLMoeForConditionalGeneration",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=None,
        fixed={"decoder_sparse_step": 1, "mlp_only_layers": []},
        counts=("num_experts", "num_local_experts"),
        widths=("intermediate_size", "moe_intermediate_size"),
        from_base={"attention_bias": lambda dense: dense.bias},
    ),
    HostRow(
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={},
        counts=("num_experts",),
        widths=("moe_intermediate_size",),
        repeated=(
            "linear_conv_kernel_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_num_key_heads",
            "linear_num_value_heads",
        ),
        from_base={"attention_bias": lambda dense: dense.bias, "layer_types": _full_every},
        always_on=_QWEN_ALWAYS_ON,
    ),
    HostRow(
        "flex_olmo",
        "FlexOlmoForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={"norm_topk_prob": True},
        counts=("num_experts", "num_local_experts"),
        widths=("intermediate_size",),
        from_base={"attention_bias": lambda dense: dense.bias},
    ),
    HostRow(
        "granitemoe",
        "GraniteMoeForCausalLM",
        router="model.layers.{layer}.block_sparse_moe.router.layer.weight",
        expert=None,
        fixed={},
        counts=("num_local_experts",),
        widths=("intermediate_size",),
        from_base=_GRANITE,
        added=_all_biases_or_none,
        router_in_memory="model.layers.{layer}.block_sparse_moe.router.weight",
        fused=(
            "model.layers.{layer}.block_sparse_moe.input_linear.weight",
            "model.layers.{layer}.block_sparse_moe.output_linear.weight",
        ),
        fused_in_memory=(
            "model.layers.{layer}.block_sparse_moe.experts.gate_up_proj",
            "model.layers.{layer}.block_sparse_moe.experts.down_proj",
        ),
    ),
    HostRow(
        "granitemoe_swa",
        "GraniteMoeSWAForCausalLM",
        router="model.layers.{layer}.block_sparse_moe.router.weight",
        expert=None,
        fixed={"shared_intermediate_size": 0},
        counts=("num_local_experts",),
        widths=("intermediate_size",),
        from_base={
            **_GRANITE,
            "sliding_window": lambda dense: dense.window or dense.fields["max_position_embeddings"],
            "layer_types": lambda dense: dense.layer_types,
            "layer_rope_theta": lambda dense: dense.thetas,
        },
        added=_low_sinks,
        router_in_memory="model.layers.{layer}.block_sparse_moe.router.weight",
        fused=(
            "model.layers.{layer}.block_sparse_moe.experts.gate_up_proj",
            "model.layers.{layer}.block_sparse_moe.experts.down_proj",
        ),
    ),
    HostRow(
        "cohere2_moe",
        "Cohere2MoeForCausalLM",
        router="model.layers.{layer}.mlp.gate.weight",
        expert=_QWEN_EXPERT,
        fixed={
            "expert_selection_fn": "softmax", "norm_topk_prob": True, "num_shared_experts": 0,
        },
        counts=("num_experts",),
        widths=("intermediate_size",),
        repeated=("layer_norm_eps", "logit_scale"),
        from_base={
            "attention_bias": lambda dense: dense.bias,
            "rms_norm_eps": lambda dense: None,
            "layer_types": lambda dense: dense.layer_types,
            "mlp_layer_types": lambda dense: ["sparse"] * dense.layers,
            "sliding_window": lambda dense: dense.window or dense.fields["max_position_embeddings"],
        },
    ),
)  # fmt: skip

HOSTS: Mapping[str, HostRow] = {row.model_type: row for row in _ROWS}
"""Every host, by its `model_type`."""

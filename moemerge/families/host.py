"""A host: a mixture-of-experts class that transformers ships, and how a dense model goes into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_family import PROJECTIONS, Group, Projection
from moemerge.families.gguf_form import GgufForm
from moemerge.families.routing import Routing

ROUTED = re.compile(r"\.experts\.")
"""What the names of routed experts' tensors have in common, in both layouts and most families."""


def expert_counts(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """E and k in a mixture's `config.json`, by the keys that transformers' classes use; None where there is none."""

    def first(*keys: str) -> int | None:
        return next((config[key] for key in keys if isinstance(config.get(key), int)), None)

    return (
        first("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
        first("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"),
    )


Layout = Literal["per_expert", "fused"]


EXPERT: Mapping[Projection, str] = {
    "gate": "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
    "up": "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
    "down": "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
}
"""One expert's matrices as most classes store them."""

FUSED: Mapping[str, str] = {
    "gate_up": "model.layers.{layer}.mlp.experts.gate_up_proj",
    "down": "model.layers.{layer}.mlp.experts.down_proj",
}
"""All experts of a layer in one, likewise."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that the host needs and no source has.

    Attributes:
        name: on disk.
        shape: its shape.
        value: of every element.
        dtype: safetensors' name of its own one, for a class that keeps it so (a router's correction in `F32`); None is
            the output's.
        group: what it belongs to.
    """

    name: str
    shape: tuple[int, ...]
    value: float
    dtype: str | None = None
    group: Group = "shared_expert"


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor of the host that is made of one of the dense model's: `times · (values + plus)`.

    `rounded` says that the dense class rounds `times` to its dtype before it multiplies.
    """

    name: str
    times: float = 1.0
    plus: float = 0.0
    rounded: bool = False


def _same(dense: DenseConfig, name: str) -> tuple[Made, ...]:
    return (Made(name),)


def _nothing(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    return iter(())


def _rope(dense: DenseConfig) -> dict[str, Any]:
    return dict(dense.rope)


@dataclass(frozen=True, slots=True)
class Host:
    """Everything that building into one host class needs to know, as data.

    Attributes:
        model_type: the host's `model_type`; also the name in the recipe's `architecture`.
        architecture: class name for `architectures` in the config.
        holds: what it can hold, in words, for the documents.
        fits: dense families that it can hold, subject to `refuse`.
        gate: on-disk name of the router's `[E, hidden]` weight, with `{layer}`.
        expert: on-disk names of one expert's matrices, with `{layer}` and `{expert}`; None where the class reads the
            fused ones alone.
        fused: on-disk names of all experts of a layer in one, `gate_up` `[E, 2I, H]` (gate rows first; of experts
            without a gate their ups, `[E, I, H]`) and `down` `[E, H, I]`, with `{layer}`: those that the class's own
            `save_pretrained` writes, where they are fused.
        transposed: whether each expert lies transposed in these on disk, `gate_up` `[E, H, 2I]` and `down` `[E, I, H]`.
        config: the host's own config keys, given the dense model, E and k; the common ones come from `host_config`.
        refuse: reasons why this dense model does not fit exactly.
        made: what becomes of a tensor that is not an FFN matrix, by its name in the dense model: first what takes its
            place, then what else is made of it. `stored` gives the names on disk.
        down: a power of two that the experts' `down` is multiplied by.
        shared_expert: on-disk names of the always-on expert's matrices, or None where there is no place for one.
        shared_gate: on-disk name of the shared expert's `[1, hidden]` gate; None where it is added as it is.
        shared_config: config keys where the recipe names a shared expert, given the dense model.
        silent: tensors of a shared expert that says nothing, where the recipe names none, given the dense model, E and
            the layer.
        constants: tensors that silence what else the host has and the dense model has not, likewise.
        rope: its `rope_parameters`, given the dense model.
        lacks: common keys that its config does not have: rope where there is none, or transformers 4's names of it.
        attention: on-disk name of one of the attention's weights, with `{layer}` and `{projection}`.
        wrapper: the `model_type` of the wrapper that it lies within, if it does.
        stored: the name on disk of a tensor of this name in `made`; the same, but within a wrapper.
        anatomy: where its parts lie in memory.
        routing: its rule.
        auto_class: the class of transformers that loads it.
        alone: whether it is a model by itself; a class that is only the language model within a wrapper is none.
        task: the hub's name of what it does.
        dense_layers: what else the config says where some layers (`dense.kept`) keep their FFN and have no router, or
            why it cannot be so; None where every layer routes. Their FFNs have the names of `stored`.
        gguf: how llama.cpp stores it; None where it is not exported.
        near: where it is a near miss, the law of its error in a sentence; None where it is exact.
    """

    model_type: str
    architecture: str
    holds: str
    fits: tuple[str, ...]
    gate: str
    expert: Mapping[Projection, str] | None
    fused: Mapping[str, str]
    config: Callable[[DenseConfig, int, int], dict[str, Any]]
    refuse: Callable[[DenseConfig], list[Problem]] = lambda dense: []
    made: Callable[[DenseConfig, str], tuple[Made, ...]] = _same
    down: float = 1.0
    shared_expert: Mapping[Projection, str] | None = None
    shared_gate: str | None = None
    shared_config: Callable[[DenseConfig], Mapping[str, Any]] = lambda dense: {}
    silent: Callable[[DenseConfig, int, int], Iterator[Constant]] = _nothing
    constants: Callable[[DenseConfig, int, int], Iterator[Constant]] = _nothing
    rope: Callable[[DenseConfig], dict[str, Any]] = _rope
    lacks: tuple[str, ...] = ()
    attention: str = "model.layers.{layer}.self_attn.{projection}.weight"
    wrapper: str | None = None
    stored: Callable[[str], str] = str
    anatomy: Anatomy = field(default_factory=Anatomy)
    routing: Routing = field(default_factory=Routing)
    auto_class: str = "AutoModelForCausalLM"
    alone: bool = True
    task: str = "text-generation"
    dense_layers: Callable[[DenseConfig], Mapping[str, Any] | Problem] | None = None
    near: str | None = None
    gguf: GgufForm | None = None
    transposed: bool = False

    def layout(self, asked: str) -> Layout:
        """How the experts are stored where the recipe's `output.layout` asks for one."""
        return "per_expert" if asked == "per_expert" and self.expert is not None else "fused"

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The matrices of an expert, `down` last."""
        return PROJECTIONS if self.expert is None else tuple(self.expert)

    @property
    def fused_endings(self) -> tuple[str, ...]:
        """What the names of the fused tensors end in, whatever the layer."""
        return tuple(name.partition("{layer}")[2] for name in self.fused.values())

    def expert_name(self, layer: int, expert: int, projection: Projection) -> str:
        """On-disk name of one matrix of one expert, in the layout `per_expert`."""
        if self.expert is None:
            raise ValueError(f"`{self.model_type}` stores its experts fused")
        return self.expert[projection].format(layer=layer, expert=expert)

    def host_config(self, dense: DenseConfig, experts: int, experts_per_token: int, dtype: str) -> dict[str, Any]:
        """The whole `config.json` of the MoE.

        `rope_theta` and `rope_scaling` repeat `rope_parameters` for readers of transformers 4's names (vLLM and
        llama.cpp among them), which would otherwise fall back on the host's default theta.
        """
        rope = self.rope(dense)
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        common = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "attention_dropout": dense.attention_dropout,
            "bos_token_id": dense.bos_token_id,
            "eos_token_id": dense.eos_token_id,
            "pad_token_id": dense.pad_token_id,
            "dtype": dtype,
            "head_dim": dense.head_dim,
            "hidden_act": dense.hidden_act,
            "hidden_size": dense.hidden_size,
            "initializer_range": dense.initializer_range,
            "max_position_embeddings": dense.max_position_embeddings,
            "num_attention_heads": dense.heads,
            "num_experts_per_tok": experts_per_token,
            "num_hidden_layers": dense.layers,
            "num_key_value_heads": dense.kv_heads,
            "output_router_logits": False,
            "rms_norm_eps": dense.norm_eps,
            "rope_parameters": rope,
            "rope_theta": dense.rope.get("rope_theta"),
            "rope_scaling": scaling if scaling != {"rope_type": "default"} else None,
            "router_aux_loss_coef": 0.001,
            "tie_word_embeddings": dense.tied,
            "use_cache": True,
            "vocab_size": dense.vocab_size,
        }
        return {
            **{key: value for key, value in common.items() if key not in self.lacks},
            **self.config(dense, experts, experts_per_token),
            **self._kept(dense),
        }

    def problems(self, dense: DenseConfig) -> list[Problem]:
        """Why a dense model, and the layers of it that are to stay dense, do not fit exactly."""
        kept = self.dense_layers(dense) if dense.kept and self.dense_layers is not None else None
        found = self.refuse(dense)
        if dense.kept and self.dense_layers is None:
            message = f"`layers`: every layer of `{self.model_type}` routes, so none can stay dense"
            found = [*found, Problem("dense-layers", message)]
        return [*found, kept] if isinstance(kept, Problem) else found

    def _kept(self, dense: DenseConfig) -> Mapping[str, Any]:
        keys = self.dense_layers(dense) if dense.kept and self.dense_layers is not None else {}
        return {} if isinstance(keys, Problem) else keys


def bias_problems(dense: DenseConfig, host: str, *, qkv: bool, output: bool) -> list[Problem]:
    """Biases that the dense model has and the host cannot hold (`qkv`, `output`: what it can hold)."""
    problems = []
    if dense.qkv_bias and not qkv:
        problems.append(_bias(dense, host, "q, k and v projections"))
    if dense.output_bias and not output:
        problems.append(_bias(dense, host, "attention output projection"))
    if dense.mlp_bias:
        problems.append(_bias(dense, host, "FFN (`mlp_bias`)"))
    return problems


def _bias(dense: DenseConfig, host: str, where: str) -> Problem:
    return Problem(
        "host-bias",
        f"`{dense.family}` has biases in the {where}, and `{host}` has no place for them",
        "dropping them would change the model, and no host of moemerge holds them",
    )


def window_problems(dense: DenseConfig, host: str) -> list[Problem]:
    """Sliding windows, where the host has full attention in all layers."""
    if not any(dense.windows):
        return []
    message = f"`{host}` has full attention in all layers, and the base a sliding window: {dense.windows_in_words()}"
    return [Problem("host-window", message, "dropping it would change the model, and no host of moemerge holds it")]

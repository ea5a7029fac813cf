"""`DenseConfig.resolve` reads a raw config as transformers does, and its tensors are the model's."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemerge.families import DENSE_FAMILIES, HOSTS, DenseConfig
from moemerge.families.dense_family import ATTENTION, norm, of_kind
from moemerge.families.values import ACTIVATIONS
from moemerge.families.values import ROPES as ROPE_TYPES_HELD
from tests.tiny import as_read, tiny_config

BOUNDS = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
}
DENSE: dict[str, dict[str, Any]] = {
    "glm4_moe": {"first_k_dense_replace": 99},
    "granitemoehybrid": {"mamba_n_heads": 4, "num_local_experts": 0},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
        "tie_word_embeddings": False,
    },
    "deepseek_v3": {"num_key_value_heads": 4, "first_k_dense_replace": 99, "head_dim": 64},
}
"""What makes a model of a class that has mixtures too a dense one, and what else its class asks for."""
ROPE_TYPES = "`default`, `linear`, `dynamic`, `yarn`, `llama3`, `longrope`"
ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 12345.0},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 7e5}},
    {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}},
    {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_theta": 1e6, "rope_scaling": None},
]  # fmt: skip


def resolved_by_transformers(raw: dict[str, Any], folder: Path) -> Any:
    from transformers import AutoConfig

    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return AutoConfig.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", DENSE_FAMILIES)
@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("extra", [{}, {"head_dim": 16, "num_key_value_heads": 2, "tie_word_embeddings": True},
                                   {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
                                   {"sliding_window": None}])  # fmt: skip
def test_config_is_read_as_transformers_reads_it(
    family: str, rope: dict[str, Any], extra: dict[str, Any], tmp_path: Path
) -> None:
    """Every field that a host needs equals the one of the family's own config class."""
    if family == "cwm" and extra == {"sliding_window": None}:
        pytest.skip("its class takes none")
    if DENSE_FAMILIES[family].by_type and (rope or extra == {"sliding_window": None}):
        pytest.skip("each type of layer has its rope, and its class takes no null")
    if family == "nemotron_h" and rope:
        pytest.skip("its class has no rope")
    check_reading(family, {**rope, **extra}, tmp_path)


@pytest.mark.parametrize("rope", ROPES[:4])
@pytest.mark.parametrize(("family", "config"), [
    ("smollm3", {"no_rope_layers": [0, 1, 1, 0, 1]}),
    ("smollm3", {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 9}),
    ("granite_swa", {"layer_rope_theta": [1e4, 0, 5.0, 1e6]}),
    ("cohere2", {"sliding_window_pattern": 3}),
])  # fmt: skip
def test_each_layers_rope_is_read_as_transformers_reads_it(
    family: str, config: dict[str, Any], rope: dict[str, Any], tmp_path: Path
) -> None:
    """Its base, or that there is none, however the family says it."""
    check_reading(family, {**rope, **config}, tmp_path)


def check_reading(family: str, config: dict[str, Any], folder: Path) -> None:
    """Reads a config, and has transformers read it."""
    raw = {"model_type": family, **BOUNDS, **config, **DENSE.get(family, {})}
    own, theirs = DenseConfig.resolve(as_read(raw)), resolved_by_transformers(raw, folder)
    written = theirs.to_dict()
    assert own.head_dim == (written.get("head_dim") or theirs.hidden_size // theirs.num_attention_heads)
    assert own.kv_heads == written["num_key_value_heads"]
    rope_parameters = getattr(theirs, "rope_parameters", own.rope)
    assert dict(own.rope) == {k: v for k, v in rope_parameters.items() if k != "type"}
    assert own.tied == theirs.tie_word_embeddings
    assert own.max_position_embeddings == theirs.max_position_embeddings
    names = (DENSE_FAMILIES[family].norm_eps, "norm_eps", "layer_norm_epsilon")
    assert own.norm_eps == next(getattr(theirs, name) for name in names if hasattr(theirs, name))
    assert (own.bos_token_id, own.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    if family == "granite_swa":
        assert list(own.thetas) == theirs.layer_rope_theta
    elif family == "smollm3":
        assert [bool(theta) for theta in own.thetas] == [bool(flag) for flag in theirs.no_rope_layers[: own.layers]]
    elif family == "cohere2":
        assert [bool(theta) for theta in own.thetas] == [window is not None for window in own.windows]
    elif family != "nemotron_h" and not DENSE_FAMILIES[family].by_type:
        assert set(own.thetas) == {theirs.rope_parameters["rope_theta"]}
    types = getattr(theirs, "layer_types", None)
    window = getattr(theirs, "sliding_window", None)
    if family == "mistral":
        assert own.windows == (window,) * own.layers
    elif types is not None:
        assert own.windows == tuple(window if t == "sliding_attention" else None for t in types)


@pytest.mark.parametrize("family", DENSE_FAMILIES)
@pytest.mark.parametrize("extra", [{}, {"tie_word_embeddings": True}, {"attention_bias": True}, {"mlp_bias": True}])
def test_tensors_are_those_of_the_class(family: str, extra: dict[str, Any]) -> None:
    """Names and shapes that a config promises are the parameters that transformers' class makes."""
    import torch
    from transformers import AutoModelForCausalLM

    if family == "nemotron_h" and "tie_word_embeddings" in extra:
        pytest.skip("its class ties nothing")
    config = tiny_config(family, **extra)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del expected["lm_head.weight"]
    dense = DenseConfig.resolve(as_read(config.to_dict()))
    held = {name: dense.held_by(name) for name in expected}
    promised = dict(dense.tensors())
    assert sorted(promised) == sorted(part for parts in held.values() for part in parts)
    for name, parts in held.items():
        shapes = [promised[part] for part in parts]
        whole = shapes[0] if len(shapes) == 1 else (sum(rows for rows, *_ in shapes), *shapes[0][1:])
        assert whole == expected[name]


@pytest.mark.parametrize("value", [0, -3, "32", 2.5, True, None])
def test_a_size_that_is_no_size_is_refused(value: object) -> None:
    """A config with a senseless size says which."""
    with pytest.raises(ValueError, match="`hidden_size`"):
        DenseConfig.resolve({"model_type": "llama", **BOUNDS, "hidden_size": value})


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(DENSE_FAMILIES)), st.integers(1, 6), st.booleans())
def test_shared_and_ffn_tensors_partition_the_model(family: str, layers: int, tied: bool) -> None:
    """Shared tensors and FFN matrices are disjoint, and together they are all tensors."""
    raw = {"model_type": family, **BOUNDS, "num_hidden_layers": layers, "tie_word_embeddings": tied}
    raw |= DENSE.get(family, {})
    dense = DenseConfig.resolve(as_read(raw))
    shared = [name for name, _, _ in dense.shared_tensors()]
    ffn = [dense.ffn(layer, p) for layer in dense.ffn_layers for p in dense.projections]
    assert len(set(shared)) == len(shared)
    assert sorted(shared + ffn) == sorted(name for name, _ in dense.tensors())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rope_scaling", [1], "`rope_scaling` is `[1]`, not a map"),
        ("rope_parameters", "x", "`rope_parameters` is `'x'`, not a map"),
        ("rope_parameters", {"rope_theta": "x"}, "`rope_theta` is `'x'`, not a number above 0"),
        ("rope_scaling", {"rope_type": 3}, f"`rope_type` is `3`, not one of {ROPE_TYPES}"),
        ("rope_scaling", {"type": "mrope"}, f"`rope_type` is `'mrope'`, not one of {ROPE_TYPES}"),
        ("rope_scaling", {"type": "linear"}, "`factor` is `None`, not a number, which rope of the type `linear` needs"),
        ("rope_scaling", {"type": "linear", "factor": "2"}, "`factor` is `'2'`, not a number of 0 or more"),
        ("rope_parameters", {"full_attention": {"rope_type": "default"}},
         "`full_attention` is `{'rope_type': 'default'}`, not a number of 0 or more"),
        ("is_causal", False, "`is_causal` is `False`, not true: no host lets a token see those after it"),
        ("use_cache", 2, "`use_cache` is `2`, not true or false"),
        ("torch_dtype", "float4", "`torch_dtype` is `'float4'`, not one of torch's dtypes, such as `bfloat16`"),
        ("num_key_value_heads", 3, "`num_key_value_heads` is `3`, not a divisor of the 4 attention heads"),
        ("head_dim", 7, "`head_dim` is `7`, not an even number, which rope needs"),
        ("transformers_weights", "other.safetensors", "there is `transformers_weights`: transformers reads the weights "
         "from the file that it names, and no host can hold that"),
        ("hidden_act", "xielu", "`hidden_act` is `'xielu'`, not an activation that is known here"),
        ("rope_theta", "10000", "`rope_theta` is `'10000'`, not a number of 0 or more"),
        ("max_window_layers", "x", "`max_window_layers` is `'x'`, not a number of layers"),
        ("max_position_embeddings", "x", "`max_position_embeddings` is `'x'`, not a positive integer"),
        ("sliding_window", "x", "`sliding_window` is `'x'`, not a positive integer"),
        ("eos_token_id", "a", "`eos_token_id` is `'a'`, not a token's id or a list of them"),
        ("eos_token_id", [1, "a"], "`eos_token_id` is `[1, 'a']`, not a token's id or a list of them"),
        ("bos_token_id", [1], "`bos_token_id` is `[1]`, not a token's id"),
        ("head_dim", "64", "`head_dim` is `'64'`, not a positive integer"),
        ("num_key_value_heads", 0, "`num_key_value_heads` is `0`, not a positive integer"),
        ("rms_norm_eps", None, "`rms_norm_eps` is `None`, not a number of 0 or more with a decimal point"),
        ("hidden_act", 1, "`hidden_act` is `1`, not an activation that is known here"),
        ("tie_word_embeddings", "false", "`tie_word_embeddings` is `'false'`, not true or false"),
        ("layer_types", ["full_attention"], "`layer_types` is `['full_attention']`, not `sliding_attention` or "
         "`full_attention` for each of the 4 layers"),
        ("num_hidden_layers", 10**9, "`num_hidden_layers` is `1000000000`, not a number of layers up to 10,000"),
        ("num_attention_heads", 64, "`num_attention_heads` is `64`, not at most `hidden_size` 32"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(field: str, value: object, message: str) -> None:
    """The field and its value are named, and what it should be."""
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        DenseConfig.resolve({"model_type": "qwen2", **BOUNDS, field: value})


@pytest.mark.parametrize("given", [[1, 1, 0], [1, 1, 0, "0"], [1, 0, 1, -1], 3])
def test_flags_that_are_none_are_refused(given: object) -> None:
    """Of the layers' ropes: there must be a number for each."""
    message = f"`no_rope_layers` is `{given!r}`, not a list of a number for each of the 4 layers"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        DenseConfig.resolve({"model_type": "smollm3", **BOUNDS, "no_rope_layers": given})


def test_what_is_known_here_is_known_to_transformers() -> None:
    """Every activation without weights of its own, and kinds of rope; what transformers adds shows here."""
    from torch import nn
    from transformers.activations import ACT2CLS, ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert set(ACT2CLS) - ACTIVATIONS == {"prelu", "xielu"}
    plain = {name for name in ACTIVATIONS if not list(nn.ModuleList([ACT2FN[name]]).parameters())}
    assert plain == set(ACTIVATIONS)
    assert {*ROPE_INIT_FUNCTIONS, "default"} - set(ROPE_TYPES_HELD) == {"proportional"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.just(10**400) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "type", "rope_theta"]), inner)
    ),
    max_leaves=4,
)
FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "num_key_value_heads", "max_position_embeddings", "sliding_window", "use_sliding_window", "max_window_layers",
    "layer_types", "rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor", "hidden_act",
    "original_max_position_embeddings", "rms_norm_eps", "initializer_range", "tie_word_embeddings", "attention_bias",
    "attention_dropout", "mlp_bias", "bos_token_id", "eos_token_id", "pad_token_id", "model_type", "no_rope_layers",
    "no_rope_layer_interval", "layer_rope_theta", "layer_norm_eps", "sliding_window_pattern", "logit_scale",
)  # fmt: skip


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(sorted(DENSE_FAMILIES)), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_no_json_gives_anything_but_a_refusal(family: str, change: dict[str, Any]) -> None:
    """Whatever stands in a config, it is read or refused, and what is read can be mapped and compared."""
    try:
        dense = DenseConfig.resolve({"model_type": family, **BOUNDS, **DENSE.get(family, {}), **change})
    except (ValueError, KeyError):
        return
    assert all(extent >= 1 for _, shape in dense.tensors() for extent in shape)
    assert json.dumps(dict(dense.rope))
    for host in HOSTS.values():
        host.refuse(dense)


def test_a_layer_of_a_kind_without_an_ffn_has_none() -> None:
    """Its other tensors are there as they are in the rest."""
    row = replace(
        DENSE_FAMILIES["llama"], kinds=lambda values: values["layer_types"], ffn_kinds=("mlp",),
        layer=(norm("norm"), *of_kind("attention", ATTENTION)),
    )  # fmt: skip
    raw = {"model_type": "llama", "num_hidden_layers": 3, "layer_types": ["attention", "mlp", "attention"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DENSE_FAMILIES, "llama", row)  # type: ignore[arg-type]  # a dict behind a Mapping
        dense = DenseConfig.resolve(raw)
    assert dense.ffn_layers == (1,)
    names = {name for name, _ in dense.tensors()}
    assert {name for name in names if "mlp" in name} == {dense.ffn(1, projection) for projection in dense.projections}
    assert {name for name in names if "layers.1" in name} > {"model.layers.1.norm.weight"}
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.layers.1.self_attn.q_proj.weight" not in names

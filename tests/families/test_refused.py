"""Every language model of the installed transformers is hosted, or refused for a reason that its class shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest

from moemerge.families import DENSE_FAMILIES, HOSTS, REFUSALS, REFUSED, TRANSLATIONS, WRAPPERS, family_problem

HOSTED = {*DENSE_FAMILIES, *TRANSLATIONS, *WRAPPERS}


def language_models() -> dict[str, str]:
    """The class of every type of the installed transformers that has one to write text with."""
    from transformers.models.auto import modeling_auto as auto

    return {
        **auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        **auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        **auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        **auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        **auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }


def test_every_type_has_one_answer() -> None:
    """Hosted or refused: none is forgotten, none is both, and none is answered twice."""
    listed = [name for refusal in REFUSALS for name in refusal.types.split()]
    assert sorted(set(language_models()) - HOSTED - set(REFUSED)) == []
    assert sorted(set(REFUSED) & HOSTED) == []
    assert sorted(set(REFUSED) - set(language_models())) == [], "transformers has no such types"
    assert sorted(name for name in set(listed) if listed.count(name) > 1) == []
    alone = {name for name, host in HOSTS.items() if host.alone}
    assert alone <= set(REFUSED) | HOSTED


def test_what_is_recommended_instead_builds() -> None:
    """No hint sends a user to a family that is refused."""
    named = {name for refusal in REFUSALS for name in re.findall("`([a-z0-9_]+)`", refusal.instead)}
    assert sorted((named & set(language_models())) - HOSTED) == []


def test_a_type_that_transformers_does_not_have() -> None:
    """It is refused too, in other words."""
    problem = family_problem("lama")
    assert problem.message == "model type `lama` does not become a mixture of experts: moemerge does not know it"
    assert problem.hint == "`moemerge families` lists those that do"


class Model:
    """A type's config with its defaults, and what its class then makes on the meta device."""

    def __init__(self, name: str) -> None:
        from transformers import CONFIG_MAPPING

        self.name, self.sub_configs = name, CONFIG_MAPPING[name].sub_configs
        self.config = CONFIG_MAPPING[name](**SETTINGS.get(name, {}))
        self.text = self.config.get_text_config(decoder=True)

    @cached_property
    def made(self) -> Any:
        """The model, without values."""
        import torch
        import transformers

        with torch.device("meta"):
            return getattr(transformers, language_models()[self.name])(self.config)

    def has(self, pattern: str) -> bool:
        """Whether a parameter's name holds it."""
        return any(re.search(pattern, name) for name, _ in self.made.named_parameters())

    def says(self, key: str) -> Any:
        """What its config has under the key, or else its language model's; None where neither has it."""
        return getattr(self.config, key, getattr(self.text, key, None))

    @property
    def norms(self) -> set[str]:
        """Classes of its modules that norm."""
        return {type(module).__name__ for module in self.made.modules() if "Norm" in type(module).__name__}


SETTINGS: dict[str, dict[str, Any]] = {
    "nemotron": {"num_key_value_heads": 8},
    "reformer": {"is_decoder": True},
    "dots1": {"n_routed_experts": 4},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}},
    "gemma4_assistant": {"text_config": {"model_type": "gemma4_text", "hidden_size_per_layer_input": 0,
                                         "vocab_size_per_layer_input": 0}},
}  # fmt: skip
"""What a config needs besides its defaults."""

GATED = r"gate|\.w3\.|wi_1|w_in\.w_1|mlp\.Wi"
"""Names of what an FFN is gated by."""
BIASED_NORM = r"(norm|ln|LayerNorm|ln_\w+|layer_norm\w*|norm\d|ln\d)\.bias$"
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configs call their number of experts."""


def without_gate(model: Model) -> bool:
    return not model.has(GATED)


def is_mixture(model: Model) -> bool:
    counts = [model.says(key) for key in COUNTS] + [getattr(model.says("ffn_config"), "moe_num_experts", None)]
    return any(counts) or model.has(r"\bexperts?\b|ffn\.router")


def own_language_model(model: Model) -> bool:
    text = model.sub_configs.get("text_config")
    return bool(model.sub_configs) and (text is None or text.__name__ != "AutoConfig")


def any_language_model(model: Model) -> bool:
    return bool(model.sub_configs) and not own_language_model(model)


def judges_of_pictures() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    return set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)


def multiplies_words(model: Model) -> bool:
    return "GemmaTextScaledWordEmbedding" in {type(module).__name__ for module in model.made.modules()}


def cut_and_named(model: Model) -> bool:
    """Whether transformers renames more than what names begin with, as it loads."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    changes = get_checkpoint_conversion_mapping(model.name) or ()
    return any(pattern.startswith(r"\.") for change in changes for pattern in change.source_patterns)


def side_by_side(model: Model) -> bool:
    return model.has(r"layers\.0\.mamba\.") and model.has(r"layers\.0\.self_attn\.")


SHOWN: dict[str, Callable[[Model], bool]] = {
    "its FFN has no gate projection, and its norms are layer norms with biases":
        lambda m: without_gate(m) and m.has(BIASED_NORM),
    "its FFN has no gate projection, and its attention has ALiBi instead of rope":
        lambda m: without_gate(m) and m.says("attn_config").alibi,
    "its FFN has no gate projection, and its activation (xIELU) has weights of its own":
        lambda m: without_gate(m) and m.has(r"act_fn\.alpha"),
    "its FFN has no gate projection, and q and k are normed after rope turns them": without_gate,
    "its norms are layer norms, which subtract the mean": lambda m: all("RMS" not in name for name in m.norms),
    "its attention's scores are capped (`attn_logit_softcapping`)": lambda m: bool(m.says("attn_logit_softcapping")),
    "norms after attention and FFN are part of its residual path":
        lambda m: m.has(r"post_(mlp|feedforward)_layernorm|post_ffn_norm"),
    "each layer mixes several streams of hidden states (AltUp)": lambda m: (m.says("altup_num_inputs") or 0) > 1,
    "norms stand within its attention and its FFN": lambda m: m.has("attn_sub_norm") and m.has("ffn_sub_norm"),
    "its attention is the difference of two": lambda m: m.has(r"self_attn\.lambda_q2"),
    "its residual path is scaled channel by channel, and its attention learns a mask": lambda m: m.has("residual$"),
    "two stacks of layers run several times for each token": lambda m: m.has("H_module") and m.says("H_cycles") > 1,
    "it reads bytes through several stacks of layers": lambda m: m.has(r"local_encoder\.layers"),
    "its attention learns a bias for each distance instead of rope": lambda m: m.has("relative_attention_bias"),
    "it has no FFN": lambda m: not m.has("mlp|ffn|feed_forward|fc1"),
    "all its layers share a block or two of attention and FFN": lambda m: m.has(r"shared_transf"),
    "attention and Mamba run side by side in each layer": side_by_side,
    "no mixture class has its recurrent layers": lambda m: m.has(r"rg_lru|time_decay|mlstm_layer|linear_attn\.g_proj"),
    "it drafts for another model and reads that one's cache": lambda m: bool(m.says("num_kv_shared_layers")),
    "it is one already": is_mixture,
    "it is an encoder, which reads in both directions and writes nothing":
        lambda m: not m.says("is_decoder") and m.has(r"\.encoder\.layer\."),
    "it is an encoder-decoder, and moemerge merges decoders alone":
        lambda m: bool(m.says("is_encoder_decoder")) or m.has("encoder_attn|cross_attn|crossattention"),
    "layers of its language model read what was seen by cross-attention, which no mixture class has":
        lambda m: m.has(r"cross_attn|layers\.\d+\.adapter\.key_protein"),
    "its class holds a language model of its own, and a mixture cannot stand in its place": own_language_model,
    "its language model is one that does not become a mixture": lambda m: m.text.model_type in REFUSED,
    "norms of its language model change with the delay of the sound": lambda m: m.has("ada_rms_norm"),
    "it writes sound, not text": lambda m: m.has("diffusion_head"),
    "it writes movements of a robot, not text": lambda m: m.has("action_out_proj"),
    "its language model multiplies the words' embeddings alone, and its host the pictures' too": multiplies_words,
    "it judges pictures, and writes no text": lambda m: m.name in judges_of_pictures(),
    "its files name and cut tensors otherwise than its class does, and nobody has written down how":
        lambda m: any_language_model(m) and cut_and_named(m),
}  # fmt: skip
"""How the class shows each reason; what nobody has written or tried needs no more than to be said."""

SAID = frozenset({"nobody has written down yet how it is read"})
FIRST = {refusal.types.split()[0] for refusal in REFUSALS}


def test_every_reason_is_looked_for() -> None:
    """So none is made up: each is shown by the class, or says that nothing was written."""
    assert {refusal.why for refusal in REFUSALS} == set(SHOWN) | SAID


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FIRST else pytest.mark.families)
        for name, refusal in REFUSED.items()
        if refusal.why not in SAID
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_reason_is_so(name: str) -> None:
    """It is seen in the class's config and in the parameters that it makes."""
    assert SHOWN[REFUSED[name].why](Model(name))


@pytest.mark.parametrize("name", ["llama", "qwen3", "granite"])
def test_the_reasons_can_fail(name: str) -> None:
    """A family that is hosted shows none of them."""
    assert [why for why, shown in SHOWN.items() if shown(Model(name))] == []

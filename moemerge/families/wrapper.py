"""A wrapper: a vision or audio model of transformers around a language model that may be a mixture, as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Names, Values, exchanged
from moemerge.families.host import Host

_DROPPED = ("auto_map", "quantization_config", "transformers_version", "torch_dtype")
"""Keys of a wrapper's config that a folder of ours does not have."""

_NAMES = Names()
_OWN = (_NAMES.embedding, _NAMES.layer.partition("{")[0], _NAMES.norm)
"""What a language model's own names begin with in every family, the head's aside."""

APART: Mapping[str, str] = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
"""How most wrappers are stored: what the names in memory begin with, and those on disk in its place."""

TILED: Mapping[str, str] = {**APART, "model.image_newline": "image_newline"}
"""Those that read images in tiles, with a tensor between rows of them."""

HEARING: Mapping[str, str] = {**APART, "model.audio_tower.": "audio_tower."}
"""Those with a tower for sounds."""

COUNTED = re.compile(r"\.num_batches_tracked$")
"""The names of whole numbers that a class reads: how often its batch norms were trained. Others are made anew by it."""


def _nothing(config: Values) -> list[Problem]:
    return []


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Where the language model lies in a model that has more than text. All else is the base's, as it is.

    Attributes:
        model_type: the wrapper's `model_type`.
        title: what people call its models.
        architecture: class name for `architectures` in the config.
        languages: the hosts that its language model may be, each of them run.
        becomes: the `model_type` of the wrapper around a mixture, where that is another class.
        language: the language model's `model_type` where its config does not say.
        defaults: what its class fills in for a missing key of the language model's config, where that one does not.
        key: the config's key of the language model's own config.
        path: from the wrapper to the decoder in memory.
        disk: what names in memory begin with, and what those on disk begin with in its place; others are the same.
        ignored: names in memory of stored tensors that its class does not read.
        multiplies: key of the number in the language model's config that its class multiplies logits by; the other
            classes scale none, whatever the language model does by itself.
        once: what further names of its language model's own begin with, outside the layers.
        auto_class: the class of transformers that loads it.
        task: the hub's name of what it does.
        refuse: what in the config of a base no mixture can hold.
        lends: keys that a GGUF file of its language model says something of, by the wrapper's whole config.
    """

    model_type: str
    title: str
    architecture: str
    languages: tuple[str, ...]
    becomes: str | None = None
    language: str = "llama"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    key: str = "text_config"
    path: str = "model.language_model"
    disk: Mapping[str, str] = field(default_factory=lambda: APART)
    ignored: re.Pattern[str] | None = None
    multiplies: str | None = None
    once: tuple[str, ...] = ()
    auto_class: str = "AutoModelForImageTextToText"
    task: str = "image-text-to-text"
    refuse: Callable[[Values], list[Problem]] = _nothing
    lends: Callable[[Values], Values] = lambda config: {}

    @property
    def mixture(self) -> str:
        """The `model_type` of the wrapper around a mixture."""
        return self.becomes or self.model_type

    def in_memory(self, stored: str) -> str:
        """The name in memory of a tensor on disk."""
        return exchanged(stored, {disk: memory for memory, disk in self.disk.items()})

    def on_disk(self, name: str) -> str:
        """The name on disk of a tensor in memory."""
        return exchanged(name, self.disk)

    def name(self, name: str) -> str | None:
        """What the language model itself calls a tensor of this name in memory; None for what is not its own."""
        if name.startswith(f"{self.path}."):
            return "model." + name.removeprefix(f"{self.path}.")
        return name if name.startswith("lm_head.") else None

    def stored(self, name: str) -> str:
        """The name on disk of a tensor of the language model, by its own name; others have the name in memory."""
        own = name.startswith((*_OWN, *self.once))
        return self.on_disk(f"{self.path}.{name.removeprefix('model.')}" if own else name)

    def around(self, host: Host) -> Host:
        """The host as it lies within this wrapper, which scales logits by itself."""
        put = self.stored

        def all_of(names: Mapping[Any, str] | None) -> Any:
            return None if names is None else {key: put(name) for key, name in names.items()}

        return replace(
            host,
            architecture=self.architecture,
            gate=put(host.gate),
            expert=all_of(host.expert),
            fused=all_of(host.fused),
            shared_expert=all_of(host.shared_expert),
            shared_gate=None if host.shared_gate is None else put(host.shared_gate),
            silent=lambda *of: (replace(one, name=put(one.name)) for one in host.silent(*of)),
            constants=lambda *of: (replace(one, name=put(one.name)) for one in host.constants(*of)),
            attention=put(host.attention),
            wrapper=self.mixture,
            stored=put,
            anatomy=replace(
                host.anatomy,
                decoder=self.path,
                layers=f"{self.path}.layers",
                logits_divisor=None,
                logits_multiplier=self.multiplies,
            ),
            auto_class=self.auto_class,
            task=self.task,
        )

    def by_itself(self, config: Mapping[str, Any], host: Host) -> dict[str, Any]:
        """The config of the language model as of a model by itself that computes the same.

        Args:
            config: the wrapper's whole one.
            host: the language model's class, as it is by itself.
        """
        inner = {**config[self.key], **self.lends(config)}
        if self.multiplies is not None:
            return {**inner, self.multiplies: 1.0 / inner[self.multiplies]}
        scales = (host.anatomy.logits_divisor, host.anatomy.logits_multiplier)
        return {**inner, **{key: 1.0 for key in scales if key is not None}}

    def config(self, base: Mapping[str, Any], language: Mapping[str, Any]) -> dict[str, Any]:
        """The whole `config.json`.

        Args:
            base: the base's, of the same wrapper.
            language: the mixture's.
        """
        own = {key: value for key, value in base.items() if key not in _DROPPED}
        shared = {key: language[key] for key in ("dtype", "tie_word_embeddings")}
        inner = {key: value for key, value in language.items() if key != "architectures"}
        if self.multiplies is not None:  # what the language model's own class divides by
            inner[self.multiplies] = 1.0 / inner[self.multiplies]
        own["model_type"] = self.mixture
        return {**own, **shared, "architectures": [self.architecture], self.key: inner}

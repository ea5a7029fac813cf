"""An adapter's tensors by their names: factors of a module's LoRA, and tensors that are stored whole."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from moemerge.sources.saved import Cause, wrapper_of

PREFIX = "base_model.model."

_FACTOR = re.compile(r"(.+)\.(lora_A|lora_B)(?:\.(\w+))?\.(weight|bias)")
_EMBEDDED = re.compile(r"(.+)\.(lora_embedding_A|lora_embedding_B)(?:\.(\w+))?")
_MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.(?!weight$)(\w+))?(?:\.weight)?")
_SAVED = re.compile(r"(.+)\.(modules_to_save|original_module)\.(.+)")
"""`original_module` is the base's own, before training; peft writes it beside where embeddings were resized."""


@dataclass(slots=True)
class Sorted:
    """Names of tensors in an adapter's file, by what they are.

    Attributes:
        modules: by module, the parts of its LoRA.
        whole: by name of the tensor that they take the place of.
        copies: the same, of a second copy that peft writes of modules that are stored whole.
        wrapped: those that a wrapper was left in, with its cause.
        unknown: those that are none of it.
        labels: the names of adapters that stand within names, as in `lora_A.default.weight`; None where none does.
    """

    modules: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    whole: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    wrapped: dict[str, Cause] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    labels: set[str | None] = field(default_factory=set)


def sort_names(keys: Iterable[str], *, more_than_text: bool = False) -> Sorted:
    """What the tensors of an adapter are.

    In a model of more than text a language model lies within. One label within names is passed over: peft writes none,
    reads its own, and a state dict has it.
    """
    result = Sorted()
    for key in keys:
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        bare = key.replace(PREFIX, "", 1).replace(".base_layer.", ".")
        if cause := wrapper_of(bare, more_than_text=more_than_text):
            result.wrapped[key] = cause
        elif not key.startswith(PREFIX):
            result.unknown.append(key)
        elif found := _FACTOR.fullmatch(name):
            result.modules[found[1]][f"{found[2]}.{found[4]}"] = key
            result.labels.add(found[3])
        elif found := _EMBEDDED.fullmatch(name):
            result.modules[found[1]][found[2]] = key
            result.labels.add(found[3])
        elif found := _MAGNITUDE.fullmatch(name):
            result.modules[found[1]]["magnitude"] = key
            result.labels.add(found[2])
        elif found := _SAVED.fullmatch(name):
            if found[2] == "modules_to_save":
                result.copies[f"{found[1]}.{found[3]}"] = key
        else:
            result.whole[name] = key
    label = next(iter(result.labels - {None}), "default")
    result.copies = {name.replace(f".{label}.", "."): key for name, key in result.copies.items()}
    return result

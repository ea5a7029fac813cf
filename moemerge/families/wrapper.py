"""A wrapper: a vision or audio model of transformers around a language model that may be a mixture, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Where the language model lies in a model that has more than text.

    Attributes:
        model_type: the wrapper's `model_type`.
        languages: the hosts that its language model may be.
        key: the config's key of the language model's own config.
        prefix: what comes before the language model's names on disk.
        path: from the wrapper to the language model in memory.
        auto_class: the class of transformers that loads it.
    """

    model_type: str
    languages: tuple[str, ...]
    key: str = "text_config"
    prefix: str = "language_model."
    path: str = "model.language_model"
    auto_class: str = "AutoModelForImageTextToText"

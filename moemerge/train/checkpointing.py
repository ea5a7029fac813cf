"""Activation checkpointing: of each decoder layer what enters it is kept, and the rest is computed again.

transformers does it in training mode alone, which would switch dropout and jitter on as well; so the layers are told
that they train, and nothing in them is.
"""

from __future__ import annotations

from typing import Any


def checkpoint_layers(model: Any) -> None:
    """Turns it on for every pass that takes a gradient.

    Args:
        model: of transformers, in eval mode.
    """
    # transformers 5.23 calls it by the first name, and warns of the second, which older releases have alone
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for layer in model.model.layers:
        layer.training = True

"""Activation checkpointing: of each decoder layer what enters it is kept, and the rest is computed again.

transformers does it in training mode alone, which would switch dropout and jitter on as well; so the layers are told
that they train, and nothing in them is.
"""

from __future__ import annotations

from typing import Any

from moemerge.families import anatomy_of


def checkpoint_layers(model: Any) -> None:
    """Turns it on for every pass that takes a gradient.

    Args:
        model: of transformers, in eval mode. Where accelerate placed it, a layer is computed again to its end: stopped
            as soon as all is there that the gradient needs, the module that it stood in would keep its weights.
    """
    # transformers 5.23 calls it by the first name, and warns of the second, which older releases have alone
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    placed = getattr(model, "hf_device_map", None) is not None
    enable({"use_reentrant": False} | ({"early_stop": False} if placed else {}))
    for layer in anatomy_of(model).layers_of(model):
        layer.training = True

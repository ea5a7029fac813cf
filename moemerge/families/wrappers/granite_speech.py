"""Granite Speech: a conformer, a projector with queries of its own, and a Granite."""

from collections.abc import Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.wrapper import APART, Wrapper


def refuse(config: Mapping[str, Any]) -> list[Problem]:
    """A LoRA that lies next to the weights, and that its class turns on for sounds alone."""
    if not config.get("has_lora_adapter", True):
        return []
    message = (
        f"a `{config['model_type']}` with a LoRA for sounds (`has_lora_adapter`) has no mixture: its class turns it"
    )
    return [Problem("sound-adapter", f"{message} on where there is sound, and off for text", "those without one build")]


WRAPPER = Wrapper(
    model_type="granite_speech",
    title="Granite Speech (sound)",
    architecture="GraniteSpeechForConditionalGeneration",
    languages=("granitemoe", "mixtral"),
    language="granite",
    disk={**APART, "model.encoder.": "encoder.", "model.projector.": "projector."},
    auto_class="AutoModelForSpeechSeq2Seq",
    task="automatic-speech-recognition",
    refuse=refuse,
)

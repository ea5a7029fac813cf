"""Granite Speech Plus: a Granite Speech whose projector sees several layers of the conformer."""

from dataclasses import replace

from moemerge.families.wrappers.granite_speech import WRAPPER as GRANITE_SPEECH

WRAPPER = replace(
    GRANITE_SPEECH,
    model_type="granite_speech_plus",
    title="Granite Speech Plus (sound)",
    architecture="GraniteSpeechPlusForConditionalGeneration",
)

"""Qwen2-Audio: a Whisper-like tower, a projector, and a Qwen2."""

from moemerge.families.wrapper import HEARING, Wrapper

WRAPPER = Wrapper(
    model_type="qwen2_audio",
    title="Qwen2-Audio (sound)",
    architecture="Qwen2AudioForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    disk=HEARING,
    auto_class="AutoModelForMultimodalLM",
    task="audio-text-to-text",
)

"""Audio Flamingo 3: a Whisper-like tower, a projector, and a Qwen2."""

from moemerge.families.wrapper import HEARING, Wrapper

WRAPPER = Wrapper(
    model_type="audioflamingo3",
    title="Audio Flamingo 3 (sound)",
    architecture="AudioFlamingo3ForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    disk=HEARING,
    auto_class="AutoModelForSeq2SeqLM",
    task="audio-text-to-text",
)

"""Music Flamingo: the tower of Audio Flamingo 3 with times of its own, a projector, and a Qwen2."""

from moemerge.families.wrapper import HEARING, Wrapper

WRAPPER = Wrapper(
    model_type="musicflamingo",
    title="Music Flamingo (sound)",
    architecture="MusicFlamingoForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    disk=HEARING,
    auto_class="AutoModelForSeq2SeqLM",
    task="audio-text-to-text",
)

"""Qwen3-ASR: an audio tower, a projector, and a Qwen3."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="qwen3_asr",
    title="Qwen3-ASR (sound)",
    architecture="Qwen3ASRForConditionalGeneration",
    languages=("qwen3_moe",),
    language="qwen3",
    disk={},
    auto_class="AutoModelForSpeechSeq2Seq",
    task="automatic-speech-recognition",
)

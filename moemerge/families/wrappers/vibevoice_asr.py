"""VibeVoice ASR: two tokenizers of sound, a projector, and a Qwen2."""

from moemerge.families.wrapper import APART, Wrapper

WRAPPER = Wrapper(
    model_type="vibevoice_asr",
    title="VibeVoice ASR (sound)",
    architecture="VibeVoiceAsrForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    disk={
        **APART,
        "model.acoustic_tokenizer_encoder.": "acoustic_tokenizer_encoder.",
        "model.semantic_tokenizer_encoder.": "semantic_tokenizer_encoder.",
    },
    auto_class="AutoModelForSpeechSeq2Seq",
    task="automatic-speech-recognition",
)

"""MOSS-Transcribe-Diarize: a Whisper-like tower, a projector, and a Qwen3."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="moss_transcribe_diarize",
    title="MOSS-Transcribe-Diarize (sound)",
    architecture="MossTranscribeDiarizeForConditionalGeneration",
    languages=("qwen3_moe",),
    language="qwen3",
    defaults={"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
              "num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_theta": 1000000.0},
    disk={},
    auto_class="AutoModelForMultimodalLM",
    task="automatic-speech-recognition",
)  # fmt: skip

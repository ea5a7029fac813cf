"""Fun-ASR Nano: an encoder of sounds, an adaptor, and a Qwen3."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="fun_asr_nano",
    title="Fun-ASR Nano (sound)",
    architecture="FunAsrNanoForConditionalGeneration",
    languages=("qwen3_moe",),
    language="qwen3",
    defaults={"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
              "num_key_value_heads": 8, "max_position_embeddings": 40960, "tie_word_embeddings": True},
    disk={},
    auto_class="AutoModelForSpeechSeq2Seq",
    task="automatic-speech-recognition",
)  # fmt: skip

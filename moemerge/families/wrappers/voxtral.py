"""Voxtral: an audio tower, a projector, and a Llama."""

from moemerge.families.wrapper import HEARING, Wrapper

WRAPPER = Wrapper(
    model_type="voxtral",
    title="Voxtral (sound)",
    architecture="VoxtralForConditionalGeneration",
    languages=("mixtral",),
    defaults={"vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 30,
              "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "head_dim": 128,
              "rope_theta": 1e8},
    disk=HEARING,
    auto_class="AutoModelForSpeechSeq2Seq",
    task="audio-text-to-text",
)  # fmt: skip

"""GLM-ASR: an audio tower, a projector, and a Llama."""

from moemerge.families.wrapper import HEARING, Wrapper

WRAPPER = Wrapper(
    model_type="glmasr",
    title="GLM-ASR (sound)",
    architecture="GlmAsrForConditionalGeneration",
    languages=("mixtral",),
    defaults={"vocab_size": 59264, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
              "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 8192,
              "rms_norm_eps": 1e-5, "eos_token_id": [59246, 59253, 59255]},
    disk=HEARING,
    auto_class="AutoModelForMultimodalLM",
    task="automatic-speech-recognition",
)  # fmt: skip

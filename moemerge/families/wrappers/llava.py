"""LLaVA: a vision tower, a projector, and a Llama, Mistral or Qwen."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="llava",
    title="LLaVA",
    architecture="LlavaForConditionalGeneration",
    languages=("mixtral", "qwen2_moe", "qwen3_moe"),
)

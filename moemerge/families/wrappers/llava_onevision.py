"""LLaVA-OneVision: images, several of them, and videos, with a Qwen2."""

from moemerge.families.wrapper import TILED, Wrapper

WRAPPER = Wrapper(
    model_type="llava_onevision",
    title="LLaVA-OneVision",
    architecture="LlavaOnevisionForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    disk=TILED,
)

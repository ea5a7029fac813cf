"""LLaVA-NeXT-Video: a LLaVA-NeXT that reads videos too."""

from moemerge.families.wrapper import TILED, Wrapper

WRAPPER = Wrapper(
    model_type="llava_next_video",
    title="LLaVA-NeXT-Video",
    architecture="LlavaNextVideoForConditionalGeneration",
    languages=("mixtral", "qwen2_moe"),
    disk=TILED,
)

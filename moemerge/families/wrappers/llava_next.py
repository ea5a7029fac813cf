"""LLaVA-NeXT (1.6): a LLaVA that reads images in tiles."""

from moemerge.families.wrapper import TILED, Wrapper

WRAPPER = Wrapper(
    model_type="llava_next",
    title="LLaVA-NeXT",
    architecture="LlavaNextForConditionalGeneration",
    languages=("mixtral", "qwen2_moe"),
    disk=TILED,
)

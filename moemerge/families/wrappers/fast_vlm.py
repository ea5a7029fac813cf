"""FastVLM: a FastViT tower of timm, a projector, and a Qwen2."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="fast_vlm",
    title="FastVLM",
    architecture="FastVlmForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    disk={},
)

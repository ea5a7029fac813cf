"""VideoLLaMA 3: a tower for images and videos, a projector, and a Qwen2."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="video_llama_3",
    title="VideoLLaMA 3",
    architecture="VideoLlama3ForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    disk={},
)

"""Video-LLaVA: a tower for images, one for videos, a projector, and a Llama."""

from moemerge.families.wrapper import APART, Wrapper

WRAPPER = Wrapper(
    model_type="video_llava",
    title="Video-LLaVA",
    architecture="VideoLlavaForConditionalGeneration",
    languages=("mixtral",),
    disk={**APART, "model.image_tower.": "image_tower.", "model.video_tower.": "video_tower."},
)

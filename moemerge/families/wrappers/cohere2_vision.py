"""Command A Vision: a SigLIP tower, a projector, and a Command A (Cohere2)."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="cohere2_vision",
    title="Command A Vision",
    architecture="Cohere2VisionForConditionalGeneration",
    languages=("cohere2_moe",),
    language="cohere2",
    disk={},
)

"""Aya Vision: a SigLIP tower, a projector, and a Command R7B (Cohere2)."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="aya_vision",
    title="Aya Vision",
    architecture="AyaVisionForConditionalGeneration",
    languages=("cohere2_moe",),
    language="cohere2",
)

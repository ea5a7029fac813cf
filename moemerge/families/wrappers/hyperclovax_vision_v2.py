"""HyperCLOVA X SEED Think with vision: the tower of Qwen2.5-VL, a projector, and a HyperCLOVA X."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="hyperclovax_vision_v2",
    title="HyperCLOVA X SEED with vision",
    architecture="HyperCLOVAXVisionV2ForConditionalGeneration",
    languages=("granitemoe",),
    language="hyperclovax",
    multiplies="logits_scaling",
    disk={"lm_head.": "model.language_model.lm_head.", "model.projector.": "model.vision_projector."},
)

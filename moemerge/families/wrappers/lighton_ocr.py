"""LightOnOCR: a Pixtral tower, a projector, and a Qwen3."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="lighton_ocr",
    title="LightOnOCR",
    architecture="LightOnOcrForConditionalGeneration",
    languages=("qwen3_moe",),
    language="qwen3",
    disk={},
)

"""MiniCPM-OCR: a vision tower whose patches are merged twice, and a Qwen3.5."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="minicpm_ocr",
    title="MiniCPM-OCR",
    architecture="MiniCPMOcrForConditionalGeneration",
    languages=("qwen3_5_moe_text",),
    language="qwen3_5_text",
    disk={},
)

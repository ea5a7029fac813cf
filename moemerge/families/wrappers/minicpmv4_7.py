"""MiniCPM-V 4.7: a vision tower whose patches are merged twice, and a Qwen3.5."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="minicpmv4_7",
    title="MiniCPM-V 4.7",
    architecture="MiniCPMV4_7ForConditionalGeneration",
    languages=("qwen3_5_moe_text",),
    language="qwen3_5_text",
    disk={},
)

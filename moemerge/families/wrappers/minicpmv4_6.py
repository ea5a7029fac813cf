"""MiniCPM-V 4.6: a SigLIP tower, a merger, and the language model of Qwen3.5."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="minicpmv4_6",
    title="MiniCPM-V 4.6",
    architecture="MiniCPMV4_6ForConditionalGeneration",
    languages=("qwen3_5_moe_text",),
    language="qwen3_5_text",
    disk={},
)

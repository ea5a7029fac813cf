"""DeepSeek-VL: a SigLIP tower, an aligner, and a Llama."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="deepseek_vl",
    title="DeepSeek-VL",
    architecture="DeepseekVLForConditionalGeneration",
    languages=("mixtral",),
    disk={},
)

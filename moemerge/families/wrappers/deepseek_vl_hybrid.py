"""DeepSeek-VL 7B: two vision towers, one of them for high resolution, and a Llama."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="deepseek_vl_hybrid",
    title="DeepSeek-VL (7B)",
    architecture="DeepseekVLHybridForConditionalGeneration",
    languages=("mixtral",),
    disk={},
)

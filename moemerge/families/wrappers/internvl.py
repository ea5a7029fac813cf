"""InternVL: a vision transformer, a projector, and a Qwen."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="internvl",
    title="InternVL 3 and 3.5",
    architecture="InternVLForConditionalGeneration",
    languages=("qwen2_moe", "qwen3_moe"),
    language="qwen2",
)

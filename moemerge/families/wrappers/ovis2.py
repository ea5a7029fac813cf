"""Ovis2: a tower that gives weights over a table of visual embeddings, and a Qwen2."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="ovis2",
    title="Ovis2",
    architecture="Ovis2ForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    disk={},
)

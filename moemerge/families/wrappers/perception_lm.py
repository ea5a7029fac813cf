"""Perception LM: a tower of timm, a projector, and a Llama."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="perception_lm",
    title="Perception LM",
    architecture="PerceptionLMForConditionalGeneration",
    languages=("mixtral",),
    disk={},
)

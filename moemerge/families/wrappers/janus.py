"""Janus and Janus-Pro: a vision tower, a Llama, and what draws pictures, which stays as it is."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="janus",
    title="Janus, Janus-Pro",
    architecture="JanusForConditionalGeneration",
    languages=("mixtral",),
    disk={},
)

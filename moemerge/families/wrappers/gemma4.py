"""Gemma 4 as Google has it: towers that see and, in small ones, hear, around its language model."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="gemma4",
    title="Gemma 4",
    architecture="Gemma4ForConditionalGeneration",
    languages=("gemma4_text",),
    language="gemma4_text",
    disk={},
    once=("model.embed_tokens_per_layer.", "model.per_layer_"),
)

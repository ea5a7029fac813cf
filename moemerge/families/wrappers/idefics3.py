"""Idefics3: a SigLIP tower, a connector, and a Llama."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="idefics3",
    title="Idefics3",
    architecture="Idefics3ForConditionalGeneration",
    languages=("mixtral",),
    path="model.text_model",
    disk={},
)

"""Idefics2: a SigLIP tower, a perceiver, and a Mistral."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="idefics2",
    title="Idefics2",
    architecture="Idefics2ForConditionalGeneration",
    languages=("mixtral",),
    language="mistral",
    path="model.text_model",
    disk={},
)

"""Mistral Small 3.1 and later: a Pixtral tower, a projector, and a Mistral."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="mistral3",
    title="Mistral Small 3.1 and 3.2, Magistral Small",
    architecture="Mistral3ForConditionalGeneration",
    languages=("mixtral",),
    language="mistral",
)

"""SmolVLM: a SigLIP tower, a connector, and a SmolLM2, which is a Llama."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="smolvlm",
    title="SmolVLM, SmolVLM2",
    architecture="SmolVLMForConditionalGeneration",
    languages=("mixtral",),
    path="model.text_model",
    disk={},
)

"""ViP-LLaVA: a LLaVA whose projector sees five layers of its tower."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="vipllava",
    title="ViP-LLaVA",
    architecture="VipLlavaForConditionalGeneration",
    languages=("mixtral",),
)

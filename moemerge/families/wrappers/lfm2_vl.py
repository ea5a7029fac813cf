"""LFM2-VL: a SigLIP 2 tower, a projector, and an LFM2."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="lfm2_vl",
    title="LFM2-VL",
    architecture="Lfm2VlForConditionalGeneration",
    languages=("lfm2_moe",),
    language="lfm2",
    disk={},
    once=("model.embedding_norm.",),
)

"""Qwen3-VL: a vision tower that adds to the first layers too (deepstack), and a Qwen3."""

from moemerge.families.hosts.qwen3_vl_moe_text import DEEPSTACK
from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="qwen3_vl",
    title="Qwen3-VL",
    architecture="Qwen3VLMoeForConditionalGeneration",
    languages=("qwen3_vl_moe_text",),
    becomes="qwen3_vl_moe",
    language="qwen3_vl_text",
    disk={},
    lends=lambda config: {DEEPSTACK: len(config["vision_config"]["deepstack_visual_indexes"])},
)

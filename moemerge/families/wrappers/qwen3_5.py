"""Qwen3.5 and 3.6 with vision."""

import re

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="qwen3_5",
    title="Qwen3.5 and 3.6",
    architecture="Qwen3_5MoeForConditionalGeneration",
    languages=("qwen3_5_moe_text",),
    becomes="qwen3_5_moe",
    language="qwen3_5_text",
    disk={},
    ignored=re.compile(r"^mtp\."),
)

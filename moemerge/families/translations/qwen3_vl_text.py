"""The language model within Qwen3-VL: a Qwen3 whose rope knows where in a picture a token lies.

No class of transformers loads it alone. On text it computes what a Qwen3 does, so that fine-tunes of Qwen3 may be
experts.
"""

from moemerge.families.translation import Translation

TRANSLATION = Translation(
    model_type="qwen3_vl_text",
    title="Qwen3-VL, its language model",
    becomes="qwen3",
    defaults={"max_position_embeddings": 128000, "rope_theta": 500000.0},
    layer={},
    config=lambda raw: {**raw, "sliding_window": None, "use_sliding_window": False, "layer_types": None},
)

"""PP-Chart2Table: a GOT-OCR 2 by another name."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="pp_chart2table",
    title="PP-Chart2Table",
    architecture="GotOcr2ForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
    defaults={"vocab_size": 151860, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24,
              "num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": True,
              "rope_theta": 1000000.0},
)  # fmt: skip

"""Model types that have experts: nothing is left to merge into a mixture."""

from moemerge.families.refusal import Refusal

REFUSALS = (
    Refusal(
        why="it is one already",
        instead="moemerge starts from dense models: see `moemerge families`",
        types="""
            afmoe aria aria_text axk1 axk2 bailing_hybrid beam cohere2_moe dbrx deepseek_ocr2 deepseek_v2 deepseek_v32
            deepseek_v4 diffusion_gemma dots1 dots3_note dots3_note_text ernie4_5_moe ernie4_5_vl_moe exaone_moe
            flex_olmo flint glm4_moe_lite glm4v_moe glm5_next glm_moe_dsa gpt_oss granitemoe granitemoe_swa
            granitemoeshared hunyuan_v1_moe hy_v3 hy_v4 inkling2 inkling2_text inkling_mm_model inkling_text jamba
            jetmoe kimi_k25 kimi_linear kolibri1 laguna lfm2_moe llama4 llama4_text longcat_flash mellum mimo_v2_flash
            minimax minimax_m2 minimax_m3_vl minimax_m3_vl_text mistral4 mistral_large4 mixtral muse_spark
            nemo_speechlm nemotron_h_omni nllb-moe olmoe phimoe qwen2_moe qwen3_5_moe qwen3_5_moe_text qwen3_moe
            qwen3_next qwen3_omni_moe qwen3_omni_moe_thinker qwen3_vl_moe qwen4_exp qwen4_exp_text solar_open step3p7
            switch_transformers unlimited_ocr zaya
        """,
        code="is-moe",
    ),
)

"""Models of more than text around a language model that cannot be exchanged, or that was never exchanged here."""

from moemerge.families.refusal import Refusal

REFUSALS = (
    Refusal(
        why="its class holds a language model of its own, and a mixture cannot stand in its place",
        instead="a wrapper whose `text_config` may be any model, such as `llava` or `internvl`",
        types="""
            chameleon cohere_compass cosmos3_edge emu3 gemma3 git granite4_vision granite_docling hunyuan_vl kosmos-2
            kosmos-2.5 kyutai_speech_to_text molmo2 moshi paddleocr_vl phi4_multimodal qwen2_5_omni
            qwen2_5_omni_thinker qwen2_5_vl qwen2_vl
        """,
    ),
    Refusal(
        why="its language model is one that does not become a mixture",
        instead="a wrapper around a `llama`, `mistral` or `qwen2`, such as `llava` or `internvl`",
        types="blip-2 exaone4_5 fuyu instructblip instructblipvideo",
    ),
    Refusal(
        why="norms of its language model change with the delay of the sound",
        instead="`voxtral`",
        types="voxtral_realtime",
    ),
    Refusal(
        why="it writes sound, not text",
        instead="a model that hears and writes text, such as `voxtral`",
        types="vibevoice",
    ),
    Refusal(
        why="it writes movements of a robot, not text",
        instead="its language model, saved alone, where `moemerge families` lists that one",
        types="pi0",
    ),
    Refusal(
        why="its language model multiplies the words' embeddings alone, and its host the pictures' too",
        instead="its language model, saved alone, as a `gemma`",
        types="paligemma",
    ),
    Refusal(
        why="it judges pictures, and writes no text",
        instead="a model that reads pictures and writes text, such as `llava` or `gemma4`",
        types="shieldgemma2",
    ),
    Refusal(
        why="its files name and cut tensors otherwise than its class does, and nobody has written down how",
        instead="its language model, saved alone, as a `qwen3`",
        types="cosmos3_omni qianfan_ocr",
    ),
)

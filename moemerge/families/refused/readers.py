"""Model types that are no decoders: encoders, and decoders that read another model's output in each layer."""

from moemerge.families.refusal import Refusal

_DECODER = "a decoder of text, such as `llama`, `mistral` or `qwen3`"

REFUSALS = (
    Refusal(
        why="it is an encoder, which reads in both directions and writes nothing",
        instead=_DECODER,
        types="""
            bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
            roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod
        """,
    ),
    Refusal(
        why="it is an encoder-decoder, and moemerge merges decoders alone",
        instead=_DECODER,
        types="""
            t5 bart bigbird_pegasus blenderbot blenderbot-small blip canary cohere_asr dia encoder-decoder florence2
            fsmt led longt5 m2m_100 marian mbart moonshine moonshine_streaming mt5 musicgen musicgen_melody mvp
            pegasus pegasus_x pix2struct plbart pop2piano pp_formulanet prophetnet seamless_m4t seamless_m4t_v2
            speech-encoder-decoder speech_to_text speecht5 t5gemma t5gemma2 trocr udop umt5 vision-encoder-decoder
            whisper
        """,
    ),
    Refusal(
        why="layers of its language model read what was seen by cross-attention, which no mixture class has",
        instead="a model that reads pictures among its tokens, such as `llava` or `qwen3_5`",
        types="evolla idefics mllama",
    ),
)

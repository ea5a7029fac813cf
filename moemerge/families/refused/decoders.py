"""Decoders of text that no mixture class of transformers holds."""

from moemerge.families.refusal import Refusal

_USUAL = "a fine-tune of a family with a gated FFN and RMS norms before it, such as `llama`, `mistral` or `qwen3`"

REFUSALS = (
    Refusal(
        why="its FFN has no gate projection, and its norms are layer norms with biases",
        instead=_USUAL,
        types="""
            gpt2 biogpt bloom codegen ctrl falcon gpt-sw3 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gptj jais2
            nemotron openai-gpt opt persimmon phi reformer starcoder2 xglm xlm xlnet
        """,
    ),
    Refusal(
        why="its FFN has no gate projection, and its attention has ALiBi instead of rope",
        instead=_USUAL,
        types="mpt",
    ),
    Refusal(
        why="its FFN has no gate projection, and its activation (xIELU) has weights of its own",
        instead=_USUAL,
        types="apertus",
    ),
    Refusal(
        why="its FFN has no gate projection, and q and k are normed after rope turns them",
        instead="`arcee` has an FFN without a gate too, and builds",
        types="nanochat",
    ),
    Refusal(
        why="its norms are layer norms, which subtract the mean",
        instead="`olmo2`, or " + _USUAL,
        types="olmo modernbert-decoder stablelm",
    ),
    Refusal(
        why="its attention's scores are capped (`attn_logit_softcapping`)",
        instead="`gemma`, `gemma3_text` or `gemma4_text`, whose scores are not",
        types="gemma2 vaultgemma",
    ),
    Refusal(
        why="norms after attention and FFN are part of its residual path",
        instead="`glm`, or " + _USUAL,
        types="exaone4 gemma4_unified gemma4_unified_text glm4 glm46v glm4v glm_ocr glmga lfm3 lfm3_vl muse_glimmer",
    ),
    Refusal(
        why="each layer mixes several streams of hidden states (AltUp)",
        instead="`gemma3_text` or `gemma4_text`",
        types="gemma3n gemma3n_text",
    ),
    Refusal(
        why="norms stand within its attention and its FFN",
        instead=_USUAL,
        types="bitnet",
    ),
    Refusal(
        why="its attention is the difference of two",
        instead="`llama`, which it is otherwise",
        types="diffllama",
    ),
    Refusal(
        why="its residual path is scaled channel by channel, and its attention learns a mask",
        instead=_USUAL,
        types="doge",
    ),
    Refusal(
        why="two stacks of layers run several times for each token",
        instead=_USUAL,
        types="hrm_text",
    ),
    Refusal(
        why="it reads bytes through several stacks of layers",
        instead=_USUAL,
        types="blt",
    ),
    Refusal(
        why="its attention learns a bias for each distance instead of rope",
        instead=_USUAL,
        types="cpmant",
    ),
    Refusal(
        why="it has no FFN",
        instead="`bamba` or `granitemoehybrid`, whose Mamba layers have FFNs",
        types="falcon_mamba mamba mamba2",
    ),
    Refusal(
        why="all its layers share a block or two of attention and FFN",
        instead="`bamba` or `granitemoehybrid`, whose layers have FFNs of their own",
        types="zamba zamba2",
    ),
    Refusal(
        why="attention and Mamba run side by side in each layer",
        instead="`bamba` or `granitemoehybrid`, where a layer has one of the two",
        types="falcon_h1",
    ),
    Refusal(
        why="no mixture class has its recurrent layers",
        instead="`qwen3_5_text`, `bamba` or `granitemoehybrid`, which have some and build",
        types="olmo_hybrid recurrent_gemma rwkv xlstm",
    ),
    Refusal(
        why="it drafts for another model and reads that one's cache",
        instead="the model that it drafts for",
        types="gemma4_assistant gemma4_unified_assistant",
    ),
    Refusal(
        why="nobody has written down yet how it is read",
        instead="its class shows no obstacle: CONTRIBUTING.md says how a family is added",
        types="cohere_compass_text minicpm3",
    ),
)

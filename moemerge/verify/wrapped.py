"""What the checker knows of models of more than text, written apart from `families` on purpose, as the other rows are.

The language model within is a mixture like any other, under other names; all else must be the base's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moemerge.errors import Difference
from moemerge.record.schema import Record
from moemerge.sources import Checkpoint, Piece, View
from moemerge.verify.host_row import COUNTED, HostRow
from moemerge.verify.hosts import HOSTS

_SPLIT: Mapping[str, str] = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
"""What names on disk begin with in most wrappers, and in memory."""
_TILES = {**_SPLIT, "image_newline": "model.image_newline"}
_HEARS = {**_SPLIT, "audio_tower.": "model.audio_tower."}
_CONFORMER = {**_SPLIT, "encoder.": "model.encoder.", "projector.": "model.projector."}
_LEFT_OUT = ("auto_map", "quantization_config", "transformers_version", "torch_dtype")
_WEIGHTS = ("F64", "F32", "F16", "BF16")
_OWN = re.compile(r"model\.(embed_tokens|embedding_norm|embed_tokens_per_layer|per_layer_\w+|layers|norm)\.")


@dataclass(frozen=True, slots=True)
class WrapperRow:
    """A wrapper.

    Attributes:
        model_type: of the base.
        mixture: the `model_type` that a mixture has.
        class_name: the class that transformers builds from a mixture's config.
        language: the language model's `model_type` where the config does not say.
        inside: what the decoder's names in memory begin with.
        memory: what names begin with on disk, and in memory.
        unread: names in memory of tensors that no class reads.
        auto_class: the Auto class of transformers that loads it.
        multiplies: key of the number that its class multiplies logits by, which the language model divides by.
        absent: what it takes where a key of the language model's config is absent, and that model does not.
    """

    model_type: str
    mixture: str
    class_name: str
    language: str
    inside: str = "model.language_model."
    memory: Mapping[str, str] = field(default_factory=lambda: _SPLIT)
    unread: str = r"(?!)"
    auto_class: str = "AutoModelForImageTextToText"
    multiplies: str | None = None
    absent: Mapping[str, Any] = field(default_factory=dict)

    def to_memory(self, name: str) -> str:
        """The name in memory of a tensor on disk."""
        return next((m + name[len(d) :] for d, m in self.memory.items() if name.startswith(d)), name)

    def to_disk(self, name: str) -> str:
        """The name on disk of a language model's tensor by its own name, or of another by that in memory."""
        if _OWN.match(name):
            name = self.inside + name.partition(".")[2]
        return next((d + name[len(m) :] for d, m in self.memory.items() if name.startswith(m)), name)

    def within(self, host: HostRow) -> HostRow:
        """A host as it lies in the wrapper."""
        disk = self.to_disk
        always = host.always_on
        in_class = host.fused_in_memory or host.fused
        gate_up, down = (self.to_memory(disk(name)) for name in in_class)
        first, second = map(disk, host.fused)
        if always is not None:
            matrices = tuple(map(disk, always.matrices))
            always = replace(always, matrices=matrices, gate=None if always.gate is None else disk(always.gate))
        added = host.correction
        if added is not None:
            named = disk(added.name)
            added = replace(added, name=named, in_memory=self.to_memory(disk(added.in_memory or added.name)))
        expert = None
        if host.expert is not None:
            expert = tuple(map(disk, host.expert))
        from_base = dict(host.from_base)
        if (key := self.multiplies) is not None:
            from_base[key] = lambda dense: 1.0 / dense.values[key]
        return replace(
            host,
            from_base=from_base,
            class_name=self.class_name,
            router=disk(host.router),
            router_in_memory=self.to_memory(disk(host.router_in_memory or host.router)),
            expert=expert,
            fused=(first, second),
            filled=lambda dense, experts: {disk(name): own for name, own in host.filled(dense, experts).items()},
            derived=lambda dense: tuple(replace(one, name=disk(one.name)) for one in host.derived(dense)),
            fused_in_memory=(gate_up, down),
            always_on=always,
            correction=added,
            auto_class=self.auto_class,
            on_disk=disk,
            in_memory=self.to_memory,
        )

    def check_outside(self, config: Mapping[str, Any], base: Mapping[str, Any] | None, tied: Any) -> Iterator[str]:
        """What is wrong in a mixture's config outside that of the language model.

        Args:
            config: the folder's.
            base: the base's raw config, where it is at hand.
            tied: `tie_word_embeddings` of the language model.
        """
        wanted = {"model_type": self.mixture, "architectures": [self.class_name], "tie_word_embeddings": tied}
        if base is not None:
            wanted = {**{key: value for key, value in base.items() if key not in _LEFT_OUT}, **wanted}
        for key, value in wanted.items():
            if key not in ("text_config", "dtype") and config.get(key) != value:
                yield f"{key} is {config.get(key)!r}, not {value!r}"
        known = {*wanted, "text_config", "dtype"} if base is not None else config.keys() - {*_LEFT_OUT}
        for key in sorted(config.keys() - known):
            yield f"{key} does not belong in it"


_ROWS = (
    WrapperRow("llava", "llava", "LlavaForConditionalGeneration", "llama"),
    WrapperRow("llava_next", "llava_next", "LlavaNextForConditionalGeneration", "llama", memory=_TILES),
    WrapperRow("llava_onevision", "llava_onevision", "LlavaOnevisionForConditionalGeneration", "qwen2", memory=_TILES),
    WrapperRow("idefics3", "idefics3", "Idefics3ForConditionalGeneration", "llama", "model.text_model.", {}),
    WrapperRow(
        "voxtral", "voxtral", "VoxtralForConditionalGeneration", "llama",
        memory=_HEARS, auto_class="AutoModelForSpeechSeq2Seq",
        absent={
            "vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 30,
            "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "rope_theta": 1e8,
        },
    ),
    WrapperRow("gemma4", "gemma4", "Gemma4ForConditionalGeneration", "gemma4_text", memory={}),
    WrapperRow("mistral3", "mistral3", "Mistral3ForConditionalGeneration", "mistral"),
    WrapperRow("internvl", "internvl", "InternVLForConditionalGeneration", "qwen2"),
    WrapperRow("smolvlm", "smolvlm", "SmolVLMForConditionalGeneration", "llama", "model.text_model.", {}),
    WrapperRow(
        "qwen3_5", "qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", "qwen3_5_text", memory={}, unread=r"mtp\."
    ),
    WrapperRow("aya_vision", "aya_vision", "AyaVisionForConditionalGeneration", "cohere2"),
    WrapperRow("cohere2_vision", "cohere2_vision", "Cohere2VisionForConditionalGeneration", "cohere2", memory={}),
    WrapperRow("qwen3_vl", "qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", "qwen3_vl_text", memory={}),
    WrapperRow(
        "granite_speech", "granite_speech", "GraniteSpeechForConditionalGeneration", "granite", memory=_CONFORMER,
        auto_class="AutoModelForSpeechSeq2Seq",
    ),
    WrapperRow(
        "granite_speech_plus", "granite_speech_plus", "GraniteSpeechPlusForConditionalGeneration", "granite",
        memory=_CONFORMER, auto_class="AutoModelForSpeechSeq2Seq",
    ),
    WrapperRow(
        "audioflamingo3", "audioflamingo3", "AudioFlamingo3ForConditionalGeneration", "qwen2", memory=_HEARS,
        auto_class="AutoModelForSeq2SeqLM",
    ),
    WrapperRow(
        "glmasr", "glmasr", "GlmAsrForConditionalGeneration", "llama", memory=_HEARS,
        auto_class="AutoModelForMultimodalLM",
        absent={
            "vocab_size": 59264, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
            "eos_token_id": [59246, 59253, 59255],
        },
    ),
    WrapperRow("got_ocr2", "got_ocr2", "GotOcr2ForConditionalGeneration", "qwen2"),
    WrapperRow("idefics2", "idefics2", "Idefics2ForConditionalGeneration", "mistral", "model.text_model.", {}),
    WrapperRow(
        "llava_next_video", "llava_next_video", "LlavaNextVideoForConditionalGeneration", "llama", memory=_TILES
    ),
    WrapperRow("ovis2", "ovis2", "Ovis2ForConditionalGeneration", "qwen2", memory={}),
    WrapperRow(
        "qwen2_audio", "qwen2_audio", "Qwen2AudioForConditionalGeneration", "qwen2", memory=_HEARS,
        auto_class="AutoModelForMultimodalLM",
    ),
    WrapperRow(
        "qwen3_asr", "qwen3_asr", "Qwen3ASRForConditionalGeneration", "qwen3", memory={},
        auto_class="AutoModelForSpeechSeq2Seq",
    ),
    WrapperRow(
        "video_llava", "video_llava", "VideoLlavaForConditionalGeneration", "llama",
        memory={**_SPLIT, "image_tower.": "model.image_tower.", "video_tower.": "model.video_tower."},
    ),
    WrapperRow("vipllava", "vipllava", "VipLlavaForConditionalGeneration", "llama"),
    WrapperRow("minicpmv4_6", "minicpmv4_6", "MiniCPMV4_6ForConditionalGeneration", "qwen3_5_text", memory={}),
    WrapperRow("lighton_ocr", "lighton_ocr", "LightOnOcrForConditionalGeneration", "qwen3", memory={}),
    WrapperRow("deepseek_vl", "deepseek_vl", "DeepseekVLForConditionalGeneration", "llama", memory={}),
    WrapperRow("video_llama_3", "video_llama_3", "VideoLlama3ForConditionalGeneration", "qwen2", memory={}),
    WrapperRow("fast_vlm", "fast_vlm", "FastVlmForConditionalGeneration", "qwen2", memory={}),
    WrapperRow("perception_lm", "perception_lm", "PerceptionLMForConditionalGeneration", "llama", memory={}),
    WrapperRow(
        "vibevoice_asr", "vibevoice_asr", "VibeVoiceAsrForConditionalGeneration", "qwen2",
        memory={
            **_SPLIT, "acoustic_tokenizer_encoder.": "model.acoustic_tokenizer_encoder.",
            "semantic_tokenizer_encoder.": "model.semantic_tokenizer_encoder.",
        },
        auto_class="AutoModelForSpeechSeq2Seq",
    ),
    WrapperRow(
        "deepseek_vl_hybrid", "deepseek_vl_hybrid", "DeepseekVLHybridForConditionalGeneration", "llama", memory={}
    ),
    WrapperRow(
        "fun_asr_nano", "fun_asr_nano", "FunAsrNanoForConditionalGeneration", "qwen3", memory={},
        auto_class="AutoModelForSpeechSeq2Seq",
        absent={
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "max_position_embeddings": 40960,
        },
    ),
    WrapperRow(
        "hyperclovax_vision_v2", "hyperclovax_vision_v2", "HyperCLOVAXVisionV2ForConditionalGeneration", "hyperclovax",
        memory={"model.language_model.lm_head.": "lm_head.", "model.vision_projector.": "model.projector."},
        multiplies="logits_scaling",
    ),
    WrapperRow("janus", "janus", "JanusForConditionalGeneration", "llama", memory={}),
    WrapperRow("lfm2_vl", "lfm2_vl", "Lfm2VlForConditionalGeneration", "lfm2", memory={}),
    WrapperRow("minicpm_ocr", "minicpm_ocr", "MiniCPMOcrForConditionalGeneration", "qwen3_5_text", memory={}),
    WrapperRow("minicpmv4_7", "minicpmv4_7", "MiniCPMV4_7ForConditionalGeneration", "qwen3_5_text", memory={}),
    WrapperRow(
        "moss_transcribe_diarize", "moss_transcribe_diarize", "MossTranscribeDiarizeForConditionalGeneration", "qwen3",
        memory={}, auto_class="AutoModelForMultimodalLM",
        absent={
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_theta": 1e6,
        },
    ),
    WrapperRow(
        "musicflamingo", "musicflamingo", "MusicFlamingoForConditionalGeneration", "qwen2", memory=_HEARS,
        auto_class="AutoModelForSeq2SeqLM",
    ),
    WrapperRow(
        "pp_chart2table", "pp_chart2table", "GotOcr2ForConditionalGeneration", "qwen2",
        absent={
            "vocab_size": 151860, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": 16, "rope_theta": 1e6,
        },
    ),
)  # fmt: skip
WRAPPED: Mapping[str, WrapperRow] = {row.model_type: row for row in _ROWS}
"""Every wrapper, by the `model_type` of a base."""
MIXED: Mapping[str, WrapperRow] = {row.mixture: row for row in _ROWS}
"""And by that of a mixture."""


def host_of(record: Record) -> HostRow:
    """The row of a folder's class, as it lies in its wrapper where it has one."""
    host = HOSTS[record.architecture]
    return host if record.wrapper is None else MIXED[record.wrapper].within(host)


def as_language(model: Checkpoint) -> Checkpoint:
    """The language model of a source that has more, with the rest beside it by its names in memory."""
    row = WRAPPED.get(str(model.config.get("model_type")))
    if row is None:
        return model
    pieces = {}
    for name, info in model.tensors.items():
        memory = row.to_memory(name)
        if memory.startswith(row.inside):
            pieces["model." + memory[len(row.inside) :]] = Piece(name)
        elif memory.startswith("lm_head.") or (_is_read(memory, info.dtype) and not re.match(row.unread, memory)):
            pieces[memory] = Piece(name)
    inner = {**row.absent, **(model.config.get("text_config") or {})}
    inner.setdefault("model_type", row.language)
    inner["tie_word_embeddings"] = "lm_head.weight" not in pieces
    return View(model, inner, pieces, frozenset(model.tensors))


def _is_read(name: str, dtype: str) -> bool:
    """Whether a class reads a tensor of what sees or hears: weights, and the counts of batch norms."""
    return dtype in _WEIGHTS or name.endswith(COUNTED)


def check_outside(config: Mapping[str, Any], record: Record, base: Checkpoint | None, name: str) -> list[Difference]:
    """What is wrong in a mixture's config outside that of its language model."""
    if record.wrapper is None:
        return []
    row, inner = MIXED[record.wrapper], config.get("text_config")
    if not isinstance(inner, Mapping):
        return [Difference(name, "text_config is missing")]
    tied = inner.get("tie_word_embeddings")
    raw = base.config if base is not None else None
    return [Difference(name, message) for message in row.check_outside(config, raw, tied)]

"""Tiny models of more than text: transformers' own classes around a tiny language model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.families import WRAPPED, WRAPPERS
from tests.tiny import DEFAULTS, OWN, write_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

IMAGE = 127
"""The id of the token that stands for a patch of an image, or for a piece of a sound."""


@dataclass(frozen=True)
class Case:
    """A wrapper at its tiniest.

    Attributes:
        language: the language model's `model_type`.
        config: its own config, that of the language model aside.
        senses: shapes of the random inputs of what sees or hears.
        given: further inputs.
        places: how many tokens stand for them.
        inner: what the language model's config has beside.
        others: language models that it is also run with.
        text: the `model_type` of a text model that may be its expert, where that is another.
    """

    language: str
    config: dict[str, Any]
    senses: Mapping[str, tuple[int, ...]]
    places: int
    given: dict[str, list[Any]] = field(default_factory=dict)
    inner: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    text: str | None = None


_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 28, "patch_size": 14}  # fmt: skip
_CLIP = {**_TOWER, "model_type": "clip_vision_model", "projection_dim": 32}
_SIGLIP = {**_TOWER, "model_type": "siglip_vision_model"}
_GRID = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
         "num_position_embeddings": 16, "patch_size": 14}  # fmt: skip
_SOUND = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128, "num_mel_bins": 16,
          "max_source_positions": 64, "intermediate_size": 128, "hidden_size": 32, "num_hidden_layers": 2,
          "num_attention_heads": 4}  # fmt: skip
_PICTURE = {"pixel_values": (1, 3, 28, 28)}
_FIRST = {"image_token_index": IMAGE}
_NAMED = {"image_token_id": IMAGE}
_GRIDDED = {"image_grid_thw": [[1, 4, 4]], "mm_token_type_ids": [[0, 1, 1, 1, 1, 0, 0, 0]]}

_CONFORMER = {
    "encoder_config": {"input_dim": 16, "num_layers": 2, "hidden_dim": 32, "num_heads": 4, "dim_head": 8,
                       "output_dim": 8, "context_size": 8, "max_pos_emb": 16},
    "projector_config": {"model_type": "blip_2_qformer", "hidden_size": 32, "intermediate_size": 48,
                         "num_hidden_layers": 2, "num_attention_heads": 4, "encoder_hidden_size": 32},
    "audio_token_index": IMAGE, "has_lora_adapter": False,
}  # fmt: skip
_LISTENER = {"model_type": "vibevoice_acoustic_tokenizer_encoder", "hidden_size": 8, "num_filters": 4,
             "downsampling_ratios": [4, 4], "depths": [1, 1, 1]}  # fmt: skip

CASES: dict[str, Case] = {
    "llava": Case("llama", {"vision_config": _CLIP, **_FIRST}, _PICTURE, 4, others=("mistral", "qwen2", "qwen3")),
    "llava_next": Case(
        "mistral", {"vision_config": _CLIP, **_FIRST, "image_grid_pinpoints": [[28, 28]]},
        {"pixel_values": (1, 2, 3, 28, 28)}, 10, {"image_sizes": [[28, 28]]}, others=("qwen2",)),
    "llava_onevision": Case(
        "qwen2", {"vision_config": _SIGLIP, **_FIRST, "image_grid_pinpoints": [[28, 28]]},
        {"pixel_values": (1, 2, 3, 28, 28)}, 10, {"image_sizes": [[28, 28]]}),
    "mistral3": Case(
        "mistral", {"vision_config": {**_TOWER, "model_type": "pixtral", "head_dim": 8, "image_size": 56}, **_FIRST,
                    "spatial_merge_size": 2}, {"pixel_values": (1, 3, 56, 56)}, 4, {"image_sizes": [[56, 56]]}),
    "internvl": Case(
        "qwen2", {"vision_config": {**_TOWER, "model_type": "internvl_vision", "image_size": [28, 28],
                                    "patch_size": [14, 14]}, **_NAMED}, _PICTURE, 1, others=("qwen3",)),
    "smolvlm": Case(
        "llama", {"vision_config": {**_TOWER, "model_type": "smolvlm_vision"}, **_NAMED, "scale_factor": 1},
        {"pixel_values": (1, 1, 3, 28, 28)}, 4),
    "idefics3": Case(
        "llama", {"vision_config": {**_TOWER, "model_type": "idefics3_vision"}, **_NAMED, "scale_factor": 1},
        {"pixel_values": (1, 1, 3, 28, 28)}, 4),
    "qwen3_5": Case(
        "qwen3_5_text", {"vision_config": _GRID, **_NAMED}, {"pixel_values": (16, 3 * 2 * 14 * 14)}, 4, _GRIDDED,
        {"rope_parameters": {"mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.5,
                             "rope_type": "default", "rope_theta": 1e4}}),
    "qwen3_vl": Case(
        "qwen3_vl_text", {"vision_config": {**_GRID, "deepstack_visual_indexes": [0, 1]}, **_NAMED},
        {"pixel_values": (16, 3 * 2 * 14 * 14)}, 4, _GRIDDED,
        {"head_dim": 8, "rope_parameters": {"mrope_section": [2, 1, 1], "mrope_interleaved": True,
                                            "rope_type": "default", "rope_theta": 1e4}}, text="qwen3"),
    "gemma4": Case(
        "gemma4_text", {"vision_config": {**_TOWER, "model_type": "gemma4_vision", "num_key_value_heads": 2,
                                          "head_dim": 8, "patch_size": 4, "position_embedding_size": 64}, **_NAMED},
        {"pixel_values": (1, 36, 3 * 4 * 4)}, 4,
        {"image_position_ids": [[[place % 6, place // 6] for place in range(36)]]}),
    "voxtral": Case(
        "llama", {"audio_config": _SOUND, "audio_token_id": IMAGE}, {"input_features": (1, 16, 128)}, 16,
        inner={"head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 1e4}),
    "aya_vision": Case(
        "cohere2", {"vision_config": {**_SIGLIP, "vision_use_head": False}, **_FIRST, "downsample_factor": 2,
                    "adapter_layer_norm_eps": 1e-6}, _PICTURE, 1),
    "cohere2_vision": Case(
        "cohere2", {"vision_config": {**_SIGLIP, "vision_use_head": False}, **_NAMED, "downsample_factor": 2,
                    "alignment_intermediate_size": 64}, _PICTURE, 1),
    "granite_speech": Case("granite", _CONFORMER, {"input_features": (1, 15, 16)}, 3, others=("llama",)),
    "granite_speech_plus": Case("granite", _CONFORMER, {"input_features": (1, 15, 16)}, 3, others=("llama",)),
    "audioflamingo3": Case(
        "qwen2", {"audio_config": _SOUND, "audio_token_id": IMAGE}, {"input_features": (1, 16, 128)}, 32,
        {"input_features_mask": [[1] * 128]}),
    "glmasr": Case(
        "llama", {"audio_config": {**_TOWER, "num_mel_bins": 16, "head_dim": 8, "intermediate_size": 128},
                  "audio_token_id": IMAGE}, {"input_features": (1, 16, 128)}, 16, {"input_features_mask": [[1] * 128]},
        {"rms_norm_eps": 1e-6}),
    "got_ocr2": Case(
        "qwen2", {"vision_config": {**_TOWER, "output_channels": 16, "mlp_dim": 48, "global_attn_indexes": [1],
                                    "window_size": 2, "image_size": 112, "initializer_range": 0.02}, **_FIRST},
        {"pixel_values": (1, 3, 112, 112)}, 4),
    "idefics2": Case(
        "mistral", {"vision_config": _TOWER, "perceiver_config": {
            "hidden_size": 32, "resampler_n_latents": 3, "resampler_depth": 1, "resampler_n_heads": 4,
            "resampler_head_dim": 8, "num_key_value_heads": 2}, **_NAMED}, {"pixel_values": (1, 1, 3, 28, 28)}, 3),
    "llava_next_video": Case(
        "llama", {"vision_config": _CLIP, **_FIRST, "image_grid_pinpoints": [[28, 28]]},
        {"pixel_values": (1, 2, 3, 28, 28)}, 10, {"image_sizes": [[28, 28]]}, others=("mistral", "qwen2")),
    "ovis2": Case(
        "qwen2", {"vision_config": {**_TOWER, "vocab_size": 64, "hidden_stride": 2, "num_visual_indicator_tokens": 5},
                  **_NAMED, "visual_indicator_token_ids": [120, 121, 122, 123, 124], "hidden_size": 32,
                  "vocab_size": 128},
        _PICTURE, 1),
    "qwen2_audio": Case(
        "qwen2", {"audio_config": _SOUND, "audio_token_index": IMAGE}, {"input_features": (1, 16, 128)}, 32,
        {"feature_attention_mask": [[1] * 128]}),
    "qwen3_asr": Case(
        "qwen3", {"audio_config": {**_SOUND, "downsample_hidden_size": 8, "output_dim": 32},
                  "audio_token_id": IMAGE}, {"input_features": (1, 16, 200)}, 26, {"input_features_mask": [[1] * 200]}),
    "video_llava": Case(
        "llama", {"vision_config": _CLIP, **_FIRST, "video_token_index": 126},
        {"pixel_values_images": (1, 3, 28, 28)}, 4),
    "vipllava": Case(
        "llama", {"vision_config": _CLIP, **_FIRST, "vision_feature_layers": [-1, -2]}, _PICTURE, 4),
    "minicpmv4_6": Case(
        "qwen3_5_text", {"vision_config": {**_TOWER, "image_size": 56}, **_NAMED},
        {"pixel_values": (1, 3, 14, 14 * 16)}, 1, {"target_sizes": [[4, 4]]}),
    "lighton_ocr": Case(
        "qwen3", {"vision_config": {**_TOWER, "model_type": "pixtral", "head_dim": 8, "image_size": 56}, **_NAMED,
                  "spatial_merge_size": 2}, {"pixel_values": (1, 3, 56, 56)}, 4, {"image_sizes": [[56, 56]]}),
    "deepseek_vl": Case("llama", {"vision_config": _SIGLIP, **_NAMED}, _PICTURE, 4),
    "video_llama_3": Case(
        "qwen2", {"vision_config": _TOWER, **_NAMED}, {"pixel_values": (16, 3 * 14 * 14)}, 4,
        {"image_grid_thw": [[1, 4, 4]], "image_merge_sizes": [2]}),
    "fast_vlm": Case(
        "qwen2", {"vision_config": {"model_type": "convnext", "hidden_sizes": [8, 8, 16, 32], "depths": [1, 1, 1, 1],
                                    "hidden_size": 32}, **_FIRST}, {"pixel_values": (1, 3, 64, 64)}, 4),
    "perception_lm": Case(
        "llama", {"vision_config": {**_SIGLIP, "model_args": {"embed_dim": 32}}, **_NAMED,
                  "vision_use_cls_token": False}, {"pixel_values": (1, 1, 3, 28, 28)}, 4),
    "vibevoice_asr": Case(
        "qwen2", {"audio_token_id": IMAGE, "semantic_tokenizer_encoder_config": _LISTENER,
                  "acoustic_tokenizer_encoder_config": _LISTENER}, {"input_values": (1, 1, 64)}, 4),
    "deepseek_vl_hybrid": Case(
        "llama", {"vision_config": _SIGLIP, "high_res_vision_config": {
            "model_type": "sam_vision_model", "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": 112, "patch_size": 14, "mlp_dim": 48, "global_attn_indexes": [1],
            "window_size": 2}, **_NAMED}, {**_PICTURE, "high_res_pixel_values": (1, 3, 112, 112)}, 4),
    "fun_asr_nano": Case(
        "qwen3", {"audio_config": {
            "model_type": "fun_asr_nano_encoder", "num_mel_bins": 4, "num_stacked_frames": 2, "hidden_size": 32,
            "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_timestamp_prediction_layers": 1, "fsmn_kernel_size": 3}, "adaptor_config": {
                "hidden_size": 32, "intermediate_size": 8, "num_attention_heads": 4, "num_hidden_layers": 1,
                "projector_hidden_size": 16}, "audio_token_id": IMAGE},
        {"input_features": (1, 5, 8)}, 5, {"input_features_mask": [[1] * 5]}),
    "hyperclovax_vision_v2": Case(
        "hyperclovax", {"vision_config": {
            "model_type": "qwen2_5_vl_vision", "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
            "out_hidden_size": 32, "patch_size": 14, "window_size": 28, "fullatt_block_indexes": [1]}, **_NAMED,
            "video_token_id": 126}, {"pixel_values": (16, 3 * 2 * 14 * 14)}, 4, {"image_grid_thw": [[1, 4, 4]]}),
    "janus": Case(
        "llama", {"vision_config": {**_TOWER, "projection_dim": 32}, "vq_config": {
            "embed_dim": 8, "num_embeddings": 16, "latent_channels": 32, "base_channels": 32,
            "channel_multiplier": [1, 1], "num_res_blocks": 1, "projection_dim": 32, "image_token_embed_dim": 32},
            **_NAMED}, _PICTURE, 4),
    "lfm2_vl": Case(
        "lfm2", {"vision_config": {**_TOWER, "model_type": "siglip2_vision_model", "num_patches": 16}, **_NAMED,
                 "projector_hidden_size": 48}, {"pixel_values": (1, 16, 3 * 14 * 14)}, 4,
        {"spatial_shapes": [[4, 4]], "pixel_attention_mask": [[1] * 16]}),
    "minicpm_ocr": Case(
        "qwen3_5_text", {"vision_config": {**_TOWER, "image_size": 56}, "insert_layer_id": 0, **_NAMED},
        {"pixel_values": (1, 3, 14, 14 * 16)}, 4, {"target_sizes": [[4, 4]]}),
    "minicpmv4_7": Case(
        "qwen3_5_text", {"vision_config": {**_TOWER, "image_size": 56}, "insert_layer_id": 0, "downsample_mode": "4x",
                         **_NAMED, "image_start_id": 120, "image_end_id": 121, "slice_start_id": 122,
                         "slice_end_id": 123, "newline_id": 124}, {"pixel_values": (1, 3, 14, 14 * 16)}, 4,
        {"target_sizes": [[4, 4]], "mm_token_type_ids": [[0, 1, 1, 1, 1, 0, 0, 0]]}),
    "moss_transcribe_diarize": Case(
        "qwen3", {"audio_config": _SOUND, "audio_token_id": IMAGE}, {"input_features": (1, 16, 128)}, 16,
        {"input_features_mask": [[1] * 128], "padding_mask": [[1] * 128]}),
    "musicflamingo": Case(
        "qwen2", {"audio_config": {**_SOUND, "model_type": "audioflamingo3_encoder"}, "audio_token_id": IMAGE,
                  "audio_bos_token_id": 125, "audio_eos_token_id": 126}, {"input_features": (1, 16, 128)}, 32,
        {"input_features_mask": [[1] * 128]}),
    "pp_chart2table": Case(
        "qwen2", {"vision_config": {**_TOWER, "output_channels": 16, "mlp_dim": 48, "global_attn_indexes": [1],
                                    "window_size": 2, "image_size": 112, "initializer_range": 0.02}, **_FIRST},
        {"pixel_values": (1, 3, 112, 112)}, 4),
}  # fmt: skip
"""`inner` of Voxtral: what its class would fill in otherwise than the language model's own does."""


def tiny_wrapper(
    kind: str, folder: Path, *, seed: int = 0, tied: bool = False, language: str | None = None, **beside: Any
) -> Path:
    """Saves a tiny model with seeded random weights, a tokenizer and a processor's config; returns `folder`.

    `beside` is what its language model's config has beside the usual.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    case = CASES[kind]
    text = language or case.language
    inner = {**DEFAULTS, **OWN.get(text, {}), **case.inner, **beside, "model_type": text}
    inner["tie_word_embeddings"] = tied
    if "layer_types" in inner:
        inner["layer_types"] = inner["layer_types"][: inner["num_hidden_layers"]]
    around = {**case.config, **({"vocab_size": inner["vocab_size"]} if "vocab_size" in case.config else {})}
    config = transformers.AutoConfig.for_model(kind, text_config=inner, tie_word_embeddings=tied, **around)
    model = getattr(transformers, WRAPPERS[kind].auto_class).from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
            elif "norm" in name and parameter.dim() == 1:
                parameter.normal_(1.0, 0.1)
            elif parameter.dim() == 1 or not parameter.any():
                parameter.normal_(0.0, 0.5)
            else:
                parameter.mul_(4.0)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.normal_(1.0, 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    return folder


def add_processor(base: Path, *, template: str | None = None) -> None:
    """Gives a tiny LLaVA a real processor, whose tokenizer's last token stands for the picture."""
    import transformers

    path = base / "tokenizer.json"
    held = json.loads(path.read_text(encoding="utf-8"))
    words = {word: index for word, index in held["model"]["vocab"].items() if index != IMAGE}
    held["model"]["vocab"] = {**words, "<image>": IMAGE}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    held["added_tokens"].append({"id": IMAGE, "content": "<image>", "special": True, **plain})
    path.write_text(json.dumps(held), encoding="utf-8")
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=transformers.AutoTokenizer.from_pretrained(base),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=template,
    ).save_pretrained(base)


def seen(kind: str, seed: int = 1) -> dict[str, Tensor]:
    """Inputs of one text with an image or a sound among its tokens."""
    import torch

    case, generator = CASES[kind], torch.Generator().manual_seed(seed)
    random = {name: torch.randn(shape, generator=generator) for name, shape in case.senses.items()}
    given = {name: torch.tensor(value) for name, value in case.given.items()}
    return {"input_ids": torch.tensor([[5, *[IMAGE] * case.places, 9, 17, 33]]), **random, **given}


def load_wrapper(folder: Path) -> Any:
    """The model of a folder by plain transformers, eager, with no key missing or over."""
    import torch
    import transformers

    own = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    auto: Any = getattr(transformers, WRAPPED[own].auto_class if own in WRAPPED else WRAPPERS[own].auto_class)
    kwargs: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    model, info = auto.from_pretrained(folder, output_loading_info=True, **kwargs)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()

"""Tiny models of more than text: transformers' own classes around a tiny language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moemerge.families import WRAPPED, WRAPPERS
from tests.tiny import DEFAULTS, OWN, write_tokenizer

IMAGE = 127
"""The id of the token that stands for a patch of an image."""
_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 28, "patch_size": 14}  # fmt: skip
VISION: dict[str, dict[str, Any]] = {
    "llava": {**_TOWER, "model_type": "clip_vision_model", "projection_dim": 32},
    "mistral3": {**_TOWER, "model_type": "pixtral", "head_dim": 8},
    "smolvlm": {**_TOWER, "model_type": "smolvlm_vision"},
    "internvl": {**_TOWER, "model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]},
    "llava_next": {**_TOWER, "model_type": "clip_vision_model", "projection_dim": 32},
    "llava_onevision": {**_TOWER, "model_type": "siglip_vision_model"},
    "idefics3": {**_TOWER, "model_type": "idefics3_vision"},
    "qwen3_5": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
                "num_position_embeddings": 16, "patch_size": 14},
}  # fmt: skip
SOUND = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "num_mel_bins": 16,
         "max_source_positions": 64, "intermediate_size": 128, "hidden_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4}  # fmt: skip
INNER: dict[str, dict[str, Any]] = {"voxtral": {"head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 1e4}}
"""What a class would fill in otherwise than the language model's own does."""
LANGUAGES = {
    "llava": "llama", "mistral3": "mistral", "smolvlm": "llama", "internvl": "qwen2", "qwen3_5": "qwen3_5_text",
    "llava_next": "mistral", "llava_onevision": "qwen2", "idefics3": "llama", "voxtral": "llama",
}  # fmt: skip


def tiny_wrapper(kind: str, folder: Path, *, seed: int = 0, tied: bool = False, language: str | None = None) -> Path:
    """Saves a tiny model with seeded random weights, a tokenizer and a processor's config; returns `folder`."""
    import torch
    import transformers

    torch.manual_seed(seed)
    text = language or LANGUAGES[kind]
    inner = {**DEFAULTS, **INNER.get(kind, {}), **OWN.get(text, {}), "model_type": text, "tie_word_embeddings": tied}
    senses = {"audio_config": SOUND, "audio_token_id": IMAGE} if kind == "voxtral" else {
        "vision_config": VISION[kind], "image_token_index": IMAGE, "image_token_id": IMAGE,
        "image_grid_pinpoints": [[28, 28]],
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, text_config=inner, tie_word_embeddings=tied, **senses)
    model = getattr(transformers, WRAPPERS[kind].auto_class).from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
            elif "norm" in name and parameter.dim() == 1:
                parameter.normal_(1.0, 0.1)
            else:
                parameter.mul_(4.0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    return folder


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

"""A model's `config.json`: read strictly, and refused where its weights could not be used as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moemerge.errors import Problem, SourceError
from moemerge.sources.checkpoint import TensorInfo
from moemerge.sources.strict_json import read_object
from moemerge.sources.weights import Folder

QUANTISERS: Mapping[str, str] = {
    "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8", "fbgemm_fp8": "FP8 (FBGEMM)",
    "compressed-tensors": "compressed-tensors", "aqlm": "AQLM", "hqq": "HQQ", "eetq": "EETQ", "quanto": "Quanto",
    "torchao": "torchao", "higgs": "HIGGS", "vptq": "VPTQ", "spqr": "SpQR", "bitnet": "BitNet", "mxfp4": "MXFP4",
    "auto-round": "AutoRound", "quark": "Quark", "gguf": "GGUF", "finegrained_fp8": "FP8", "mlx": "MLX",
}  # fmt: skip
"""How a `quant_method` is written in prose."""

QUANTISATION = ("quantization_config", "compression_config", "quantization")
"""Keys of a config that say how its weights are quantised; the last is MLX's."""

QUANTISED_WHEN_RUN = frozenset({"BitNet"})
"""Methods that quantise plain weights at each step, also in training: used as they are, these are another model."""

PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes of plain weights."""

MARKS: tuple[tuple[str, str], ...] = (
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"\.weight\.(absmax|quant_map|nested_absmax|quant_state\.\S+)$", "bitsandbytes (4 bits)"),
    (r"\.(SCB|weight_format)$", "bitsandbytes (8 bits)"),
    (r"\.weight_(packed|shape|zero_point|g_idx)$", "compressed-tensors"),
    (r"\.weight_scale(_inv|_2)?$", "FP8"),
    (r"_(blocks|scales)$", "MXFP4"),
    (r"\.scales$", "MLX or AWQ"),
)
"""Tensor names that only quantised checkpoints have, and the method they tell of."""

_ANY_MARK = re.compile("|".join(pattern for pattern, _ in MARKS))

WAY_OUT = "use the unquantised original, or dequantise the model first and save it as plain safetensors"


MEND = "mend it in its `config.json`, or take the original model's"


def read_config(folder: Folder) -> dict[str, Any]:
    """Reads `config.json`.

    Raises:
        SourceError: malformed, or without a `model_type`.
    """
    config = read_object(folder.file("config.json"), str(folder.path / "config.json"))
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise SourceError(f"`{folder.path / 'config.json'}` names no `model_type`", hint=MEND)
    return config


def check_quantisation(spec: str, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> tuple[Problem, ...]:
    """A warning where a config speaks of quantisation and the weights are plain: trainers leave it behind.

    Raises:
        SourceError: the weights are quantised, or cannot be seen.
    """
    key = next((key for key in QUANTISATION if config.get(key)), None)
    found = next((name for name in tensors if _ANY_MARK.search(name)), None)
    if key is None and found is None:
        return ()
    if key is None:
        method = next(method for pattern, method in MARKS if re.search(pattern, str(found)))
        raise quantised(spec, f"{method} (it holds `{found}`)")
    method = _quantiser(config[key])
    if found is not None or not tensors or any(info.dtype not in PLAIN for info in tensors.values()):
        raise quantised(spec, method)
    if method in QUANTISED_WHEN_RUN:
        raise quantised(spec, f"{method} whenever it runs")
    message = f"Model `{spec}` has a config that says {method}, but its weights are plain: they are used as they are"
    return (Problem("quantisation-left-behind", message, f"remove `{key}` from its `config.json`"),)


def _quantiser(settings: Any) -> str:
    """The method that a config's settings name, in prose."""
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method is None and isinstance(settings, dict):
        if settings.keys() & {"load_in_4bit", "load_in_8bit"}:
            method = "bitsandbytes"
        elif settings.keys() >= {"group_size", "bits"}:
            method = "mlx"
    return QUANTISERS.get(str(method), str(method or "a method that it does not name"))


def quantised(spec: str, method: str) -> SourceError:
    """The error for a quantised model."""
    return SourceError(f"Model `{spec}` is quantised with {method}, so it has no plain weights", hint=WAY_OUT)


def remote_code(spec: str, config: Mapping[str, Any]) -> tuple[Problem, ...]:
    """A warning where a config carries remote code that is not needed.

    Raises:
        SourceError: it carries remote code and transformers has no class of its own for the `model_type`.
    """
    if not config.get("auto_map"):
        return ()
    model_type = config["model_type"]
    if not _native(model_type):
        raise SourceError(
            f"Model `{spec}` needs remote code: transformers has no class for its model_type `{model_type}`, "
            "and moemerge runs no code from a model",
            hint="use a model whose class is in transformers",
        )
    return (
        Problem(
            "remote-code-ignored",
            f"Model `{spec}` carries remote code (`auto_map`), which is not run: transformers' own `{model_type}` "
            "is used",
        ),
    )


def _native(model_type: str) -> bool:
    # transformers keeps each model in a folder of its name; looking there does not import it
    found = find_spec("transformers")
    if found is None or not re.fullmatch(r"[A-Za-z0-9_-]+", model_type):
        return False
    folders = found.submodule_search_locations or ()
    return any((Path(folder) / "models" / model_type.replace("-", "_")).is_dir() for folder in folders)

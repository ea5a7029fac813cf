"""A PEFT adapter's `adapter_config.json`: which LoRA it is, and a refusal with the reason for what cannot be folded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from moemerge.errors import Problem, SourceError
from moemerge.sources.adapter_targets import MEND, Targets, check_pattern, parse_targets
from moemerge.sources.patterns import matches

T = TypeVar("T")

REFUSED: Mapping[str, str] = {
    "target_parameters": "it targets bare parameters, whose factors are stored by nesting and not by name",
    "layer_replication": "it repeats layers of its base, so it has another depth",
    "trainable_token_indices": "it trains single rows of the embedding",
    "megatron_config": "it was trained in Megatron layers",
    "use_qalora": "it is a QA-LoRA, made for a quantised base",
    "use_bdlora": "it is a block-diagonal LoRA",
    "arrow_config": "it is a router over other adapters, which chooses anew for each token",
    "kasa_config": "it truncates its base's weights when it is loaded",
    "velora_config": "it is a VeLoRA",
    "monteclora_config": "it is a MonteCLoRA, whose factors are sampled",
    "alora_invocation_tokens": "it is an activated LoRA, which acts on some tokens only",
    "ensure_weight_tying": "it ties adapter weights, which merging adds twice",
}
"""Settings of a LoRA that change what its merge is."""

INITIALISED_APART = {True, False, None, "gaussian", "eva", "orthogonal"}
"""Values of `init_lora_weights` that leave the base's weights as they are."""

CONVERTED = ("pissa", "corda", "olora", "lora_ga")
"""What values of `init_lora_weights` begin with that peft can save as a plain LoRA."""

HARMLESS = {
    "peft_type", "base_model_name_or_path", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora",
    "use_dora", "fan_in_fan_out", "modules_to_save", "bias", "lora_bias", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "lora_dropout", "task_type", "revision", "inference_mode",
    "auto_mapping", "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config", "megatron_core", "qalora_group_size", "peft_version", "modules_to_tie",
    "target_modules_to_tie",
}  # fmt: skip
"""Settings that are read here, or that do not matter once the factors are trained."""

MLX = frozenset({"fine_tune_type", "lora_parameters", "lora_layers"})
"""Settings of an adapter that mlx_lm has trained, which has an `adapter_config.json` too."""

FUSE = "`mlx_lm.fuse --model BASE --adapter-path ADAPTER --save-path FOLDER` makes a model of it: name that folder"
PROMPTS = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT", "CARTRIDGE",
})  # fmt: skip
"""Types that add to what a model reads, which peft cannot merge."""

NEVER_MERGED = "it adds to what the model reads and not to its weights, so nothing can merge it: train a LoRA instead"
MERGE_YOURSELF = "merge it with peft (`merge_and_unload`), save the result and name that folder instead"


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What folding needs of a LoRA's config.

    Attributes:
        rank, alpha: the defaults.
        ranks, alphas: exceptions by pattern, in the order of the file.
        rslora: scales by alpha / sqrt(rank) and not alpha / rank.
        dora: whether a magnitude is stored for each output.
        targets: the modules that have a LoRA.
        modules_to_save: names of modules that are stored whole.
        task: what it was trained for (`task_type`), where that is said.
        base: the base model's name as it was when the adapter was trained.
        warnings: what is unusual though it can be folded.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool
    dora: bool
    targets: Targets
    modules_to_save: tuple[str, ...]
    task: str | None
    base: str | None
    warnings: tuple[Problem, ...]

    def rank_of(self, module: str) -> int:
        """The rank of a module, by peft's rule for patterns."""
        return _by_pattern(self.ranks, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """The factor on B·A: alpha / rank, or alpha / sqrt(rank) for rsLoRA (https://arxiv.org/abs/2312.03732)."""
        rank, alpha = self.rank_of(module), _by_pattern(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def _by_pattern(patterns: Mapping[str, T], module: str, default: T) -> T:
    # peft: the first pattern that matches the whole name or a tail of it that begins after a dot
    for pattern, value in patterns.items():
        if matches(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def parse_adapter_config(config: Mapping[str, Any], spec: str) -> LoraConfig:
    """Reads a LoRA's settings.

    Raises:
        SourceError: not a LoRA, or one that cannot be folded, with the reason; or malformed.
    """
    kind = config.get("peft_type")
    if kind is None and MLX & config.keys():
        raise SourceError(f"Adapter `{spec}` is one of MLX, and only those of peft are read", hint=FUSE)
    if kind is None:
        raise SourceError(
            f"Adapter `{spec}` has no `peft_type` in its `adapter_config.json`",
            hint="save it with peft's `save_pretrained`",
        )
    if kind != "LORA":
        message = f"Adapter `{spec}` is of type `{kind}`; only LoRA adapters can be folded into a model"
        raise SourceError(message, hint=NEVER_MERGED if isinstance(kind, str) and kind in PROMPTS else MERGE_YOURSELF)
    for key, reason in REFUSED.items():
        if config.get(key):
            raise SourceError(f"Adapter `{spec}` sets `{key}`: {reason}", hint=MERGE_YOURSELF)
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool | str | None) or start not in INITIALISED_APART:
        why = "which changes the base's weights when it is loaded"
        raise SourceError(
            f"Adapter `{spec}` sets `init_lora_weights: {start}`, "
            f"{'which is not folded here as exactly as peft merges it' if start == 'mica' else why}",
            hint="save it with peft's `path_initial_model_for_weight_conversion`, which makes it a plain LoRA"
            if str(start).lower().startswith(CONVERTED)
            else MERGE_YOURSELF,
        )
    warnings = []
    if config.get("fan_in_fan_out"):
        warnings.append(
            Problem(
                "fan-in-fan-out-ignored",
                f"Adapter `{spec}` sets `fan_in_fan_out`, which peft ignores for linear layers",
            )
        )
    unknown = sorted(key for key, value in config.items() if value and key not in HARMLESS)
    if unknown:
        warnings.append(
            Problem(
                "adapter-setting-unknown",
                f"Adapter `{spec}` has settings that moemerge does not know and ignores: "
                f"{', '.join(f'`{key}`' for key in unknown)}",
                "compare the result with peft's own merge",
            )
        )
    base, task = config.get("base_model_name_or_path"), config.get("task_type")
    saved = _names(config.get("modules_to_save"), spec)
    return LoraConfig(
        rank=_rank(config.get("r", 8), spec),
        alpha=_alpha(config.get("lora_alpha", 8), spec),
        ranks={key: _rank(value, spec) for key, value in _patterns(config, "rank_pattern", spec).items()},
        alphas={key: _alpha(value, spec) for key, value in _patterns(config, "alpha_pattern", spec).items()},
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        targets=parse_targets(config, saved, spec),
        modules_to_save=saved,
        task=task if isinstance(task, str) and task else None,
        base=base if isinstance(base, str) and base else None,
        warnings=tuple(warnings),
    )


def _rank(value: Any, spec: str) -> int:
    if type(value) is not int or value < 1:
        raise SourceError(
            f"Adapter `{spec}` has the rank `{value!r}`, which is not a positive whole number",
            hint=MEND,
        )
    return value


def _alpha(value: Any, spec: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise SourceError(f"Adapter `{spec}` has the alpha `{value!r}`, which is not a number", hint=MEND)
    number: float = value
    return number


def _patterns(config: Mapping[str, Any], key: str, spec: str) -> Mapping[str, Any]:
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise SourceError(f"Adapter `{spec}` has a `{key}` that is not a map", hint=MEND)
    for pattern in patterns:
        check_pattern(pattern, key, spec)
    return patterns


def _names(value: Any, spec: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SourceError(f"Adapter `{spec}` has a `modules_to_save` that is not a list of names", hint=MEND)
    for name in value:
        check_pattern(name, "modules_to_save", spec)
    return tuple(value)

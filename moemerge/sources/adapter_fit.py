"""Matches an adapter's tensors with its base's: what is folded where, what is replaced, and what fits nothing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from moemerge.errors import Problem, SourceError
from moemerge.families.dense_family import Names
from moemerge.sources.adapter_config import LoraConfig
from moemerge.sources.checkpoint import Checkpoint, TensorInfo
from moemerge.sources.fold import Layout

PREFIX = "base_model.model."
EMBEDDING, HEAD = Names().embedding, Names().head

_FACTOR = re.compile(r"(.+)\.(lora_A|lora_B)\.(weight|bias)|(.+)\.(lora_embedding_A|lora_embedding_B)")
_MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.weight)?")
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Fold:
    """One LoRA on one weight; the letters are names of tensors in the adapter's file."""

    layout: Layout
    a: str
    b: str
    scaling: float
    magnitude: str | None = None


@dataclass(slots=True)
class Change:
    """What the adapter does to one tensor of its base, in this order.

    Attributes:
        replaced: the adapter's tensor that takes its place (modules_to_save, trained biases).
        folds: LoRAs on it; two where a tied embedding is adapted at both of its ends.
        biases: LoRA biases that are added to it, with their scaling.
    """

    replaced: str | None = None
    folds: list[Fold] = field(default_factory=list)
    biases: list[tuple[str, float]] = field(default_factory=list)


@dataclass(slots=True)
class Fit:
    """Every change by the base's tensor name, and what a user should know.

    Attributes:
        changes: by name of a tensor of the result.
        untied: the head is a tensor of its own in the result though the base ties it to the embedding.
        targets: how many modules have a LoRA.
        warnings: what is worth saying.
    """

    changes: dict[str, Change] = field(default_factory=lambda: defaultdict(Change))
    untied: bool = False
    targets: int = 0
    warnings: list[Problem] = field(default_factory=list)


def fit(spec: str, config: LoraConfig, held: Mapping[str, TensorInfo], base: Checkpoint) -> Fit:
    """Matches the adapter's tensors `held` with those of `base`.

    Raises:
        SourceError: tensors that fit nothing in the base or have the wrong shape, all listed; factors that are missing.
    """
    result = Fit()
    wrong: list[str] = []
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    whole: dict[str, str] = {}
    for key in held:
        if not key.startswith(PREFIX):
            wrong.append(f"{key}: its name does not begin with `{PREFIX}`")
            continue
        name = key.removeprefix(PREFIX)
        if found := _FACTOR.fullmatch(name):
            module = found[1] or found[4]
            modules[module][f"{found[2]}.{found[3]}" if found[2] else found[5]] = key
        elif found := _MAGNITUDE.fullmatch(name):
            modules[found[1]]["magnitude"] = key
        else:
            whole[name.replace(".base_layer.", ".")] = key
    tied = HEAD not in base.tensors and EMBEDDING in base.tensors
    # the embedding before the head: where both are the same tensor, peft comes to it in this order
    for name in sorted(whole, key=lambda name: (name == HEAD, name)):
        _replace(result, wrong, config, held, base, name, whole[name], tied=tied)
    for module in sorted(modules, key=lambda module: (f"{module}.weight" == HEAD, module)):
        _fold(result, wrong, spec, config, held, base, module, modules[module], tied=tied)
    wrong += _unkept(config, whole)
    if wrong:
        lines = "".join(f"\n  {line}" for line in wrong[:_SHOWN])
        more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise SourceError(
            f"Adapter `{spec}` does not fit base `{base.spec}`: {len(wrong)} of {len(held)} tensors{lines}{more}",
            hint=f"it was trained on `{config.base}`" if config.base else "name the base that it was trained on",
            code="adapter-mismatch",
        )
    if not result.changes:
        raise SourceError(f"Adapter `{spec}` holds no tensors")
    if result.untied:
        result.warnings.append(
            Problem(
                "embeddings-untied",
                f"Adapter `{spec}` stores a trained {_end_saved(config, whole)}, but base `{base.spec}` ties "
                "`embed_tokens` and `lm_head`: as in peft's merge, the result has both",
                "train with both in `modules_to_save`, or with neither",
            )
        )
    result.changes = dict(result.changes)
    return result


def _replace(
    result: Fit, wrong: list[str], config: LoraConfig, held: Mapping[str, TensorInfo], base: Checkpoint,
    name: str, key: str, *, tied: bool,
) -> None:  # fmt: skip
    saved = _is_saved(config, name)
    target = EMBEDDING if tied and name == HEAD and not saved else name
    expected = base.tensors.get(EMBEDDING if tied and name == HEAD else name)
    if expected is None:
        wrong.append(f"{key}: the base has no `{name}`")
    elif expected.shape != held[key].shape:
        wrong.append(f"{key}: adapter {held[key].shape}, base {expected.shape}")
    else:
        result.changes[target].replaced = key
        result.untied |= tied and saved and name in (EMBEDDING, HEAD)


def _fold(
    result: Fit, wrong: list[str], spec: str, config: LoraConfig, held: Mapping[str, TensorInfo], base: Checkpoint,
    module: str, parts: dict[str, str], *, tied: bool,
) -> None:  # fmt: skip
    name = f"{module}.weight"
    at_tied_head = tied and name == HEAD
    target = EMBEDDING if at_tied_head else name
    info = base.tensors.get(target)
    if info is None or len(info.shape) != 2:
        wrong += [f"{key}: the base has no matrix `{name}`" for key in parts.values()]
        return
    layout: Layout = "embedding" if "lora_embedding_A" in parts else "linear"
    a, b = ("lora_embedding_A", "lora_embedding_B") if layout == "embedding" else ("lora_A.weight", "lora_B.weight")
    needed = {a, b} | ({"magnitude"} if config.dora else set())
    if missing := sorted(needed - parts.keys()):
        wrong.append(f"{PREFIX}{module}: the adapter lacks its {' and '.join(missing)}")
        return
    rank = config.rank_of(module)
    out, into = info.shape if layout == "linear" else info.shape[::-1]
    shapes = {a: (rank, into), b: (out, rank), "lora_B.bias": (out,)} | ({"magnitude": (out,)} if config.dora else {})
    before = len(wrong)
    for part, key in parts.items():
        if part not in shapes:
            wrong.append(f"{key}: not a part of this kind of adapter")
        elif held[key].shape != shapes[part]:
            wrong.append(
                f"{key}: adapter {held[key].shape}, expected {shapes[part]} for rank {rank} and base {info.shape}"
            )
    if "lora_B.bias" in parts and f"{module}.bias" not in base.tensors:
        wrong.append(f"{parts['lora_B.bias']}: the base has no `{module}.bias` to add it to")
    if len(wrong) > before:
        return
    scaling = config.scaling_of(module)
    result.targets += 1
    result.changes[target].folds.append(Fold(layout, parts[a], parts[b], scaling, parts.get("magnitude")))
    if "lora_B.bias" in parts:
        result.changes[f"{module}.bias"].biases.append((parts["lora_B.bias"], scaling))
    if tied and target == EMBEDDING:
        ends = (HEAD, EMBEDDING) if at_tied_head else (EMBEDDING, HEAD)
        end, other = (name.split(".")[-2] for name in ends)
        result.warnings.append(
            Problem(
                "tied-embedding-adapted",
                f"Adapter `{spec}` adapts `{end}`, which base `{base.spec}` ties to `{other}`: as in peft's merge, "
                "both change",
                "untie the embeddings before training, or leave them out of `target_modules`",
            )
        )


def _unkept(config: LoraConfig, whole: Mapping[str, str]) -> list[str]:
    return [
        f"{entry}: in `modules_to_save`, but the adapter holds no tensor of it"
        for entry in config.modules_to_save
        if not any(_module_of(name, entry) for name in whole)
    ]


def _is_saved(config: LoraConfig, name: str) -> bool:
    return any(_module_of(name, entry) for entry in config.modules_to_save)


def _module_of(name: str, entry: str) -> bool:
    return re.search(rf"(^|\.){re.escape(entry)}\.", name) is not None


def _end_saved(config: LoraConfig, whole: Mapping[str, str]) -> str:
    ends = [name for name in (EMBEDDING, HEAD) if name in whole and _is_saved(config, name)]
    return " and ".join(f"`{name}`" for name in ends)

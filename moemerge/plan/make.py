"""Recipe → Plan: opens every model, finds every problem, and maps the tensors. Reads headers, never weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from moemerge.errors import MoemergeError, PlanError, Problem
from moemerge.families import (
    DENSE_FAMILIES,
    WRAPPED,
    WRAPPERS,
    DenseConfig,
    Group,
    Host,
    choose_host,
    family_problem,
)
from moemerge.families.runtimes import silently_wrong
from moemerge.plan.alike import made_alike
from moemerge.plan.checks import (
    bad_config,
    check_evaluation,
    check_licences,
    check_model,
    check_prompts,
    check_special,
    check_templates,
    label_of,
)
from moemerge.plan.layers import check_widths, with_dense_layers
from moemerge.plan.mapping import Layout, group_method, map_tensors
from moemerge.plan.model import OutputVocabulary, Plan, PlannedExpert, Refused
from moemerge.plan.tokens import Kept
from moemerge.plan.upcycled import upcycling_notes
from moemerge.plan.vocabulary import anchor_of, unite
from moemerge.recipe.schema import Recipe
from moemerge.sources import Checkpoint, open_checkpoint, stored
from moemerge.sources.config import PLAIN
from moemerge.sources.translated import translated
from moemerge.sources.wrapped import language_of

DTYPES: Mapping[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""The recipe's dtype names and safetensors' names for them."""

MERGED_GROUPS: tuple[Group, ...] = ("embeddings", "attention", "norms", "ffn", "lm_head")
WEIGHTED = frozenset({"weighted", "task_arithmetic", "ties", "dare_ties", "auto"})
"""Methods in which an expert's `weight` counts (`auto` tries some of them)."""


@dataclass
class _Findings:
    """What one planning pass has found so far."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_plan(recipe: Recipe, root: Path, *, configs_only: bool = False) -> Plan | Refused:
    """Plans a build.

    Args:
        recipe: what is to be built.
        root: folder that the recipe's relative paths are relative to.
        configs_only: leaves weights on the hub alone; shapes then come from the configs.

    Returns:
        A plan, or all problems: nothing that can be known without reading weights is left for later.
    """
    found = _Findings()
    models, experts = _open_models(recipe, root, configs_only, found)
    recipe = _with_one_spelling(recipe, models, experts)
    _check_merge(recipe, experts, found)
    models = made_alike(recipe, models, experts, found.problems, found.warnings, found.notes)
    base = models.get("base")
    dense = _architecture(base, found) if base is not None else None
    host: Host | None = None
    if base is not None and dense is not None:
        dense = with_dense_layers(recipe, models, experts, dense, found.problems, found.notes)
        host = _host(recipe, base, dense, found)
    planned: list[PlannedExpert] = []
    if base is not None and dense is not None:
        planned, dense = _fit_experts(recipe, models, experts, dense, found)
    if dense is not None and host is not None and host.near is not None:
        message = f"`{host.model_type}` does not hold `{dense.family}` exactly: {host.near}"
        found.warnings.append(Problem("near-miss", message, "measure the result with `moemerge eval`"))
    if len(planned) == len(recipe.experts):
        found.notes += upcycling_notes(recipe, planned)
    check_licences(models, found.warnings)
    check_templates(models, found.warnings)
    check_prompts(recipe, root, found.problems, found.warnings)
    check_evaluation(recipe, root, found.warnings)
    dtype = _dtype(recipe, base)
    if host is not None and host.down < 1.0 and dtype == "F16":
        message = f"`{host.model_type}` has experts multiplied by {host.down:g}, for which float16 has no room"
        found.problems.append(Problem("dtype", message, "set `dtype: bfloat16`, which has the same size"))
    if base is not None:  # whose dtype is the output's
        _dtype_warnings(models, dtype, found)
    opened, vocabulary = models, OutputVocabulary("base", 0, {})
    if dense is not None and _comparable(models, experts, found):
        united = unite(recipe, models, experts, dense)
        models, dense, vocabulary = dict(united.models), united.dense, united.output
        found.problems += united.problems
        found.warnings += united.warnings
        found.notes += united.notes
    shared = None
    if dense is not None and host is not None:
        shared = _shared_expert(recipe, models, experts, host, dense, found)
    if dense is None or host is None or found.problems:
        return Refused(recipe, models, tuple(found.problems), tuple(found.warnings), tuple(found.notes))
    name = next(name for name, short in DTYPES.items() if short == dtype)
    config = host.host_config(dense, len(planned), recipe.experts_per_token, name)
    if shared is not None:
        config |= host.shared_config(dense)
    if host.wrapper is not None:
        config = WRAPPED[host.wrapper].config(stored(models["base"]).config, config)
    layout = Layout(recipe, models, tuple(planned), dense, host, dtype, shared)
    made = Plan(
        recipe=recipe,
        models=models,
        opened=opened,
        vocabulary=vocabulary,
        experts=tuple(planned),
        dense=dense,
        host=host,
        config=config,
        tensors=tuple(map_tensors(layout)),
        dtype=dtype,
        shared_expert=shared,
        warnings=tuple(found.warnings),
        notes=tuple(found.notes),
    )
    wrong = silently_wrong(host, made.traits)
    return made if wrong is None else replace(made, warnings=(*made.warnings, wrong))


def _comparable(models: Mapping[str, Checkpoint], keys: Mapping[str, str], found: _Findings) -> bool:
    """Whether all models are there, and their tokens may be put side by side."""
    apart = {"bad-tokenizer", "bad-config", "family-differs", "tokenizer-differs"}
    return set(keys.values()) <= models.keys() and not any(problem.code in apart for problem in found.problems)


def sound_plan(recipe: Recipe, root: Path) -> Plan:
    """The plan of a recipe that can be built.

    Raises:
        PlanError: it cannot; every problem.
    """
    plan = make_plan(recipe, root)
    if isinstance(plan, Refused):
        raise PlanError(plan.problems)
    return plan


def _open_models(
    recipe: Recipe, root: Path, configs_only: bool, found: _Findings
) -> tuple[dict[str, Checkpoint], dict[str, str]]:
    """Opens base and experts; returns the models by key and each spec's key.

    Specs of the same files (`m/code` and `./m/code`, a link and what it leads to) have one key.
    """
    models: dict[str, Checkpoint] = {}
    base: Checkpoint | None = None
    keys: dict[str, str] = {"base": "base", recipe.base_model: "base"}
    places: dict[object, str] = {}
    said: set[Problem] = set()
    wanted = [("base", recipe.base_model, "`base_model`")]
    wanted += [(expert.name, expert.model, f"expert `{expert.name}`") for expert in recipe.experts]
    wanted += [(f"shared-{i}", shared.model, f"shared expert {i}") for i, shared in enumerate(recipe.shared_experts)]
    for key, spec, label in wanted:
        if key != "base" and spec in keys:
            continue
        keys[spec] = key
        if key != "base" and "base" not in models and _is_adapter(root, spec):
            continue  # an adapter is read with its base, whose problem is reported already
        try:
            opened = open_checkpoint(
                spec,
                root=root,
                base=base,
                allow_pickle=recipe.allow_pickle,
                configs_only=configs_only,
            )
            language = language_of(opened)
            checkpoint = translated(language)
        except MoemergeError as error:
            for problem in error.problems:
                found.problems.append(Problem(problem.code, f"{label}: {problem.message}", problem.hint))
            continue
        first = places.setdefault(_place(checkpoint), key)
        if first != key:
            found.notes.append(f"{label}: `{spec}` is the same model as `{models[first].spec}`, and counts once")
            keys[spec] = first
            continue
        if key == "base":
            base = opened
            found.notes += _seen_as(label, opened, language, checkpoint)
        models[key] = checkpoint
        found.warnings += _left_out(label, checkpoint)
        new = [problem for problem in checkpoint.warnings if problem not in said]  # of one file, named by several
        said.update(new)
        found.warnings += [Problem(p.code, f"{label}: {p.message}", p.hint) for p in new]
    return models, keys


def _left_out(label: str, checkpoint: Checkpoint) -> Iterator[Problem]:
    """What an adapter trained of what sees or hears, which a mixture has once."""
    changed = [name for name in checkpoint.beside if checkpoint.tensors[name].origin == "folded"]
    if changed:
        message = f"{label} also trained {len(changed)} tensors of what sees or hears: these stay the base's"
        yield Problem("beside-left-out", message, "train the language model alone, or have the base trained so too")


def _seen_as(label: str, stored: Checkpoint, language: Checkpoint, dense: Checkpoint) -> Iterator[str]:
    """What a base is taken for, where that is not what its config says."""
    kinds = [str(checkpoint.config["model_type"]) for checkpoint in (stored, language, dense)]
    if language is not stored:
        yield f"{label}: of the `{kinds[0]}` the language model becomes a mixture; what sees or hears stays the base's"
    if kinds[1] != kinds[2]:
        yield f"{label}: a `{kinds[1]}` computes what a `{kinds[2]}` does, and is read as one"


def _place(checkpoint: Checkpoint) -> object:
    """Equal for checkpoints of the same files: an adapter's are its own and its base's."""
    under = _place(checkpoint.base) if checkpoint.base is not None else None
    return checkpoint.location.resolve(), under


def _with_one_spelling(recipe: Recipe, models: Mapping[str, Checkpoint], keys: Mapping[str, str]) -> Recipe:
    """The recipe with each model spelled as where it is named first, so that whoever reads it counts as the plan does.

    `base` stays as it is.
    """

    def spelled(spec: str) -> str:
        key = keys[spec]
        return spec if spec == "base" or key not in models else recipe.base_model if key == "base" else models[key].spec

    experts = tuple(expert.model_copy(update={"model": spelled(expert.model)}) for expert in recipe.experts)
    shared = tuple(expert.model_copy(update={"model": spelled(expert.model)}) for expert in recipe.shared_experts)
    return recipe.model_copy(update={"experts": experts, "shared_experts": shared})


def _check_merge(recipe: Recipe, keys: Mapping[str, str], found: _Findings) -> None:
    """What hangs on how many distinct models there are, and on one weight for each."""
    weights: dict[str, tuple[str, float]] = {}
    groups = [group for group in MERGED_GROUPS if group != "ffn" or recipe.layers]
    asked = {recipe.merge.shared, *(getattr(recipe.merge, group) for group in groups)}
    for expert in recipe.experts:
        name, weight = weights.setdefault(keys[expert.model], (expert.name, expert.weight))
        if weight != expert.weight and asked & WEIGHTED:
            message = f"experts `{name}` and `{expert.name}` are one model with two weights, {weight:g} and"
            hint = "give both the same `weight`: a model is merged once, however many experts it makes"
            found.problems.append(Problem("weights-differ", f"{message} {expert.weight:g}", hint))
    if "slerp" in {group_method(recipe.merge, group) for group in groups} and len(weights) != 2:
        message = f"`slerp` merges two models, and the experts come from {len(weights)}"
        found.problems.append(
            Problem("slerp", message, "use `mean`, or another method that takes any number of models")
        )


def _is_adapter(root: Path, spec: str) -> bool:
    return "+" in spec or os.path.isfile(root / spec / "adapter_config.json")


def _architecture(base: Checkpoint, found: _Findings) -> DenseConfig | None:
    model_type = base.config.get("model_type")
    if model_type not in DENSE_FAMILIES:
        problem = family_problem(model_type)
        found.problems.append(Problem(problem.code, f"`base_model`: {problem.message}", problem.hint))
        return None
    try:
        return DenseConfig.resolve(base.config)
    except ValueError as error:
        found.problems.append(bad_config(base, "`base_model`", error))
        return None


def _host(recipe: Recipe, base: Checkpoint, dense: DenseConfig, found: _Findings) -> Host | None:
    wrapper = WRAPPERS.get(str(stored(base).config.get("model_type")))
    host, problems = choose_host(dense, recipe.architecture, wrapper)
    found.problems += problems
    if wrapper is None or host is None:
        return host
    refused = wrapper.refuse(stored(base).config)
    found.problems += [Problem(one.code, f"`base_model`: {one.message}", one.hint) for one in refused]
    if host.model_type not in wrapper.languages:
        message = f"`base_model`: a `{wrapper.model_type}` around a `{host.model_type}` was never run"
        known = ", ".join(f"`{name}`" for name in wrapper.languages)
        found.problems.append(Problem("wrapper", message, f"its language model may become one of {known}"))
    return wrapper.around(host)


def _fit_experts(
    recipe: Recipe, models: Mapping[str, Checkpoint], keys: Mapping[str, str], dense: DenseConfig, found: _Findings
) -> tuple[list[PlannedExpert], DenseConfig]:
    """Checks each model against the base; the returned architecture has the widest expert's FFN width."""
    widths: dict[str, int] = {}
    anchor = anchor_of(recipe, keys)
    kept = Kept(models.get(anchor, models["base"]), "the base's" if anchor == "base" else f"`{anchor}`'s")
    padded = {keys[expert.model] for expert in recipe.experts if expert.pad}
    for key, checkpoint in models.items():
        label = label_of(key)
        width = check_model(checkpoint, models["base"], dense, kept, label, found.problems, found.warnings)
        if width is not None:
            widths[key] = width
        if key == "base" or checkpoint.files != models["base"].files:  # of what has the base's, the base speaks
            check_special(checkpoint, kept, key, label, found.warnings)
    check_widths(dense, widths, {"base", *(keys[expert.model] for expert in recipe.experts)}, found.problems)
    used = {widths[keys[expert.model]] for expert in recipe.experts if keys[expert.model] in widths}
    widest = max(used, default=dense.intermediate_size)
    planned = []
    for index, expert in enumerate(recipe.experts):
        key = keys[expert.model]
        if key not in widths:
            continue
        planned.append(PlannedExpert(expert.name, key, widths[key]))
        if widths[key] < widest and key not in padded:
            found.problems.append(
                Problem(
                    "ffn-width",
                    f"expert `{expert.name}` has FFN width {widths[key]}, and the widest expert has {widest}",
                    f"set `experts[{index}].pad: true` to zero-pad narrower experts, which is exact",
                )
            )
    return planned, replace(dense, intermediate_size=widest)


def _shared_expert(
    recipe: Recipe,
    models: Mapping[str, Checkpoint],
    keys: Mapping[str, str],
    host: Host,
    dense: DenseConfig,
    found: _Findings,
) -> str | None:
    if not recipe.shared_experts:
        return None
    if host.shared_expert is None:
        message = f"`shared_experts`: `{host.model_type}` has no place for a shared expert"
        hint = "leave it out, or set `architecture: qwen2_moe` where that host fits"
        found.problems.append(Problem("no-shared-expert", message, hint))
        return None
    key = keys[recipe.shared_experts[0].model]
    if key in models and models[key].config.get("intermediate_size") != dense.intermediate_size:
        message = f"`shared_experts[0]` has FFN width {models[key].config.get('intermediate_size')}"
        found.problems.append(Problem("ffn-width", f"{message}, and the experts have {dense.intermediate_size}"))
    return key if key in models else None


def _dtype(recipe: Recipe, base: Checkpoint | None) -> str:
    if recipe.dtype != "auto":
        return DTYPES[recipe.dtype]
    if base is None:
        return "BF16"
    if not base.has_weights:
        return DTYPES.get(str(base.config.get("dtype") or base.config.get("torch_dtype")), "BF16")
    stored: Counter[str] = Counter()
    for info in base.tensors.values():
        if info.dtype in DTYPES.values():
            stored["BF16" if info.origin == "dequantised" else info.dtype] += info.nbytes
    return stored.most_common(1)[0][0] if stored else "BF16"


def _dtype_warnings(models: Mapping[str, Checkpoint], dtype: str, found: _Findings) -> None:
    for key, checkpoint in models.items():
        if checkpoint.kind == "adapter" or any(i.origin == "dequantised" for i in checkpoint.tensors.values()):
            continue  # folded or dequantised: computed anyway, and the plan says so
        others = {i.dtype for i in checkpoint.tensors.values() if i.origin == "stored" and i.dtype != dtype}
        if others & PLAIN:
            stored = ", ".join(sorted(others & PLAIN))
            message = f"{label_of(key)} stores {stored} and the output is {dtype}: converted, not copied"
            found.warnings.append(Problem("dtype", message, "set `dtype` to keep the sources' own"))

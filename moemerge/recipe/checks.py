"""What no type can say: the rules of a recipe that need its parts together, and none of its files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from moemerge.errors import Problem
from moemerge.recipe.copies import same_expert
from moemerge.recipe.layers import AGREE, layer_range
from moemerge.recipe.places import RecipeProblems, listed, nearest, problem, quoted
from moemerge.recipe.schema import Data, Expert, Recipe, Rows
from moemerge.recipe.tree import key_place, node_at
from moemerge.recipe.yaml import Table

WITHOUT_PROMPTS = frozenset({"random", "uniform"})
"""Gates that are made from nothing that an expert says."""
EXPANDED = frozenset({"discriminant", "advantage", "lda", "centroid", "centred"})
"""Gates for which specialists write."""
POOLED = frozenset({"advantage"})
"""Gates that can be fitted to a pool of texts, whose experts nobody knows."""
UNSEEN = "evaluate on texts that the gate was not fitted to"
"""What to do where texts that judge the result would make it."""
RESERVED = re.compile(r"base|shared-[0-9]+")
"""Names that the plan gives to models that are no experts."""


def without_blanks(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe without its blank prompts, and a line for each expert that had some, or has no others."""
    notes: list[str] = []
    experts: list[Expert] = []
    for expert in recipe.experts:
        kept: dict[str, tuple[str, ...]] = {}
        for key in ("prompts", "negative_prompts"):
            prompts: tuple[str, ...] = getattr(expert, key)
            kept[key] = tuple(prompt for prompt in prompts if prompt.strip())
            blank = len(prompts) - len(kept[key])
            if blank and kept[key]:
                said = "one blank prompt is" if blank == 1 else f"{blank} blank prompts are"
                notes.append(f"expert `{expert.name}`: {said} left out of `{key}`")
        experts.append(expert.model_copy(update=kept))
    found = recipe.model_copy(update={"experts": tuple(experts)})
    if recipe.gate.data is not None:
        spoken = [expert.name for expert in found.experts if _given(expert)]
        if spoken and recipe.gate.init in POOLED:
            notes.append(f"the gate is fitted to `gate.data`, not to the texts of {listed(quoted(spoken))}")
    elif recipe.gate.init not in WITHOUT_PROMPTS:
        notes += [
            f"expert `{expert.name}` has no prompts, so it is the general one: its specialist writes from the "
            "beginning of text"
            for expert in _general(found)
        ]
    return found, notes


def _general(recipe: Recipe) -> list[Expert]:
    """The experts without texts beside others that have some: one at most can be told from the others."""
    bare = [expert for expert in recipe.experts if not _given(expert)]
    return bare if len(bare) < len(recipe.experts) else []


def check(recipe: Recipe, tree: Table) -> None:
    """Holds a recipe against every rule that needs no files.

    Args:
        recipe: without its blank prompts.
        tree: what it was read from, for places.

    Raises:
        RecipeProblems: the rules that it breaks.
    """
    found = [*_counts(recipe, tree), *_names(recipe, tree), *_texts(recipe, tree), *_merges(recipe, tree)]
    found += [*_layers(recipe, tree), *_vocabulary(recipe, tree), *_statistics(recipe, tree), *_pool(recipe, tree)]
    if found:
        raise RecipeProblems(found)


def _counts(recipe: Recipe, tree: Table) -> Iterator[Problem]:
    count, place = len(recipe.experts), key_place(tree, ("experts",))
    if count < 2:
        message = f"The recipe has {'one expert, so it would be a dense model' if count else 'no experts'}"
        yield problem(place, "too-few-experts", message, "list two specialists or more under `experts`")
    elif recipe.experts_per_token > count:
        message = f"`experts_per_token` is {recipe.experts_per_token}, and the recipe has {count} experts"
        place = node_at(tree, ("experts_per_token",)).place
        yield problem(place, "experts-per-token", message, f"set it to {count} or less")
    if len(recipe.shared_experts) > 1:
        message = f"The recipe has {len(recipe.shared_experts)} shared experts, and a host has a place for one at most"
        place = key_place(tree, ("shared_experts", 1))
        yield problem(place, "shared-experts", message, "keep one of them, or merge them into one FFN beforehand")


def _names(recipe: Recipe, tree: Table) -> Iterator[Problem]:
    if recipe.base_model == "base":
        message = "`base_model` is `base`, which is the word for the base model itself"
        hint = "name a folder, hub id or GGUF file; for a folder called `base`, write `./base`"
        yield problem(node_at(tree, ("base_model",)).place, "bad-name", message, hint)
    first: dict[str, int] = {}
    for index, expert in enumerate(recipe.experts):
        place = node_at(tree, ("experts", index, "name")).place
        if expert.name in first:
            message = f"Experts {first[expert.name]} and {index} are both named `{expert.name}`"
            yield problem(place, "duplicate-name", message, "give each its own name")
        first.setdefault(expert.name, index)
        if RESERVED.fullmatch(expert.name):
            message = f"No expert can be named `{expert.name}`: that name is reserved"
            yield problem(place, "bad-name", message, "give it another name, such as `general`")

    window = recipe.sliding_window
    if window not in {None, "base", *first}:
        message = f"`sliding_window` is `{window}`, which is neither `base` nor an expert"
        hint = f"one of {listed(quoted(('base', *first)), 'or')}"
        yield problem(node_at(tree, ("sliding_window",)).place, "unknown-value", message, hint)


def _texts(recipe: Recipe, tree: Table) -> Iterator[Problem]:
    needed = recipe.gate.init not in WITHOUT_PROMPTS
    general = _general(recipe)
    seen: dict[object, str] = {}
    for index, expert in enumerate(recipe.experts):
        given = _given(expert)
        if expert.prompts and expert.prompts_file:
            message = f"Expert `{expert.name}` has `prompts` and `prompts_file`, and takes one of them"
            place = key_place(tree, ("experts", index, "prompts_file"))
            yield problem(place, "several-texts", message, "put all prompts into one of the two")
        if not needed:
            continue
        copies = [other for other in (index - 1, index + 1) if same_expert(tree, index, other)]
        if copies:
            if copies[0] > index:
                message = f"Copies such as `{expert.name}` answer the same, so no gate can tell them apart"
                hint = "take a gate that is not fitted with `--gate uniform`, and train the result"
                yield problem(key_place(tree, ("experts", index)), "copies", message, hint)
            continue
        if recipe.gate.data is not None:
            continue
        if not given:
            blank = "prompts" in expert.model_fields_set
            place = key_place(tree, ("experts", index, "prompts")) if blank else key_place(tree, ("experts", index))
            message = f"Expert `{expert.name}` has no prompts, and the gate `{recipe.gate.init}` is made from them"
            hint = "give it prompts or texts of its domain, or take a gate that needs none with `--gate random`"
            if len(general) > 1:
                message = f"{message}; one expert at most can be the general one, and {len(general)} have none"
            elif general and recipe.gate.expand == "off" and recipe.gate.init in EXPANDED:
                message = f"Expert `{expert.name}` has no prompts, and `gate.expand: off` lets no specialist write"
                hint = "leave `gate.expand` out, so that it writes from the beginning of text, or give it prompts"
            elif general:
                continue
            yield problem(place, "no-prompts", message, hint)
            continue
        if given == ["data"] and recipe.gate.init not in EXPANDED:
            message = f"Gate `{recipe.gate.init}` reads prompts, and expert `{expert.name}` has `data` alone"
            hint = "give it `prompts`, or use `discriminant`, which fits from `data` too"
            yield problem(key_place(tree, ("experts", index, "data")), "no-prompts", message, hint)
        texts = (frozenset(expert.prompts), expert.prompts_file, expert.data, frozenset(expert.negative_prompts))
        if texts in seen:
            both = f"Experts `{seen[texts]}` and `{expert.name}`"
            message = f"{both} have the same {given[0]}, so no gate can tell them apart"
            place = key_place(tree, ("experts", index, given[0]))
            yield problem(place, "same-prompts", message, "give each expert prompts that only it should answer")
        seen.setdefault(texts, expert.name)
        yield from _held_out(recipe, tree, index)


def _given(expert: Expert) -> list[str]:
    """The keys of the texts that an expert has."""
    return [key for key in ("prompts", "prompts_file", "data") if getattr(expert, key)]


def _held_out(recipe: Recipe, tree: Table, index: int) -> Iterator[Problem]:
    """Texts that judge the result must not have made it."""
    expert = recipe.experts[index]
    given = {"prompts_file": _judging(recipe, expert.prompts_file)}
    if expert.data is not None:
        given["data"] = _judging(recipe, expert.data.path, expert.data.split)
    for key, judging in given.items():
        for used, where in judging:
            message = f"Expert `{expert.name}` is fitted on `{used}`, which `eval.{where}` holds out"
            yield problem(key_place(tree, ("experts", index, key)), "held-out", message, UNSEEN)


def _judging(recipe: Recipe, used: str | None, split: str | None = None) -> Iterator[tuple[str, str]]:
    """The path of texts that a gate is fitted to, with each part of `eval` that holds them out."""
    held_out: dict[str, Rows] = {
        f"domains.{domain}": texts if isinstance(texts, Data) else Data(path=texts)
        for domain, texts in recipe.eval.domains.items()
    }
    held_out |= {f"questions.{domain}": questions for domain, questions in recipe.eval.questions.items()}
    for where, held in held_out.items():
        if held.path == used and split in {None, held.split}:
            yield held.path, where


def _pool(recipe: Recipe, tree: Table) -> Iterator[Problem]:
    gate = recipe.gate
    if gate.data is None:
        return
    place = key_place(tree, ("gate", "data"))
    if gate.init not in POOLED | WITHOUT_PROMPTS:
        message = (
            f"`gate.data` is a pool of texts that nobody sorted, and the gate `{gate.init}` cannot be made from it"
        )
        hint = "set `gate.init: advantage`, which finds the best expert of each text itself, or leave `gate.data` out"
        yield problem(place, "pool", message, hint)
    if isinstance(gate.expand, int):
        message = "With `gate.data` no specialist writes, and `gate.expand` asks them to"
        yield problem(key_place(tree, ("gate", "expand")), "pool", message, "leave one of the two out")
    for used, where in _judging(recipe, gate.data.path, gate.data.split):
        message = f"The gate is fitted on `{used}`, which `eval.{where}` holds out"
        yield problem(place, "held-out", message, UNSEEN)


def _statistics(recipe: Recipe, tree: Table) -> Iterator[Problem]:
    if recipe.gate.keep_statistics and recipe.gate.init == "advantage":
        message = (
            "`gate.keep_statistics` keeps what each expert adds to a gate, and with `advantage` they are not apart"
        )
        place = key_place(tree, ("gate", "keep_statistics"))
        yield problem(place, "keep-statistics", message, "leave it out, or take `gate.init: discriminant`")


def _merges(recipe: Recipe, tree: Table) -> Iterator[Problem]:
    models = {expert.model for expert in recipe.experts}
    groups = ("attention", "norms", "embeddings", "lm_head", *(("ffn",) if recipe.layers else ()))
    for key in ("shared", *groups):
        unused = key == "shared" and all(getattr(recipe.merge, group) is not None for group in groups)
        if getattr(recipe.merge, key) == "slerp" and len(models) != 2 and not unused:
            message = f"`merge.{key}: slerp` merges two models, and the experts come from {len(models) or 'none'}"
            hint = "use `mean`, or another method that takes any number of models"
            yield problem(node_at(tree, ("merge", key)).place, "slerp", message, hint)


def _layers(recipe: Recipe, tree: Table) -> Iterator[Problem]:
    seen: dict[int, str] = {}
    for key in recipe.layers:
        layers, place = layer_range(key), key_place(tree, ("layers", key))
        if not layers and key != AGREE:
            first, _, last = key.partition("-")
            yield problem(place, "layers", f"`layers`: `{key}` ends before it begins", f"write `{last}-{first}`")
        twice = next((seen[layer] for layer in layers if layer in seen), None)
        if twice is not None:
            message = f"`layers`: `{key}` names layers that `{twice}` names too"
            yield problem(place, "layers", message, "name each layer once")
        seen |= dict.fromkeys(layers, key)


def _vocabulary(recipe: Recipe, tree: Table) -> Iterator[Problem]:
    """Every model that `tokenizer` names is one of the recipe's."""
    asked = recipe.tokenizer
    names = ("base", *(expert.name for expert in recipe.experts))
    given: list[tuple[tuple[str, ...], str | None]] = [(("tokenizer", "source"), asked.source)]
    given += [(("tokenizer", "chat_template"), asked.chat_template)]
    given += [(("tokenizer", "tokens", token), name) for token, name in asked.tokens.items()]
    for trail, name in given:
        if name is None or name in names or (trail[-1] == "source" and name == "union"):
            continue
        known = ("union", *names) if trail[-1] == "source" else names
        message = f"`{'.'.join(trail)}` must be {listed(quoted(known), 'or')}, not `{name}`"
        meant = nearest(name, known)
        hint = f"did you mean `{meant}`?" if meant else None
        yield problem(node_at(tree, trail).place, "unknown-value", message, hint)
    if asked.chat_template is not None and asked.source not in {None, "union"}:
        message = f"`tokenizer.chat_template` goes with `source: union`, and `source` is `{asked.source}`"
        hint = "leave it out: with the tokens of one model its chat template comes too"
        yield problem(node_at(tree, ("tokenizer", "chat_template")).place, "chat-template", message, hint)

"""From what is wanted to a recipe that plans: looks at the models, sets what they need, and writes the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from moemerge.build.rehearse import rehearsed
from moemerge.errors import PlanError, Problem, WriteError
from moemerge.init.text import Needed, Seen, recipe_text
from moemerge.init.wanted import Wanted, WantedExpert
from moemerge.plan import Plan, Refused, make_plan
from moemerge.recipe import parse_recipe
from moemerge.sources import Checkpoint
from moemerge.sources.spec import PACKAGE, Local, WithAdapter, parse
from moemerge.sources.tokenizer_config import tokenizer_config


@dataclass(frozen=True, slots=True)
class Draft:
    """A recipe that is not written yet.

    Attributes:
        text: the file's.
        models: what each model is, in words, by `base` and the experts' names.
        to_fill: files of prompts, relative to the recipe's folder, that the user has to write before it plans.
        warnings: what `plan` warns of.
        notes: what the models made necessary.
    """

    text: str
    models: Mapping[str, str]
    to_fill: tuple[str, ...]
    warnings: tuple[Problem, ...]
    notes: tuple[str, ...]


def draft_recipe(wanted: Wanted, file: Path, here: Path) -> Draft:
    """Drafts a recipe that plans without problems, but for prompts that only the user can write.

    Reads configs, headers and tokenizers, and no weights.

    Args:
        wanted: the models and their domains.
        file: where the recipe will lie: its paths are relative to that folder.
        here: the folder that the user's own paths are relative to.

    Raises:
        WriteError: there is something at `file`, or no folder for it.
        PlanError: these models make no mixture, whatever a recipe says; every problem.
    """
    if os.path.lexists(file):
        raise _exists(file)
    root = (here / file).parent.resolve()
    if not root.is_dir():
        raise WriteError(f"There is no folder `{file.parent}`", hint=f"make it: `mkdir -p {file.parent}`")
    moved = _seen_from(root, wanted, here.resolve())
    needed = Needed()
    made = _planned(moved, needed, file, root)
    if isinstance(made, Refused):
        needed = _needed(made)
        made = _planned(moved, needed, file, root)
    if isinstance(made, Refused):
        raise PlanError(made.problems)
    seen = _seen(made)
    to_fill = tuple(expert.to_fill for expert in moved.experts if expert.to_fill is not None)
    return Draft(recipe_text(moved, needed, seen, file), seen.models, to_fill, made.warnings, needed.notes)


def write_new(file: Path, text: str) -> None:
    """Writes a file that was not there.

    Raises:
        WriteError: there is something of that name by now, or it cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise _exists(file) from None
    except OSError as error:
        raise WriteError(f"`{file}` cannot be written: {error.strerror or error}") from error


def _exists(file: Path) -> WriteError:
    return WriteError(f"`{file}` exists, and is not overwritten", hint="name another file", code="output-exists")


def _planned(wanted: Wanted, needed: Needed, file: Path, root: Path) -> Plan | Refused:
    """The plan of the recipe as it would be written, with prompts in place of those that the user has to write."""
    recipe = parse_recipe(recipe_text(wanted, needed, Seen(), file), str(file), root).recipe
    filled = {expert.name: {"prompts": ("To be written",), "prompts_file": None}
              for expert in wanted.experts if expert.to_fill is not None}  # fmt: skip
    experts = tuple(expert.model_copy(update=filled.get(expert.name, {})) for expert in recipe.experts)
    made = make_plan(recipe.model_copy(update={"experts": experts}), root, configs_only=True)
    return made if isinstance(made, Refused) else rehearsed(made, root)


def _needed(refused: Refused) -> Needed:
    """The settings without which these models make no mixture, and with which some do."""
    codes = {problem.code for problem in refused.problems}
    widths = {model.spec: model.config.get("intermediate_size") for model in refused.models.values()}
    known = {spec: width for spec, width in widths.items() if isinstance(width, int)}
    narrow = {spec for spec, width in known.items() if width < max(known.values())}
    named = (expert.name for expert in refused.recipe.experts if expert.model in narrow)
    return Needed(
        pad=frozenset(named if "ffn-width" in codes else ()),
        base_window="windows-differs" in codes,
        bfloat16="dtype" in codes,
    )


def _seen(plan: Plan) -> Seen:
    """What the models turned out to be."""
    dense = plan.dense
    models = {"base": f"{dense.family}, {dense.layers} layers, hidden size {dense.hidden_size}"}
    models |= {expert.name: _kind(plan.models[expert.model]) if expert.model != "base" else "the base itself"
               for expert in plan.experts}  # fmt: skip
    chats = any(tokenizer_config(model.files).template is not None for model in plan.opened.values())
    return Seen(models, chats)


def _kind(model: Checkpoint) -> str:
    if model.adapter is not None:
        return f"a LoRA adapter of rank {model.adapter['rank']}"
    return "a GGUF file" if model.kind == "gguf" else "a full checkpoint"


def _seen_from(root: Path, wanted: Wanted, here: Path) -> Wanted:
    """The same models and files, their paths relative to the recipe's folder."""

    def moved(expert: WantedExpert) -> WantedExpert:
        file = None if expert.file is None else _path_from(root, expert.file, here)
        if expert.to_fill is not None and (root / expert.to_fill).is_file():  # they are written already
            file = expert.to_fill
        texts = None if expert.texts is None else _path_from(root, expert.texts, here)
        return replace(expert, model=_spec_from(root, expert.model, here), file=file, texts=texts)

    return replace(wanted, base=_spec_from(root, wanted.base, here), experts=tuple(map(moved, wanted.experts)))


def _spec_from(root: Path, spec: str, here: Path) -> str:
    if spec == "base":
        return spec
    found = parse(spec, here)
    if isinstance(found, WithAdapter):
        return f"{_spec_from(root, found.model, here)}+{_spec_from(root, found.adapter, here)}"
    return _path_from(root, spec, here) if isinstance(found, Local) and not spec.startswith(PACKAGE) else spec


def _path_from(root: Path, path: str, here: Path) -> str:
    """A relative path from another folder; an absolute one, or one from a home folder, stays."""
    if path.startswith(("/", "~")) or root == here:
        return path
    found = Path(os.path.relpath(here / path, root)).as_posix()
    return found if "/" in found else f"./{found}"  # a folder called `base` is not the base

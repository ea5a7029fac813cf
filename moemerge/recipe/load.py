"""From a file and the options beside it to a checked recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moemerge.errors import RecipeError
from moemerge.recipe.checks import check, without_blanks
from moemerge.recipe.copies import spread_out
from moemerge.recipe.mergekit import is_mergekit, refuse_dense_merge, translate
from moemerge.recipe.paths import CSV, JSON_LINES, PARQUET, TEXTS
from moemerge.recipe.places import Source, nearest
from moemerge.recipe.schema import Evaluation, Recipe
from moemerge.recipe.tree import override, with_value
from moemerge.recipe.validate import validate, validate_evaluation
from moemerge.recipe.yaml import Entry, Table, compose, decode

MAX_BYTES = 16_000_000
"""A recipe's largest size."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that keeps every rule that needs none of its files.

    Attributes:
        recipe: what is to be built.
        path: the file it was read from, as given.
        root: the folder that its relative paths are relative to.
        notes: lines for the user: what was translated, what was left out.
        dialect: how it was written.
    """

    recipe: Recipe
    path: Path
    root: Path
    notes: tuple[str, ...] = ()
    dialect: Literal["native", "mergekit"] = "native"


def load_recipe(path: Path, overrides: Sequence[str] = (), gate: str | None = None) -> LoadedRecipe:
    """Reads a recipe, native or of mergekit-moe.

    Args:
        path: a YAML file.
        overrides: the `KEY=VALUE` of each `--set`, in native keys, applied in order.
        gate: the value of `--gate`: another `gate.init`.

    Raises:
        RecipeError: the file cannot be read, or with every problem that is found in it, each with its line and a caret.
    """
    path = Path(path)
    source = _source(path, "recipe")
    return _read(source, path, path.absolute().parent, overrides, gate)


def load_evaluation(path: Path) -> tuple[Evaluation, Path]:
    """Reads what a recipe would say under `eval` from a file of its own: `domains` and `questions`, or domains alone.

    A recipe will do too: its `eval` is read.

    Args:
        path: a YAML file.

    Returns:
        What it says, and the folder that its relative paths are relative to.

    Raises:
        RecipeError: the file cannot be read or holds texts, or with every problem that is found in it, each with its
            line and a caret.
    """
    path = Path(path)
    if path.suffix.lower() in JSON_LINES + CSV + PARQUET and os.path.isfile(path):
        message = f"`{path}` holds texts; what is wanted is a YAML file that names texts for each domain"
        raise RecipeError(message, hint=f"write one with lines such as `code: {path.name}`", code="no-recipe")
    tree = compose(_source(path, "file of domains"))
    inside = tree.get("eval")
    if isinstance(inside, Table) and inside.entries.keys() & Evaluation.model_fields.keys():
        tree = inside
    return validate_evaluation(_with_domains(tree)), path.absolute().parent


def _with_domains(tree: Table) -> Table:
    """A file of domains alone as one that names them."""
    if tree.entries.keys() & Evaluation.model_fields.keys():
        return tree
    return Table({"domains": Entry(tree.place, tree)}, tree.place)


def _refuse_evaluation(tree: Table, name: str) -> None:
    """Says of a file of texts by domain that it is not a recipe, rather than all that it lacks for one."""
    if tree.entries.keys() & Recipe.model_fields.keys():
        return
    try:
        found = validate_evaluation(_with_domains(tree))
    except RecipeError:
        return
    paths = [given if isinstance(given, str) else given.path for given in found.domains.values()]
    if paths and all(Path(path).suffix.lower() in TEXTS for path in paths):
        message = f"`{name}` is not a recipe: it names texts by domain"
        hint = "give it to `moemerge eval --domains` or `moemerge train-router --data`"
        raise RecipeError(message, hint=hint, code="no-recipe")


def _source(path: Path, what: str) -> Source:
    name = f"{what[0].upper()}{what[1:]} `{path}`"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"{name} does not exist", hint=_beside(path), code="no-recipe") from None
    except IsADirectoryError:
        hint = "name the YAML file in it"
        raise RecipeError(f"{name} is a folder", hint=hint, code="no-recipe") from None
    except (OSError, ValueError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        raise RecipeError(f"{name} cannot be read: {why}", code="no-recipe") from None
    if len(data) > MAX_BYTES:
        hint = "keep long lists of prompts in a `prompts_file`, texts in `data`"
        raise RecipeError(f"{name} has more than {MAX_BYTES / 1e6:.0f} MB", hint=hint, code="too-large")
    return decode(data, str(path), what)


def parse_recipe(
    text: str, name: str = "recipe", root: Path | None = None, overrides: Sequence[str] = (), gate: str | None = None
) -> LoadedRecipe:
    """The same from a text.

    Args:
        text: YAML.
        name: what messages call it.
        root: folder that relative paths are relative to; the working folder when None.
        overrides: as for `load_recipe`.
        gate: as for `load_recipe`.

    Raises:
        RecipeError: every problem that is found.
    """
    return _read(Source(name, text), Path(name), (root or Path()).absolute(), overrides, gate)


def _read(source: Source, path: Path, root: Path, overrides: Sequence[str], gate: str | None) -> LoadedRecipe:
    tree = compose(source)
    refuse_dense_merge(tree)
    _refuse_evaluation(tree, source.name)
    dialect: Literal["native", "mergekit"] = "native"
    notes: list[str] = []
    if is_mergekit(tree):
        dialect = "mergekit"
        chosen = gate is not None or any(text.partition("=")[0].strip() in {"gate", "gate.init"} for text in overrides)
        tree, notes = translate(tree, gate_given=chosen)
    for text in overrides:
        tree = override(tree, text)
    if gate is not None:
        tree = with_value(tree, ("gate", "init"), "--gate", gate)
    recipe, dropped = without_blanks(validate(tree))
    check(recipe, spread_out(tree))
    return LoadedRecipe(recipe, path, root, (*notes, *dropped), dialect)


def _beside(path: Path) -> str | None:
    """A hint that names the most similar recipe in the folder, where there is one."""
    try:
        recipes = [entry.name for entry in path.parent.iterdir() if entry.suffix in {".yaml", ".yml"}]
    except OSError:
        return f"there is no folder `{path.parent}`"
    found = nearest(path.name, recipes)
    return f"did you mean `{path.parent / found}`?" if found else None

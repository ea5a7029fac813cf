"""The recipe: YAML, native or of mergekit-moe, read into frozen data with every problem at its line and column."""

from __future__ import annotations

from moemerge.recipe.load import LoadedRecipe, load_evaluation, load_recipe, parse_recipe
from moemerge.recipe.paths import file_path, resolve
from moemerge.recipe.places import RecipeProblems
from moemerge.recipe.schema import (
    Data,
    Evaluation,
    Expert,
    Gate,
    GateInit,
    Merge,
    Output,
    Questions,
    Recipe,
    Rows,
    SharedExpert,
)

__all__ = [
    "Data",
    "Evaluation",
    "Expert",
    "Gate",
    "GateInit",
    "LoadedRecipe",
    "Merge",
    "Output",
    "Questions",
    "Recipe",
    "RecipeProblems",
    "Rows",
    "SharedExpert",
    "file_path",
    "load_evaluation",
    "load_recipe",
    "parse_recipe",
    "resolve",
]

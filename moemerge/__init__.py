"""moemerge builds a sparse mixture-of-experts language model from dense fine-tunes of one base model.

The API is the commands' verbs: `moemerge.plan(recipe)`, `moemerge.build(recipe)`, `moemerge.verify(folder)`,
`moemerge.evaluate(folder)`, `moemerge.train_router(folder, output)`.
Importing the package loads none of them: each verb's room is imported when the verb is first asked for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "build", "evaluate", "plan", "train_router", "verify"]

_VERBS = {"build": "build", "evaluate": "evaluate", "plan": "make_plan", "verify": "verify_folder"}
"""The function of each verb, in the room that has the verb's name."""


class _Package(ModuleType):
    """Keeps each verb a function.

    A room has the name of its verb, and Python sets a submodule as an attribute of its package when something first
    imports it. Here that attribute becomes the room's function, so `moemerge.build(...)` always
    works; `from moemerge.build import ...` finds the room, as ever.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value = getattr(value, _VERBS[name])
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "train_router":
        return importlib.import_module(f"{__name__}.train").train_router
    if name not in _VERBS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.{name}")
    return globals()[name]

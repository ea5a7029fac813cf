"""Which modules a LoRA is on: peft makes those that the config names, and only they are filled from the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moemerge.errors import SourceError
from moemerge.families.dense_family import Names
from moemerge.sources.patterns import matches

ALL = "all-linear"
MEND = "set it right in its `adapter_config.json`, or take that of its training"
_NAMES = Names()
_ENDS = frozenset({_NAMES.embedding.removesuffix(".weight"), _NAMES.head.removesuffix(".weight")})
"""The modules that `all-linear` leaves out: the head, and the embedding, which is not a linear layer."""


@dataclass(frozen=True, slots=True)
class Targets:
    """peft's rule (`check_target_module_exists` in 0.21).

    Attributes:
        names: ends of modules' names, a pattern for whole names, or `all-linear`; None where the config names none.
        excluded: likewise, of modules that are left out.
        layers: indices of the layers that have it; None for all.
        containers: patterns of what the layers lie in, which the index follows; none for any.
        saved: modules that are stored whole, which never have a LoRA.
    """

    names: tuple[str, ...] | str | None
    excluded: tuple[str, ...] | str = ()
    layers: tuple[int, ...] | None = None
    containers: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()

    def holds(self, module: str) -> bool:
        """Whether a module has a LoRA; where the config names none, whatever the file has."""
        if self.names is None:
            return True
        if _named(self.excluded, module) or any(matches(rf"(^|.*\.){name}($|\..*)", module) for name in self.saved):
            return False
        if isinstance(self.names, str):
            return module not in _ENDS if self.names.lower() == ALL else _named(self.names, module)
        if module in self.names:  # in full: peft then asks no layer
            return True
        return _named(self.names, module) and (self.layers is None or self._in_layers(self.layers, module))

    def _in_layers(self, layers: tuple[int, ...], module: str) -> bool:
        one = "|".join(map(str, layers))
        return any(matches(rf"(?:^|.*?\.){name}\.(?:{one})\.", module) for name in self.containers or (r"[^.]*",))


def _named(names: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(names, str):
        return matches(names, module, whole=True)
    return any(module == name or module.endswith(f".{name}") for name in names)


def parse_targets(config: Mapping[str, Any], saved: tuple[str, ...], spec: str) -> Targets:
    """Reads what an `adapter_config.json` says of modules.

    Raises:
        SourceError: malformed.
    """
    layers = config.get("layers_to_transform")
    layers = [layers] if type(layers) is int else layers or None
    if layers is not None and not (isinstance(layers, list) and all(type(index) is int for index in layers)):
        raise SourceError(f"Adapter `{spec}` has a `layers_to_transform` that is not a list of layers", hint=MEND)
    containers = _names(config, "layers_pattern", spec) or ()
    targets = Targets(
        names=_names(config, "target_modules", spec),
        excluded=_names(config, "exclude_modules", spec) or (),
        layers=tuple(layers) if layers is not None else None,
        containers=(containers,) if isinstance(containers, str) else containers,
        saved=saved,
    )
    if targets.names == ():
        raise SourceError(f"Adapter `{spec}` has no `target_modules`, so peft puts it on nothing", hint=MEND)
    for key, given in (("target_modules", targets.names), ("exclude_modules", targets.excluded)):
        for pattern in (given,) if isinstance(given, str) else ():
            check_pattern(pattern, key, spec, whole=True)
    for pattern in targets.containers:
        check_pattern(pattern, "layers_pattern", spec)
    return targets


def check_pattern(pattern: str, key: str, spec: str, *, whole: bool = False) -> None:
    """Refuses what is not a regular expression, or none that can be a part of another.

    Raises:
        SourceError: it is none.
    """
    try:
        re.compile(pattern if whole else f"({pattern})")
    except (re.error, RecursionError, OverflowError) as error:
        raise SourceError(
            f"Adapter `{spec}` has the pattern `{pattern}` in `{key}`, which is invalid: {error}", hint=MEND
        ) from None


def _names(config: Mapping[str, Any], key: str, spec: str) -> tuple[str, ...] | str | None:
    value = config.get(key)
    if value is None or isinstance(value, str):
        return value or None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SourceError(f"Adapter `{spec}` has a `{key}` that is neither a name nor a list of names", hint=MEND)
    return tuple(value)

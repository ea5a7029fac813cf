"""All that is in `dense/`, `translations/`, `hosts/`, `wrappers/` and `refused/`: a file there is found by itself."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from moemerge.families import dense, hosts, refused, translations, wrappers
from moemerge.families.dense_family import DenseFamily
from moemerge.families.host import Host
from moemerge.families.refusal import Refusal
from moemerge.families.translation import Translation
from moemerge.families.wrapper import Wrapper


def _members(package: Any, attribute: str) -> Iterator[Any]:
    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        yield getattr(import_module(f"{package.__name__}.{found.name}"), attribute)


DENSE_FAMILIES: Mapping[str, DenseFamily] = {family.model_type: family for family in _members(dense, "FAMILY")}
"""Every dense family by `model_type`."""

TRANSLATIONS: Mapping[str, Translation] = {row.model_type: row for row in _members(translations, "TRANSLATION")}
"""Every family that is read as another one, by `model_type`."""

HOSTS: Mapping[str, Host] = {host.model_type: host for host in _members(hosts, "HOST")}
"""Every host by `model_type`."""

WRAPPERS: Mapping[str, Wrapper] = {wrapper.model_type: wrapper for wrapper in _members(wrappers, "WRAPPER")}
"""Every wrapper by `model_type`."""

WRAPPED: Mapping[str, Wrapper] = {wrapper.mixture: wrapper for wrapper in WRAPPERS.values()}
"""Every wrapper by the `model_type` that it has around a mixture."""

REFUSALS: tuple[Refusal, ...] = tuple(refusal for found in _members(refused, "REFUSALS") for refusal in found)
"""Every reason why a model type is refused."""

REFUSED: Mapping[str, Refusal] = {name: refusal for refusal in REFUSALS for name in refusal.types.split()}
"""The reason by `model_type`."""

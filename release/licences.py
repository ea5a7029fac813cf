"""Lists the licences of what moemerge installs, and fails where one is not known to let it be used with Apache-2.0.

    make licences            or            python release/licences.py

Read from the metadata of what is installed: the packages that `moemerge` requires, theirs, and so on, without extras.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PERMISSIVE = re.compile(
    r"\b(apache|mit|bsd|isc|psf|python software foundation|0bsd|zlib|unlicense|mpl|mozilla|hpnd|cc0|bsl-1\.0)",
    re.IGNORECASE,
)
"""What the licences of these packages begin with. MPL binds changes to its own files alone."""
CUDA = re.compile(r"(nvidia|cuda)-")
"""Packages of NVIDIA's libraries, which torch's CUDA build brings: proprietary, and no part of moemerge."""
COPYLEFT = re.compile(r"\b(a?gpl|lgpl|general public|affero)", re.IGNORECASE)


def required(name: str) -> set[str]:
    """The packages that one needs on this machine, without its extras, itself included."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = canonicalize_name(waiting.pop())
        if current in found:
            continue
        found.add(current)
        for requirement in map(Requirement, metadata.requires(current) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def licence_of(name: str) -> str:
    """What a package's metadata says: the expression, else the classifiers, else the first line of the free text."""
    said = metadata.metadata(name)
    classifiers = [
        text.rpartition(" :: ")[2] for text in said.get_all("Classifier") or [] if text.startswith("License ::")
    ]
    expression, free = said.get_all("License-Expression") or [""], said.get_all("License") or [""]
    return expression[0] or "; ".join(classifiers) or free[0].strip().partition("\n")[0]


def refused(licence: str) -> bool:
    """Whether somebody must look at it: nothing that is known, or copyleft with no other licence to choose."""
    choices = re.split(r"\s+OR\s+", licence)
    return not any(PERMISSIVE.search(choice) and not COPYLEFT.search(choice) for choice in choices)


def main() -> None:
    """Prints the list."""
    licences = {name: licence_of(name) for name in sorted(required("moemerge"))}
    width = max(map(len, licences)) + 2
    for name, licence in licences.items():
        print(f"{name.ljust(width)}{licence or 'says nothing'}")
    odd = [name for name, licence in licences.items() if not CUDA.match(name) and refused(licence)]
    if odd:
        sys.exit(f"error: look at the licence of {', '.join(odd)}")


if __name__ == "__main__":
    main()

"""Writes the record down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from moemerge import __version__


def dump_record(record: Mapping[str, Any]) -> str:
    """The record as YAML, in its own order."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(dict(record), Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Written by moemerge {__version__}; `moemerge verify` reads it.\n{text}"

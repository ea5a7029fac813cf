"""What tests hold of each host, as a table: each column is a fact of its data, for which there must be a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from moemerge.families.host import Host
from moemerge.families.registry import HOSTS

PROVEN: Mapping[str, Callable[[Host], bool]] = {
    "identical experts": lambda host: True,
    "forced router": lambda host: True,
    "`verify`": lambda host: True,
    "`train-router`, `eval`, `trace`": lambda host: True,
    "layout `per_expert`": lambda host: host.expert is not None,
    "layout `fused`": lambda host: True,
    "`layers` kept dense": lambda host: host.dense_layers is not None,
    "`shared_experts`": lambda host: host.shared_expert is not None,
    "`moemerge export`": lambda host: host.gguf is not None,
}
"""What a column says, and of which hosts. `tests/families/test_reference.py` finds a test of each, and of no other."""


def proven_page() -> Iterator[str]:
    """The lines of the table: `yes`, `near` where numbers are equal as far as the host's law lets them, or nothing."""
    yield f"| host | {' | '.join(PROVEN)} |"
    yield "| --- |" + " --- |" * len(PROVEN)
    for name, host in HOSTS.items():
        cells = [_cell(host, held(host), column) for column, held in PROVEN.items()]
        yield f"| `{name}` | {' | '.join(cells)} |"


def _cell(host: Host, held: bool, column: str) -> str:
    if not held:
        return "no"
    return "near" if host.near is not None and column in ("identical experts", "forced router") else "yes"

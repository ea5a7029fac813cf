"""Patterns of adapters: matched as `re` matches, however long they would take."""

from __future__ import annotations

import re

import pytest

from moemerge.errors import SourceError
from moemerge.sources import patterns
from moemerge.sources.patterns import matches

NAME = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "pattern",
    ["model", r".*\.q_proj", r"(.*\.)?(q_proj)$", r"model\.layers\.[0-9]+\..*_proj", "(model|layers|[.0-9]|.)+", "x+"],
)
def test_a_pattern_matches_as_it_does_in_python(pattern: str, whole: bool) -> None:
    """Here or in a process apart."""
    assert matches(pattern, NAME, whole=whole) == bool((re.fullmatch if whole else re.match)(pattern, NAME))


def test_a_pattern_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named."""
    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    with pytest.raises(SourceError) as caught:
        matches("(.+)+!", NAME)
    assert caught.value.message == (
        f"An adapter's pattern `(.+)+!` cannot be compared with `{NAME}`: it takes longer than 1 seconds"
    )


def test_what_is_no_pattern() -> None:
    """As a part of another it may be none."""
    with pytest.raises(SourceError) as caught:
        matches("x(?i)", NAME)
    assert caught.value.message == (
        f"An adapter's pattern `x(?i)` cannot be compared with `{NAME}`: "
        "global flags not at the start of the expression at position 1"
    )

"""What was dequantised last is remembered, within bounds."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from moemerge.sources.recent import Recent


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 60))))
def test_it_gives_what_would_be_made_and_holds_no_more_than_it_may(asked: list[tuple[int, int]]) -> None:
    """Whatever is asked for in whatever order."""
    recent = Recent(400)
    for name, size in asked:
        given_out = recent.take((name, size), lambda name=name, size=size: torch.full((size,), float(name)))  # type: ignore[misc]
        assert given_out.tolist() == [name] * size
        held = sum(tensor.nbytes for tensor in recent._tensors.values())
        assert held == recent._held <= 400


def test_it_makes_once_what_is_asked_for_twice() -> None:
    """And again what was forgotten, or is too large to be remembered."""
    recent, made = Recent(64), list[str]()

    def make(name: str, size: int) -> torch.Tensor:
        made.append(name)
        return torch.zeros(size)

    for name, size in (("a", 8), ("a", 8), ("b", 8), ("c", 8), ("a", 8), ("large", 9), ("large", 9)):
        recent.take(name, lambda name=name, size=size: make(name, size))  # type: ignore[misc]
    assert made == ["a", "b", "c", "a", "large", "large"]

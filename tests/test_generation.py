"""Continuing token ids."""

from __future__ import annotations

from typing import Any

import pytest

from moemerge.dense.generation import continuations
from moemerge.errors import MoemergeError
from tests.gate.conftest import tiny_llama


@pytest.mark.parametrize(("what", "named"), [({}, "a prompt"), ({"what": "a question"}, "a question")])
def test_a_prompt_without_a_token_is_refused(what: dict[str, Any], named: str) -> None:
    """Wherever it stands in the batch: padding would be continued in its place."""
    with pytest.raises(MoemergeError) as caught:
        continuations(tiny_llama(), [[5, 6], []], [2], max_new_tokens=3, **what)
    assert (caught.value.message, caught.value.hint) == (
        f"The tokenizer makes no token of {named}", "a model continues at least one: check it and the tokenizer",
    )  # fmt: skip


def test_prompts_of_unequal_length_are_continued_as_each_alone() -> None:
    """Greedily; each row ends with its end token, where it came to one."""
    model, prompts = tiny_llama(), [[5, 6, 7, 8], [9]]
    together = continuations(model, prompts, [2], max_new_tokens=6, do_sample=False)
    assert together == [continuations(model, [one], [2], max_new_tokens=6, do_sample=False)[0] for one in prompts]
    assert continuations(model, prompts[:1], [together[0][0]], max_new_tokens=6, do_sample=False) == [together[0][:1]]

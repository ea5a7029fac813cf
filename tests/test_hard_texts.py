"""The sources of the hard sets: what is developed on is not what is tested on."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("benchmarks/hard", "examples"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    for name in ("hard_texts", "debian_prose", "training_sources", "math_problems", "train_chat", "train_specialists"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_no_file_is_in_two_parts() -> None:
    """Parts of a domain take other packages, or other files of one."""
    from hard_texts import SOURCES

    for parts in SOURCES.values():
        for one, other in combinations(parts.values(), 2):
            if set(one.packages) & set(other.packages):
                assert not set(one.patterns) & set(other.patterns)


@pytest.mark.parametrize("part", ["development", "test"])
def test_mixed_documents_change_the_domain_once(part: str) -> None:
    """From French to Python and from Python to French in turn, each half cut at the end of a line or sentence."""
    from hard_texts import CHARACTERS, EXAMPLES, halves, texts_in

    found = halves(texts_in(EXAMPLES[part] / "french.jsonl"), texts_in(EXAMPLES[part] / "code.jsonl"))
    assert len(found) >= 16
    for number, pieces in enumerate(found):
        assert [owner for owner, _ in pieces] == (["french", "code"] if number % 2 == 0 else ["code", "french"])
        assert all(0 < len(text) <= CHARACTERS // 2 for _, text in pieces)


def test_chats_are_of_templates_that_no_other_part_has() -> None:
    """Nor has the specialist's training; each has one question and one reply, as its chat template writes them."""
    from hard_texts import CHATS

    from math_problems import templates
    from train_chat import conversations

    families = [*CHATS.values(), "train"]
    for one, other in combinations(families, 2):
        assert not [template for template in templates(one) if template in templates(other)]
    for family in CHATS.values():
        for text in conversations(family, 3, seed=1):
            assert text.startswith("<|turn|>user\n")
            assert text.count("<|end|>\n<|turn|>assistant\n") == 1
            assert text.endswith("<|end|>\n")


def test_prose_for_gates_is_none_that_a_specialist_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither trained on nor held out: the passages of each source that come after those."""
    import hard_texts

    from debian_prose import SOURCES
    from training_sources import split_passages

    def numbered(source: object, language: str) -> list[str]:
        return [f"{SOURCES.index(source)} {language} {number}" for number in range(700)] if source in SOURCES else []  # type: ignore[arg-type]

    for module in ("hard_texts", "training_sources"):
        monkeypatch.setattr(sys.modules[module], "prose_passages", numbered)
    for language in hard_texts.LANGUAGES:
        trained, held_out = split_passages(language, 0)
        found = hard_texts.prose(language)
        assert len(set(found)) == hard_texts.DOCUMENTS["gate"]
        assert not set(found) & {*trained, *(text for texts in held_out.values() for text in texts)}

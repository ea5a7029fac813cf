"""Known domains: their names, and the prompts that the package ships."""

from __future__ import annotations

from collections import Counter

import pytest

from moemerge.init.domains import DOMAINS, domain_of, suggested_prompts
from moemerge.plan import Plan, make_plan
from moemerge.recipe import Expert, Recipe
from tests.conftest import TinyMaker


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("code", "code"),
        ("Coder", "code"),
        ("Python", "python"),
        ("py", "python"),
        ("python-coder", "python"),
        ("code-python", "python"),
        ("sql-coder", "sql"),
        ("llama-c++-code", "cpp"),
        ("python-rust", None),
        ("python-math", None),
        ("math", "maths"),
        ("mistral-7b-sql_v2", "sql"),
        ("fr", "french"),
        ("med.1", "medicine"),
        ("french-law", None),
        ("gemma-it", None),
        ("decode", None),
        ("expert-1", None),
    ],
)
def test_a_name_chooses_a_domain(name: str, domain: str | None) -> None:
    """By whole words, in any case; where it says nothing, or two things, it chooses none."""
    assert domain_of(name) == domain


def test_no_word_names_two_domains() -> None:
    """A name is one domain's, or an alias of one."""
    words = Counter(word for domain, others in DOMAINS.items() for word in (domain, *others))
    assert [word for word, times in words.items() if times > 1] == []


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_domain_has_eight_prompts(domain: str) -> None:
    """Eight that differ, each a line of some words without spaces around it."""
    prompts = suggested_prompts(domain)
    assert len(set(prompts)) == len(prompts) == 8
    assert [prompt for prompt in prompts if prompt != prompt.strip() or not 5 <= len(prompt) <= 100] == []


def test_all_domains_fit_side_by_side(tiny: TinyMaker) -> None:
    """No two share prompts that `plan` would call near-equal."""
    base = str(tiny("llama"))
    experts = tuple(Expert(name=domain, model=base, prompts=suggested_prompts(domain)) for domain in DOMAINS)
    plan = make_plan(Recipe(base_model=base, experts=experts), tiny("llama").parent)
    assert isinstance(plan, Plan)
    assert [warning for warning in plan.warnings if warning.code == "similar-prompts"] == []


def test_a_programming_language_has_prompts_of_its_own() -> None:
    """Nothing of another: JavaScript would teach the gate that it is Python's."""
    python = "\n".join(suggested_prompts("python"))
    assert not [word for word in ("function debounce", "#include", "fn ", "const ", ";") if word in python]
    assert not set(suggested_prompts("python")) & set(suggested_prompts("code"))

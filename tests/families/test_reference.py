"""docs/families.md and `moemerge families` are made from the families themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.errors import MoemergeError
from moemerge.families import DENSE_FAMILIES, HOSTS, NO_HOST, TRANSLATIONS, WRAPPERS, hosts_of
from moemerge.families.reference import account, markdown, overview

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    """docs/families.md is what `make docs` writes."""
    assert (ROOT / "docs" / "families.md").read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_every_family_has_a_host_and_every_host_a_family() -> None:
    """None is dead, and none is refused as well."""
    assert all(hosts_of(family) for family in DENSE_FAMILIES)
    assert {family for host in HOSTS.values() for family in host.fits} == set(DENSE_FAMILIES)
    assert {row.becomes for row in TRANSLATIONS.values()} <= set(DENSE_FAMILIES)
    assert not set(NO_HOST) & {*DENSE_FAMILIES, *TRANSLATIONS, *WRAPPERS}
    assert not set(DENSE_FAMILIES) & set(TRANSLATIONS)


def test_the_command_lists_all_of_them() -> None:
    """A line a family; one family's hosts; a host; a reason; a name that is none."""
    said = CliRunner().invoke(app, ["families"]).stdout.splitlines()
    assert said == list(overview())
    assert [line.split()[0] for line in said] == sorted([*DENSE_FAMILIES, *TRANSLATIONS, *WRAPPERS])
    assert CliRunner().invoke(app, ["families", "llama"]).stdout == "\n".join(account("llama")) + "\n"
    assert list(account("phi3"))[1] == "computes what a mistral does, and is read as one"
    assert next(account("mixtral")) == "into mixtral (MixtralForCausalLM), exact"
    (reason,) = account("gpt2")
    assert reason.endswith("its FFN has no gate projection")
    with pytest.raises(MoemergeError, match="`lama` is no family"):
        list(account("lama"))

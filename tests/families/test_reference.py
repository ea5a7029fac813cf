"""docs/families.md and `moemerge families` are made from the families themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.errors import MoemergeError
from moemerge.families import DENSE_FAMILIES, HOSTS, REFUSED, TRANSLATIONS, WRAPPERS, DenseConfig, choose_host, hosts_of
from moemerge.families.reference import account, markdown, overview
from tests.hosts import HOSTS as HOST_CASES
from tests.test_identity import CASES
from tests.tiny import as_read, tiny_config
from tests.wrapped import CASES as WRAPPER_CASES

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    """docs/families.md is what `make docs` writes."""
    assert (ROOT / "docs" / "families.md").read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_every_family_has_a_host_and_every_host_a_family() -> None:
    """None is dead, and none is refused as well."""
    assert all(hosts_of(family) for family in DENSE_FAMILIES)
    assert {family for host in HOSTS.values() for family in host.fits} == set(DENSE_FAMILIES)
    assert {family for row in TRANSLATIONS.values() for family in row.families} <= set(DENSE_FAMILIES)
    assert not set(REFUSED) & {*DENSE_FAMILIES, *TRANSLATIONS, *WRAPPERS}
    assert set(DENSE_FAMILIES) & set(TRANSLATIONS) == {
        name for name, row in TRANSLATIONS.items() if row.becomes == name
    }


def test_every_line_of_the_page_is_proven() -> None:
    """Each family is built into each of its hosts by the identity tests, and each host in both layouts it has."""
    proven: set[tuple[str, str, str]] = set()
    for family, config, fields in CASES.values():
        read = DenseConfig.resolve(as_read(tiny_config(family, **config).to_dict()))
        host, problems = choose_host(read, fields.get("architecture", "auto"))
        assert host is not None
        assert problems == []
        dense = read.family
        layout = host.layout(fields.get("output", {}).get("layout", "per_expert"))
        proven |= {(family, host.model_type, layout), (dense, host.model_type, layout)}
    pairs = {(family, host) for family, host, _ in proven}
    assert {(family, host.model_type) for family in DENSE_FAMILIES for host in hosts_of(family)} <= pairs
    within = {language for case in WRAPPER_CASES.values() for language in (case.language, *case.others)}
    assert {*DENSE_FAMILIES, *TRANSLATIONS} == {family for family, _, _ in proven} | within
    alone = [host for host in HOSTS.values() if host.alone]  # the others are proven with their wrapper
    layouts = {(host.model_type, host.layout(asked)) for host in alone for asked in ("per_expert", "fused")}
    assert layouts <= {(host, layout) for _, host, layout in proven}
    assert set(HOST_CASES) == {host.model_type for host in alone}, "what `train-router`, `eval` and `trace` run on"
    assert set(WRAPPER_CASES) == set(WRAPPERS)


def test_the_command_lists_all_of_them() -> None:
    """A line a family; one family's hosts; a host; a reason; a name that is none."""
    said = CliRunner().invoke(app, ["families"]).stdout.splitlines()
    assert said == list(overview())
    assert [line.split()[0] for line in said] == sorted({*DENSE_FAMILIES, *TRANSLATIONS, *WRAPPERS})
    assert CliRunner().invoke(app, ["families", "llama"]).stdout == "\n".join(account("llama")) + "\n"
    assert list(account("helium"))[1] == "computes what a llama does, and is read as one"
    assert list(account("phi3"))[1] == "computes what a mistral or a glm4_moe does, and is read as one"
    assert next(account("mixtral")) == "into mixtral (MixtralForCausalLM), exact"
    assert list(account("mamba")) == [
        "model type `mamba` does not become a mixture of experts: it has no FFN",
        "what works instead: `bamba` or `granitemoehybrid`, whose Mamba layers have FFNs",
    ]
    with pytest.raises(MoemergeError, match="`lama` is no family"):
        list(account("lama"))

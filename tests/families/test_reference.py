"""docs/families.md and `moemerge families` are made from the families themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.errors import MoemergeError
from moemerge.families import (
    DENSE_FAMILIES,
    HOSTS,
    REFUSED,
    TRANSLATIONS,
    WRAPPERS,
    DenseConfig,
    Host,
    choose_host,
    hosts_of,
)
from moemerge.families.proven import PROVEN
from moemerge.families.reference import account, markdown, overview
from moemerge.recipe.layers import numbered
from moemerge.verify.hosts import HOSTS as VERIFIED
from tests.export.test_llama_cpp import CASES as EXPORTED
from tests.hosts import HOSTS as HOST_CASES
from tests.test_identity import ALWAYS_ON, CASES
from tests.test_wrappers import KEPT_WITHIN
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


def dense_of(family: str, config: dict[str, Any]) -> DenseConfig:
    """What a tiny model is read as."""
    return DenseConfig.resolve(as_read(tiny_config(family, **config).to_dict()))


def host_of_case(case: tuple[str, dict[str, Any], dict[str, Any]]) -> Host:
    """The host that an identity test builds into."""
    family, config, fields = case
    dense = dense_of(family, config)
    dense = replace(dense, kept=numbered(fields.get("layers", {})))
    host, problems = choose_host(dense, fields.get("architecture", "auto"))
    assert host is not None
    assert problems == []
    return host


def test_every_line_of_the_page_is_proven() -> None:
    """Each family is built into each of its hosts by the identity tests, and each host in both layouts it has."""
    proven: set[tuple[str, str, str]] = set()
    for family, config, fields in CASES.values():
        host = host_of_case((family, config, fields))
        dense = dense_of(family, config).family
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


def test_every_column_of_the_page_is_proven() -> None:
    """What a host is said to hold beside is what tests run it with: in this file's neighbours, and with wrappers."""
    cases = [(host_of_case(case), case[2]) for case in CASES.values()]
    within = {host for wrapper in WRAPPERS.values() for host in wrapper.languages}
    layouts = {(host.model_type, host.layout(fields.get("output", {}).get("layout", "per_expert")))
               for host, fields in cases} | {("qwen3_vl_moe_text", "fused")}  # fmt: skip
    kept = {host.model_type for host, fields in cases if "layers" in fields}
    evidence = {
        "identical experts": {host.model_type for host, _ in cases} | within,
        "forced router": {host.model_type for host, _ in cases} | within,
        "`verify`": set(VERIFIED),
        "`train-router`, `eval`, `trace`": set(HOST_CASES) | within,
        "layout `per_expert`": {host for host, layout in layouts if layout == "per_expert"},
        "layout `fused`": {host for host, layout in layouts if layout == "fused"},
        "`layers` kept dense": kept | {WRAPPERS[kind].languages[0] for kind in KEPT_WITHIN},
        "`shared_experts`": {host for _, host in ALWAYS_ON.values()},
        "`moemerge export`": {name.split()[0] for name in EXPORTED}
        | {"gemma4_text", "qwen3_vl_moe_text"},  # which have tests of their own
    }
    assert evidence.keys() == PROVEN.keys()
    for column, held in PROVEN.items():
        assert {name for name, host in HOSTS.items() if held(host)} == evidence[column], column


def test_the_command_lists_all_of_them() -> None:
    """A line a family; one family's hosts; a host; a reason; a name that is none."""
    said = CliRunner().invoke(app, ["families"]).stdout.splitlines()
    assert said == list(overview())
    assert [line.split()[0] for line in said] == sorted({*DENSE_FAMILIES, *TRANSLATIONS, *WRAPPERS})
    assert CliRunner().invoke(app, ["families", "llama"]).stdout == "\n".join(account("llama")) + "\n"
    assert list(account("arcee"))[1] == "computes what a llama does, and is read as one"
    assert list(account("phi3"))[1] == "computes what a mistral or a glm4_moe does, and is read as one"
    assert next(account("mixtral")) == "into mixtral (MixtralForCausalLM), exact"
    assert list(account("mamba")) == [
        "model type `mamba` does not become a mixture of experts: it has no FFN",
        "what works instead: `bamba` or `granitemoehybrid`, whose Mamba layers have FFNs",
    ]
    with pytest.raises(MoemergeError, match="`lama` is not a family"):
        list(account("lama"))

"""What fits into what, as a table: docs/families.md and `moemerge families` are made from the families themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from moemerge.errors import MoemergeError
from moemerge.families import (
    DENSE_FAMILIES,
    HOSTS,
    REFUSALS,
    REFUSED,
    TRANSLATIONS,
    WRAPPERS,
    Host,
    Translation,
    family_problem,
    hosts_of,
)
from moemerge.families.proven import proven_page
from moemerge.families.runtimes import measured
from moemerge.families.runtimes_page import in_words

PROVEN = (
    "Tests hold every line, on tiny models whose weights are all random: identical experts give the dense model's "
    "logits within 1e-6 and its greedy tokens (or as near as a near host's law says), a router forced to one expert "
    "gives that specialist on the merged rest, `verify` derives the same folder, and `train-router`, `eval` and "
    "`trace` run on each host, in both layouts where it has both."
)
"""What `tests/families/test_reference.py` finds a test of, for each family with each of its hosts."""

TESTED = (
    "What tests hold of each host, with the dense families that go into it. `no` is what the class, or `moemerge "
    "export`, has no place for: `plan` and `export` refuse it. What other runtimes make of a folder stands below."
)
"""What the table of `proven.py` is."""

ABSENT = (
    "What a host cannot hold is refused with the reason. These types of transformers 5.23 do not become a mixture of "
    "experts at all; with those above they are all that it has of language models. Each reason was read in the class, "
    "and tests look for it there."
)
"""What the last table is."""


def markdown() -> str:
    """docs/families.md."""
    lines = ["# Families", ""]
    lines += [
        "Which dense models become which mixture-of-experts class of transformers. `make docs` writes this page.",
        "`architecture: auto` takes a host that holds the model: exact ones before near ones, then the one that is",
        "right in the most other runtimes with what this very model has ([measured](runtimes.md)), and of equals the",
        "first below. Any other that fits can be named.",
        "",
        *textwrap.wrap(PROVEN, 118),
        "",
    ]
    lines += ["| models | `model_type` | become, its own first |", "| --- | --- | --- |"]
    for name, family in DENSE_FAMILIES.items():
        lines.append(f"| {family.title} | `{name}` | {_listed(hosts_of(name))} |")
    for name, row in TRANSLATIONS.items():
        if row.becomes == name:
            continue
        read = " or ".join(f"`{family}`" for family in row.families)
        lines.append(f"| {row.title} | `{name}`, read as {read} | {_listed(_hosts(row))} |")
    lines += [
        "",
        "Models of more than text. Their language model becomes a mixture; what sees or hears is the base's, as it",
        "is. An expert may be such a model, an adapter on one, or a language model alone.",
        "",
    ]
    lines += ["| models | `model_type` | the language model becomes |", "| --- | --- | --- |"]
    for name, wrapper in WRAPPERS.items():
        lines.append(f"| {wrapper.title} | `{name}` | {_listed([HOSTS[host] for host in wrapper.languages])} |")
    lines += ["", "| host | what it holds | exact |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {host.holds} | {host.near or 'yes'} |" for name, host in HOSTS.items()]
    lines += ["", *textwrap.wrap(TESTED, 118), "", *proven_page()]
    lines += ["", "transformers 5 loads all of them. [What others make of them](runtimes.md) was measured.", ""]
    lines += [*textwrap.wrap(ABSENT, 118), ""]
    lines += ["| why it does not | what works instead | `model_type` |", "| --- | --- | --- |"]
    for refusal in REFUSALS:
        types = ", ".join(f"`{name}`" for name in refusal.types.split())
        lines.append(f"| {refusal.why} | {refusal.instead} | {types} |")
    return "\n".join(lines) + "\n"


def _listed(hosts: list[Host]) -> str:
    return ", ".join(_marked(host, f"`{host.model_type}`") for host in hosts)


def _marked(host: Host, shown: str | None = None) -> str:
    return (shown or host.model_type) + ("" if host.near is None else " (near)")


def _hosts(row: Translation) -> list[Host]:
    """Those of all families that its models are read as."""
    return list({host.model_type: host for family in row.families for host in hosts_of(family)}.values())


def overview() -> Iterator[str]:
    """Every family and its hosts, a line each."""
    rows = {name: (hosts_of(name), family.title) for name, family in DENSE_FAMILIES.items()}
    rows |= {name: (_hosts(row), row.title) for name, row in TRANSLATIONS.items()}
    rows |= {name: ([HOSTS[host] for host in row.languages], row.title) for name, row in WRAPPERS.items()}
    hosted = {name: ", ".join(_marked(host) for host in hosts) for name, (hosts, _) in rows.items()}
    first, second = max(map(len, hosted)), max(map(len, hosted.values()))
    for name, (_, title) in sorted(rows.items()):
        yield f"{name:<{first}}  {hosted[name]:<{second}}  {title}"


def account(name: str) -> Iterator[str]:
    """What there is to say of one family or host.

    Raises:
        MoemergeError: it is neither.
    """
    if name in DENSE_FAMILIES:
        yield f"{name}: {DENSE_FAMILIES[name].title}"
        for host in hosts_of(name):
            yield from _host(host)
    elif name in TRANSLATIONS:
        row = TRANSLATIONS[name]
        yield f"{name}: {row.title}"
        yield f"computes what a {' or a '.join(row.families)} does, and is read as one"
        for host in _hosts(row):
            yield from _host(host)
    elif name in WRAPPERS:
        wrapper = WRAPPERS[name]
        yield f"{name}: {wrapper.title}"
        hosts = ", ".join(_marked(HOSTS[host]) for host in wrapper.languages)
        yield f"the language model becomes one of {hosts}; what sees or hears stays the base's"
    elif name in HOSTS:
        yield from _host(HOSTS[name])
    elif name in REFUSED:
        problem = family_problem(name)
        yield problem.message
        yield f"what works instead: {problem.hint}"
    else:
        raise MoemergeError(f"`{name}` is not a family that moemerge knows", hint="`moemerge families` lists them")


def _host(host: Host) -> Iterator[str]:
    yield f"into {host.model_type} ({host.architecture}), {'exact' if host.near is None else 'near'}"
    if host.near is not None:
        yield textwrap.fill(host.near, 78, initial_indent="  ", subsequent_indent="  ")
    for runtime, runs in measured().items():
        state = in_words(runs, host.model_type).replace("**", "")
        version = runs.versions[runtime.package]
        yield textwrap.fill(f"{runtime.title} ({version}): {state}", 78, initial_indent="  ", subsequent_indent="    ")
    yield textwrap.fill(f"holds {host.holds}", 78, initial_indent="  ", subsequent_indent="  ")


if __name__ == "__main__":
    print(markdown(), end="")

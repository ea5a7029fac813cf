"""The documentation: its site has every page, pages made from code are current, and what it promises of JSON is so."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.cli.reference import markdown
from moemerge.export import Exported
from moemerge.families.registry import HOSTS
from moemerge.init.domains import DOMAINS
from moemerge.recipe import mergekit, mergekit_tokenizer
from tests.conftest import TinyMaker
from tests.moe import build_tiny

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = runpy.run_path(str(ROOT / "release" / "site.py"))


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def named(value: Any) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(value, str):
        return [value]
    return [name for inner in (value.values() if isinstance(value, dict) else value) for name in named(inner)]


def test_every_page_is_in_the_navigation() -> None:
    """Once, and each of its pages is a file here or one that `release/site.py` makes."""
    config = SITE["on_config"](yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(named(config["nav"])) == sorted([*pages, *SITE["PAGES"]])


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("*-*.md")), ids=lambda path: path.stem)
def test_a_decision_is_one_short_page(path: Path) -> None:
    """What was chosen, why, and the command that measures it, under the title that the index has."""
    title, *lines = path.read_text(encoding="utf-8").splitlines()
    parts = [part for line in lines for part in re.findall(r"^\*\*(Chosen|Why|Command)\.\*\*", line)]
    assert parts == ["Chosen", "Why", "Command"]
    assert len(lines) < 60
    assert f"- [{title.removeprefix('# ')}]({path.name})" in page("decisions/index.md").splitlines()


def links(path: Path) -> list[tuple[str, str]]:
    """Path and anchor of each link to a file, code left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    aims = re.findall(r"\]\(([^)\s]+)\)", text)
    return [(aim.partition("#")[0], aim.partition("#")[2]) for aim in aims if not re.match(r"[a-z]+:", aim)]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """To a file that is there, and in it to a heading."""
    wrong = []
    for aim, anchor in links(path):
        target = (path.parent / aim).resolve() if aim else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(f"{aim}#{anchor}")
    assert wrong == []


def test_the_page_of_commands_is_current() -> None:
    """docs/commands.md is what `make docs` writes."""
    assert page("commands.md") == markdown(), "run `make docs`"


def test_mergekits_keys_are_all_explained() -> None:
    """Each key, gate mode and architecture that the dialect knows is on the page of those who come from there."""
    words = {*mergekit._TOP, *mergekit._EXPERT, *mergekit._UNUSED, *mergekit.GATE_MODES, *mergekit.ARCHITECTURES}
    words |= {*mergekit.GATE_MODES.values(), *mergekit.ARCHITECTURES.values(), *mergekit_tokenizer._KEYS}
    text = page("from-mergekit.md")
    assert [word for word in sorted(words) if f"`{word}`" not in text] == []


def test_the_page_of_commands_names_the_domains() -> None:
    """All for which `init` suggests prompts."""
    assert [domain for domain in DOMAINS if f"`{domain}`" not in page("cli.md")] == []


def test_the_page_of_gguf_names_each_host_with_its_architecture() -> None:
    """Those without one stand in the row whose architecture is empty. A host within another has its name."""
    rows = re.findall(r"^\| (`[^|]*) \| (?:`([^|]*)` )?\|", page("gguf.md"), flags=re.MULTILINE)
    written = {host: architecture or None for hosts, architecture in rows for host in re.findall(r"`(\w+)`", hosts)}
    forms = {name if host.alone else name.removesuffix("_text"): host.gguf for name, host in HOSTS.items()}
    assert written == {name: form and form.architecture for name, form in forms.items()}


def promised(command: str) -> set[str]:
    """The names that docs/json.md lists for a command, those that stand alone in a table or a sentence."""
    section = page("json.md").split(f"## `{command}`\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(rows) if rows else section))


def test_json_has_the_names_that_the_page_promises(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name more, none less, of each command on a tiny mixture."""
    monkeypatch.chdir(tmp_path)
    base, other = tiny("llama"), tiny("llama", 1)
    experts = f"- {{name: a, model: {base}}}\n- {{name: b, model: {other}}}\n"
    Path("r.yaml").write_text(f"base_model: {base}\nexperts:\n{experts}gate: {{init: random}}\n", encoding="utf-8")
    Path("a.txt").write_text("def return one\n\nsum of two\n\nprint three\n", encoding="utf-8")
    Path("d.yaml").write_text("a: a.txt\nb: a.txt\n", encoding="utf-8")

    def printed(*arguments: str) -> set[str]:
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return set(json.loads(result.stdout))

    assert printed("plan", "r.yaml", "--deep") == promised("plan")
    assert printed("build", "r.yaml", "-o", "moe") == promised("build")
    assert printed("verify", "moe") == promised("verify")
    assert printed("trace", "moe", "def return") == promised("trace")
    training = ("train-router", "moe", "-o", "trained", "--data", "d.yaml", "--steps", "0")
    assert printed(*training) == promised("train-router")
    assert printed("doctor") == promised("doctor")
    explained = page("json.md").split("With `--explain`")[1].split("\n## ")[0]
    assert printed("trace", "moe", "def return", "--explain") == set(re.findall(r"`(\w+)`", explained))
    assert {field.name for field in dataclasses.fields(Exported)} == promised("export")


def test_pictures_are_those_that_code_draws(tmp_path: Path) -> None:
    """docs/router.svg, from the fits as they are now."""
    from benchmarks.plot_router import draw

    assert page("router.svg") == draw()


def test_a_tiny_mixture_is_built_as_the_tutorial_says(tiny: TinyMaker, tmp_path: Path) -> None:
    """Its Python loads what a build made."""
    (code,) = re.findall(r"```python\n(.*?)```", page("tutorial.md"), flags=re.DOTALL)
    out = build_tiny(tmp_path / "moe", tiny("llama"), [tiny("llama"), tiny("llama", 1)])
    exec(code.replace("out/moe", str(out)), {})


def test_errors_are_those_that_the_code_says() -> None:
    """What stands between the user's own names in each heading of docs/errors.md is in the package's messages."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "moemerge").rglob("*.py")))
    said = re.sub(r'"\s*\n\s*f?"', "", code)  # a message that is broken over lines
    headings = re.findall(r"^### (.*)$", page("errors.md"), flags=re.MULTILINE)
    pieces = [piece.strip(" `") for heading in headings for piece in heading.split("…")]
    assert [piece for piece in pieces if len(piece) > 3 and piece not in said] == []
    assert len(headings) > 20


def test_the_site_is_built_with_warnings_as_errors() -> None:
    """`--quiet` would keep mkdocs from counting them."""
    (line,) = re.findall(r"mkdocs build.*", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert "--strict" in line
    assert "quiet" not in line

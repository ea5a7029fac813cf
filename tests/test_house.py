"""The rules of the house that no linter knows: the order of imports, what is loaded when, docs that say what is so."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "moemerge"

ORDER = (
    "signals", "version", "errors", "files", "kept", "options", "console", "device", "apart", "templates", "recipe",
    "record", "texts", "families", "sources", "plan", "execute", "dense", "gate", "write", "verify", "build", "mixture",
    "evaluate", "train", "export", "report", "push", "init", "doctor", "api", "cli", "__main__",
)  # fmt: skip
"""Data flows one way: a room imports only from rooms before it."""
FORBIDDEN = {"verify": {"plan", "execute", "dense", "gate", "write"}}
"""A check that shared code with what it checks would share its mistakes."""
HEAVY_ROOMS = {"execute", "dense", "gate", "write", "mixture", "evaluate", "train", "export"}
"""Rooms that may load torch with themselves, because only a verb at work imports them."""
HEAVY_MODULES = {"build/choose.py", "build/near.py"}
"""Single modules of other rooms that may, likewise."""
HEAVY = {"torch", "transformers", "peft", "datasets", "gguf", "numpy", "ml_dtypes", "rich", "jinja2", "matplotlib"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room that a file of the package belongs to; `__init__` for the package's own file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def place(path: Path) -> str:
    """The path of a file within the package."""
    return path.relative_to(PACKAGE).as_posix()


def imported_rooms(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and room of every import of the package's own, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "moemerge":
            names = [f"moemerge.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "moemerge" and parts[1:] and parts[1] != "__version__":
                yield node.lineno, parts[1]


def imports_at_load(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import that runs when the module is loaded."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").split(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imports_at_load(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "finalbody"):
                yield from imports_at_load(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from imports_at_load(handler.body)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_a_room_imports_only_from_earlier_rooms() -> None:
    """Every import of the package's own, typing ones and those inside functions too, points backwards in ORDER."""
    wrong = []
    for path in MODULES:
        room, imported = room_of(path), list(imported_rooms(parse(path)))
        if room == "__init__":
            wrong += [f"the package's own file imports {other}" for _, other in imported]
            continue
        assert room in ORDER, f"`{room}` is a new room: give it its place in ORDER"
        allowed = {room, *ORDER[: ORDER.index(room)]} - FORBIDDEN.get(room, set())
        wrong += [f"{place(path)}:{line} imports {other}" for line, other in imported if other not in allowed]
    assert wrong == []


def test_light_rooms_load_nothing_heavy() -> None:
    """Outside HEAVY_ROOMS the heavy libraries are imported in the functions that need them."""
    light = [path for path in MODULES if room_of(path) not in HEAVY_ROOMS and place(path) not in HEAVY_MODULES]
    wrong = [f"{place(path)}:{line} loads {name}" for path in light for line, name in imports_at_load(parse(path).body)
             if name in HEAVY]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize(
    "modules",
    [
        "moemerge",
        "moemerge.cli",
        "moemerge.recipe, moemerge.sources, moemerge.families, moemerge.plan",
        "moemerge.build.run",
        "moemerge.api",
    ],
)
def test_importing_a_light_room_leaves_the_heavy_libraries_alone(modules: str) -> None:
    """The same in a real process: nothing that these import in turn loads torch, transformers, numpy and the like."""
    program = f"import {modules}, sys; print(*sorted({HEAVY - {'rich'}!r} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")


# What a model looks like is known in families/, and once more in verify's own rows

KNOWS_MODELS = ("families/", "verify/")
SPELLED = re.compile(
    r"self_attn|\bmlp\b|_proj\b|embed_tokens|lm_head\.|block_sparse|\bmodel\.layers|\.experts\b|post_\w+_layernorm"
)
"""A part of a path, on disk or in memory. Messages, which have spaces, may name one."""
PATHS = {"mlp", "self_attn", "lm_head", "embed_tokens", "block_sparse_moe", "gate_up_proj", "down_proj"}
"""Attributes that are parts of a model."""
SOFTMAXES = {
    "gate/held_out.py": "the likelihood of a domain under a gate",
    "train/attention.py": "attention",
}
"""Softmaxes that are no router's."""


def spelled(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each path of a model that a file spells, docstrings left out."""
    documented = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    attached = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings of fields too
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            plain = node not in documented | attached and " " not in node.value.strip()
            if plain and SPELLED.search(node.value):
                yield node.lineno, node.value
        elif isinstance(node, ast.Attribute):
            inside = node.attr in {"model", "layers"} and ast.unparse(node.value).endswith("model")
            if inside or node.attr in PATHS:
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    "line",
    ["x = model.model(ids)", "x = model.model.layers[3]", "x = layer.mlp.gate", "x = f'model.layers.{n}.norm'",
     "NAME = 'lm_head.weight'", "x = model.lm_head(h)", "x = {'q_proj': 1}"],
)  # fmt: skip
def test_a_spelled_path_is_seen(line: str) -> None:
    """So the test below can fail."""
    assert list(spelled(ast.parse(line)))


def test_only_families_know_what_a_model_looks_like() -> None:
    """No other room spells a path, a projection or a router's softmax."""
    wrong = []
    for path in MODULES:
        if place(path).startswith(KNOWS_MODELS):
            continue
        tree = parse(path)
        wrong += [f"{place(path)}:{line} spells `{text}`" for line, text in spelled(tree)]
        if place(path) not in SOFTMAXES:
            called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
            wrong += [f"{place(path)}:{f.lineno} routes by `{ast.unparse(f)}`" for f in called
                      if isinstance(f, ast.Attribute) and f.attr in {"softmax", "log_softmax"}]  # fmt: skip
    assert wrong == []


def test_a_file_holds_one_idea() -> None:
    """No file is over 400 lines, and none is a drawer for odds and ends."""
    assert [place(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert [place(path) for path in MODULES if drawers & set(path.relative_to(PACKAGE).with_suffix("").parts)] == []


# Constraints and ranges


def pins() -> dict[str, Version]:
    """The versions that constraints.txt pins, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pinned}


def ranges() -> list[Requirement]:
    """Every requirement of pyproject.toml: to build, to run, and of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    lines += chain.from_iterable(project["project"]["optional-dependencies"].values())
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "moemerge"]


@pytest.mark.parametrize("requirement", ranges(), ids=str)
def test_constraints_lie_within_the_ranges(requirement: Requirement) -> None:
    """Each requirement of pyproject.toml is pinned, to a version that its range allows."""
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)], prereleases=True)


def test_constraints_are_exact_and_fit_every_build_of_a_version() -> None:
    """A pin names one version, without the local part (`+cpu`) that only some machines' builds have."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if line and not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]
    assert wrong == []
    assert pins()["torch"] == Version("2.13.0")


# Documents


def documents() -> list[Path]:
    """The documents whose commands a reader will type."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])


def commands() -> Iterator[tuple[str, list[str]]]:
    """Document and words of each shell command in the documents' fences, comments and prompts taken off."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        for fence in re.findall(r"^```(?:sh|bash|console|shell)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            for line in fence.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words:
                    yield str(path.relative_to(ROOT)), words


def help_of(verb: str) -> str:
    """What `moemerge VERB --help` prints, wide and plain."""
    program = "from moemerge.__main__ import main; main()"
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    run = subprocess.run(
        [sys.executable, "-c", program, verb, "--help"], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, f"`moemerge {verb}` is not a command: {run.stderr}"
    return run.stdout


def test_the_documents_name_commands_options_and_files_that_exist() -> None:
    """In every shell fence: `moemerge VERB` and its options, `make TARGET`, `python FILE` and recipes."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    helps: dict[str, str] = {}
    wrong: list[str] = []
    for document, words in commands():
        program = Path(words[0]).name
        if program == "moemerge" and len(words) > 1 and not words[1].startswith("-"):
            text = helps.setdefault(words[1], help_of(words[1]))
            options = [word.split("=")[0] for word in words[2:] if word.startswith("--")]
            wrong += [f"{document}: `{words[1]}` has no {option}" for option in options if option not in text]
        elif program == "make":
            named = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            wrong += [f"{document}: no target `{target}`" for target in named if target not in targets]
        files = [word for word in words if re.match(r"(recipes|examples|benchmarks|tests)/\S+\.(ya?ml|py|sh)$", word)]
        wrong += [f"{document}: no file `{file}`" for file in files if not (ROOT / file).exists()]
    assert wrong == []

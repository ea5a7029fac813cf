"""What a release needs: workflows that run what there is, pinned actions, this version's citation, licences."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from moemerge import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[dict[str, Any]]:
    """All steps of a workflow's jobs."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_actions_and_make_what_there_is(path: Path) -> None:
    """Each action by its commit, with the version beside it; each `make` names targets of the Makefile."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert [line for line in lines if not re.fullmatch(r" *- uses: [\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", line)] == []
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    made = [word for step in steps(path) if step.get("run", "").startswith("make ") for word in step["run"].split()[1:]]
    assert made
    assert set(made) <= targets


def test_every_supported_python_is_tested() -> None:
    """The matrix is what the package's classifiers promise."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [text.rpartition(" :: ")[2] for text in project["classifiers"] if re.search(r":: 3\.\d+$", text)]
    check = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text(encoding="utf-8"))
    assert check["jobs"]["test"]["strategy"]["matrix"]["python"] == promised


def test_pypi_shows_readme_with_links_that_lead_somewhere() -> None:
    """The release makes them absolute, at its tag: pictures as files, pages as pages; code stays as it is."""
    absolute = runpy.run_path(str(ROOT / "release" / "readme.py"))["absolute"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    made = absolute(readme, "https://hub.example/a/b", "v1.0.0")
    assert "![Gain kept by each gate](https://hub.example/a/b/raw/v1.0.0/docs/gates.svg)" in made
    assert "[CONTRIBUTING.md](https://hub.example/a/b/blob/v1.0.0/CONTRIBUTING.md)" in made
    assert re.findall(r"\]\((?!https:)[^)]*\)", re.sub(r"```.*?```|`[^`]*`", "", made, flags=re.DOTALL)) == []
    assert re.findall(r"```.*?```", made, flags=re.DOTALL) == re.findall(r"```.*?```", readme, flags=re.DOTALL)
    assert absolute(made, "https://hub.example/a/b", "v1.0.0") == made
    build = steps(ROOT / ".github/workflows/release.yml")
    commands = [step.get("run", "").split()[0:2] for step in build]
    assert commands.index(["python", "release/readme.py"]) < commands.index(["make", "test-install"])


def test_only_the_publishing_job_may_publish() -> None:
    """It alone gets an identity that PyPI trusts, and only after the build has passed all checks."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert (jobs["publish"]["needs"], jobs["site"]["needs"]) == ("build", "publish")
    assert "permissions" not in jobs["build"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.name
)
def test_issue_forms_are_forms(path: Path) -> None:
    """They have what the hub asks of a form, and each field an id of its own."""
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    names = [field["id"] for field in form["body"]]
    assert len(names) == len(set(names)) > 0
    assert {field["type"] for field in form["body"]} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_citation_is_of_this_version() -> None:
    """And has the fields that the citation format requires."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()


@pytest.mark.parametrize(
    ("licence", "wrong"),
    [
        ("MIT", False),
        ("Apache-2.0 OR GPL-3.0", False),
        ("GNU General Public License v3 (GPLv3)", True),
        ("MIT AND LGPL-2.1", True),
        ("", True),
        ("Proprietary", True),
    ],
)
def test_a_licence_that_somebody_must_look_at(licence: str, wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissive ones pass, and so does a choice of which one is; copyleft, silence and the rest do not."""
    monkeypatch.syspath_prepend(str(ROOT / "release"))
    from licences import refused

    assert refused(licence) is wrong


def test_the_licences_of_what_is_installed_are_known() -> None:
    """`make licences` passes here."""
    done = subprocess.run([sys.executable, ROOT / "release/licences.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^transformers +Apache", done.stdout, flags=re.MULTILINE)

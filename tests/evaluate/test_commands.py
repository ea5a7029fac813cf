"""`moemerge eval` and `moemerge trace` as a user types them."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner

from moemerge.cli import app
from tests.evaluate.conftest import Trio

LOSSES = ("--without", "samples,chat,questions,speed", "--no-cache")


@pytest.fixture(autouse=True)
def place(trio: Trio, built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working folder is the trio's, so that what is typed is short; width and colour are fixed."""
    monkeypatch.chdir(trio.root)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    yield
    for path in trio.root.glob("r.*"):
        path.unlink()


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Status, stdout and stderr; a traceback fails the test."""
    result = CliRunner().invoke(app, list(arguments), prog_name="moemerge", input=stdin)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result.exit_code, result.stdout, re.sub(r"in \d+\.\d s\b", "in N s", result.stderr)


@pytest.mark.parametrize("command", ["eval", "trace"])
def test_help(command: str, snapshot: SnapshotAssertion) -> None:
    """What each takes."""
    assert run(command, "--help")[1] == snapshot


def test_eval_prints_a_table(snapshot: SnapshotAssertion) -> None:
    """Headline, gains, losses, routing; figures are not compared here, only their places."""
    status, out, err = run("eval", "moe", *LOSSES)
    assert status == 0
    started = [line for line in err.splitlines() if re.search("tokens$", line)]
    assert started == ["losses of the mixture: 5,829 tokens", "losses of dense models: 9,715 tokens"]
    assert re.sub(r"[0-9.,]+", "N", " ".join(out.split()[:9])) == "It keeps N % of the specialists' gainN ahead"
    heads = [line for line in out.splitlines() if re.fullmatch(r"[A-Z][A-Za-z× ·]+", line.strip()) and len(line) < 40]
    assert heads == snapshot


def test_eval_as_json_goes_to_stdout_alone() -> None:
    """`--json` and `-o` say the same; `-q` leaves stderr empty."""
    status, out, err = run("eval", "moe", *LOSSES, "--json", "-q", "-o", "r.json")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert json.loads(out)["path"] == "moe"


def test_requirements_decide_the_exit_status() -> None:
    """All that fail are named; 3 is the status; what holds says nothing."""
    status, _, err = run("eval", "moe", *LOSSES, "--json", "-q", "--require", "gain_kept>=0.5")
    assert (status, err) == (0, "")
    status, _, err = run(
        "eval", "moe", *LOSSES, "--json", "-q",
        "--require", "gain_kept>=0.5", "--require", "idle_experts>0", "--require", "domains.code.moe<0.1",
    )  # fmt: skip
    assert status == 3
    assert err == (
        "failed: idle_experts is 0, and > 0 is required\nfailed: domains.code.moe is 0.88, and < 0.1 is required\n"
    )


def test_damage_fails_a_requirement(moe: Path) -> None:
    """A collapsed gate does not pass CI."""
    from tests.evaluate.test_run import change, gates

    change(moe, lambda tensors: tensors.update({name: tensors[name] * 0 for name in gates(tensors)}))
    status, _, err = run("eval", "copy", *LOSSES, "-q", "--require", "idle_experts==0")
    assert (status, err) == (3, "failed: idle_experts is 2, and == 0 is required\n")


@pytest.mark.parametrize(
    "arguments", [("eval", "copy"), ("eval", "moe", "--compare", "again=copy"), ("trace", "copy", "a")]
)
def test_a_folder_that_lacks_weights(arguments: tuple[str, ...], moe: Path) -> None:
    """transformers would draw them at random, say so, and go on."""
    from tests.evaluate.test_run import change

    name = "model.layers.1.self_attn.k_proj.weight"
    change(moe, lambda tensors: tensors.pop(name))
    status, _, err = run(*arguments, *(LOSSES if arguments[0] == "eval" else ()), "-q")
    assert (status, err) == (
        1,
        f"error: `copy` lacks 1 of the tensors of its class, such as `{name}`\n"
        "hint: copy the folder again, or build it again; `moemerge verify` looks closer\n",
    )


def test_a_page_and_plots(trio: Trio) -> None:
    """They are written; an old report is replaced, any other file is not."""
    status, _, _ = run("eval", "moe", "--no-cache", "--limit", "3", "--html", "r.html", "--plots", "plots", "-q")
    assert status == 0
    first = Path("r.html").read_text(encoding="utf-8")
    assert first.startswith("<!doctype html>")
    assert {path.name for path in Path("plots").iterdir()} == {
        "moemerge-gain.png", "moemerge-confusion.png", "moemerge-load.png",
    }  # fmt: skip
    assert run("eval", "moe", *LOSSES, "--limit", "3", "--html", "r.html", "-q")[0] == 0
    assert Path("r.html").read_text(encoding="utf-8") != first
    Path("r.txt").write_text("mine", encoding="utf-8")
    status, out, err = run("eval", "moe", *LOSSES, "--html", "r.txt")
    assert (status, out) == (1, "")
    assert err == "error: `r.txt` exists and is not a page of moemerge\nhint: name another file\n"
    assert Path("r.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["gone"], "error: `gone` does not exist\nhint: name a folder that `moemerge build` made\n"),
        (
            ["moe", "--require", "gain_kept=>1"],
            "error: `gain_kept=>1` is not a requirement\n"
            "hint: write a name of the report, one of >= <= == != < >, and a number, such as `gain_kept>=0.9`\n",
        ),
        (
            ["moe", "--without", "speed,sped"],
            "error: `--without`: there is no part `sped`\nhint: the parts are samples, chat, questions, speed\n",
        ),
        (
            ["moe", "--dtype", "int8"],
            "error: `--dtype int8` is not known\nhint: one of `auto`, `float32`, `bfloat16`, `float16`\n",
        ),
        (
            ["moe", "--require", "gain_keep>=1"],
            "error: The report has no `gain_keep`\nhint: did you mean `gain_kept`?\n",
        ),
        (
            ["moe", "--device-map", "auto", "--max-memory", "cpu"],
            "error: `--max-memory cpu` is not DEVICE=SIZE\nhint: as in `--max-memory cpu=8GB,0=20GB`\n",
        ),
        (
            ["moe", "--html", "r.x", "-o", "./r.x"],
            "error: `--html` and `-o` both name `r.x`\nhint: name two files\n",
        ),
        (["moe", "--compare", "a=base", "--compare", "a=code"], "error: `--compare` names `a` twice\n"),
        (
            ["moe", "--compare", "a=gone"],
            "error: `--compare a=gone`: `gone` holds no model\nhint: name a folder with a `config.json`\n",
        ),
        (["moe", "--offload", "x"], "error: `--offload` needs `--device-map`\nhint: add `--device-map auto`\n"),
        (
            ["moe", "--compare", "x"],
            "error: `--compare x` is not NAME=FOLDER\nhint: as in `--compare mergekit=out/mergekit`\n",
        ),
        (["moe", "--html", "no/r.html"], "error: `no/r.html` cannot be written: there is no folder `no`\n"),
        (["moe", "-o", "code"], "error: `code` is a folder\nhint: name a file in it\n"),
        (
            ["moe", "--tasks", "x", "--tasks-backend", "gguf"],
            "error: `--tasks-backend gguf` is not known\nhint: one of `hf`, `vllm`\n",
        ),
        (
            ["moe", "--device", "tpu"],
            "error: `--device tpu` is not a device\nhint: one of `cpu`, `cuda`, `cuda:N`, `mps`\n",
        ),
    ],
)
def test_eval_misused(arguments: list[str], error: str) -> None:
    """Refused before a model is loaded, in the user's words."""
    assert run("eval", *arguments) == (1, "", error)


def test_a_report_that_cannot_be_written(trio: Trio) -> None:
    """A folder without permission is said after the work, without a traceback; root may write anywhere."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = trio.root / "closed"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    status, _, err = run("eval", "moe", *LOSSES, "-q", "-o", "closed/r.json")
    assert (status, err) == (1, "error: `closed/r.json` cannot be written: Permission denied\n")


def test_compare_measures_another_model() -> None:
    """The base as another model gives the base's losses, in bits per byte too."""
    status, out, _ = run("eval", "moe", *LOSSES, "--json", "-q", "--compare", "again=base")
    assert status == 0
    for domain in json.loads(out)["domains"].values():
        assert domain["compared"]["again"]["nats"] == pytest.approx(domain["base"], abs=1e-9)
        assert domain["compared"]["again"]["bits_per_byte"] == pytest.approx(domain["bits_per_byte"]["base"], abs=1e-9)


def test_a_device_map_gives_the_same_figures(tmp_path: Path) -> None:
    """Through accelerate's hooks, the mixture and the whole dense models alike."""
    plain = json.loads(run("eval", "moe", *LOSSES, "--json", "-q", "--limit", "4")[1])
    mapped = json.loads(run("eval", "moe", *LOSSES, "--json", "-q", "--limit", "4", "--device-map", "cpu")[1])
    assert mapped["device"] == "cpu"
    assert mapped["mean"] == pytest.approx(plain["mean"], abs=1e-6)


def test_a_model_larger_than_memory_is_offloaded(tmp_path: Path) -> None:
    """With room for a part of it, the rest is read from the disk when it runs; the figures stay."""
    plain = json.loads(run("eval", "moe", *LOSSES, "--json", "-q", "--limit", "2")[1])
    status, out, _ = run(
        "eval", "moe", *LOSSES, "--json", "-q", "--limit", "2",
        "--device-map", "auto", "--max-memory", "cpu=60KB", "--offload", str(tmp_path / "offload"),
    )  # fmt: skip
    found = json.loads(out)
    assert status == 0
    assert list((tmp_path / "offload").iterdir()), "nothing was offloaded, so this shows nothing"
    assert found["mean"]["moe"] == pytest.approx(plain["mean"]["moe"], abs=1e-6)
    assert found["mean"]["base"] == pytest.approx(plain["mean"]["base"], abs=1e-6)
    assert found["missing"] == {"random gate": "a random gate cannot be put into a model whose routers are offloaded"}


def test_trace_shows_the_experts_of_a_text(snapshot: SnapshotAssertion) -> None:
    """In the terminal, from the argument, a file or stdin; the same each time."""
    status, out, err = run("trace", "moe", "def return if le la chat")
    assert (status, re.sub(r"[0-9.]+ s", "N s", err).splitlines()) == (
        0,
        ["load: 1 model", "load: done in N s", "trace: 1 text", "trace: done in N s"],
    )
    assert out == snapshot
    assert run("trace", "moe", "def return if le la chat", "-q") == (0, out, "")
    Path("r.txt").write_text("def return if le la chat", encoding="utf-8")
    assert run("trace", "moe", "--file", "r.txt")[1] == out
    assert run("trace", "moe", "-", stdin="def return if le la chat")[1] == out
    assert run("trace", "moe", "def return if le la chat", "--layer", "1")[1] == snapshot


def test_trace_as_json_and_page() -> None:
    """The page stands alone; the JSON has a top-1 expert for each token and layer."""
    status, out, _ = run("trace", "moe", "def return le la", "--json", "--html", "r.html")
    assert status == 0
    found = json.loads(out)
    assert "".join(found["tokens"]) == "def return le la"
    assert [len(layer) for layer in found["chosen"]] == [4, 4]
    assert "moemerge" in Path("r.html").read_text(encoding="utf-8")[:2000]


def test_trace_explains_a_token() -> None:
    """By number or by text; the parts add up."""
    status, out, _ = run("trace", "moe", "def return le la", "--explain", "--token", "la", "--layer", "0")
    assert status == 0
    assert out.startswith("token 3 ` la` in layer 0\n")
    assert "adds up" in out
    by_number = run("trace", "moe", "def return le la", "--explain", "--token", "-1", "--layer", "0")[1]
    assert by_number == out
    assert json.loads(run("trace", "moe", "def return le la", "--explain", "--json")[1])["layer"] == 1


def test_a_page_does_not_replace_figures() -> None:
    """Nor figures a page: only an earlier one of the same kind is replaced."""
    assert run("eval", "moe", *LOSSES, "--limit", "2", "-q", "-o", "r.json", "--html", "r.html")[0] == 0
    assert run("eval", "moe", *LOSSES, "--limit", "2", "-q", "-o", "r.json", "--html", "r.html")[0] == 0
    for arguments, what in ((("--html", "r.json"), "page"), (("-o", "r.html"), "file of figures")):
        status, _, err = run("eval", "moe", *LOSSES, "-q", *arguments)
        assert (status, err) == (
            1, f"error: `{arguments[1]}` exists and is not a {what} of moemerge\nhint: name another file\n"
        )  # fmt: skip


def test_a_recipe_serves_as_a_file_of_domains(trio: Trio) -> None:
    """Its `eval` is read, and nothing else of it."""
    recipe = trio.recipe().model_dump(mode="json")
    Path("r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    status, out, _ = run("eval", "moe", *LOSSES, "--limit", "2", "--json", "-q", "--domains", "r.yaml")
    assert (status, list(json.loads(out)["domains"])) == (0, ["code", "math", "french"])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["moe", "a", "--file", "code.jsonl"],
            "error: there are two texts to trace\nhint: give TEXT or `--file FILE`, not both\n",
        ),
        (
            ["moe", "a", "--explain", "--html", "r.html"],
            "error: `--explain` has no page\nhint: leave `--html` out, or trace the text without `--explain`\n",
        ),
        (
            ["moe"],
            "error: give the text to trace\nhint: as in `moemerge trace OUT \"a text\"`, or by `--file FILE`\n",
        ),
        (["moe", "--file", "gone.txt"], "error: `gone.txt` cannot be read: No such file or directory\n"),
        (["base", "a"], "error: `base` holds no mixture of experts: its `config.json` is that of `llama`\n"
                        "hint: name a folder that `moemerge build` made\n"),
    ],
)  # fmt: skip
def test_trace_misused(arguments: list[str], error: str) -> None:
    """In the user's words."""
    assert run("trace", *arguments) == (1, "", error)

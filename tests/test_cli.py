"""Whole runs of the command as a user sees them: what goes to stdout, what to stderr, and the exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.recipe import Recipe
from moemerge.version import full_version
from tests.conftest import TinyMaker

RECIPE = """\
base_model: models/base
experts:
  - name: code
    model: models/code
    prompts: [def reverse list return print number, class function return one two three]
  - name: math
    model: models/math
    prompts: [sum of two and three minus one equals four, add six to seven equals eight]
gate: {init: random}
output: {path: out}
"""
MERGEKIT = """\
base_model: models/base
gate_mode: hidden
dtype: float32
experts:
  - source_model: models/code
    positive_prompts: [def reverse list return print number, ""]
  - source_model: models/math
    positive_prompts: sum of two and three minus one equals four
"""


@pytest.fixture(autouse=True)
def work(tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a working folder with a recipe and its three tiny models."""
    for seed, name in enumerate(("base", "code", "math")):
        shutil.copytree(tiny("llama", seed), tmp_path / "models" / name)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def normal(text: str) -> str:
    """What a run prints, without what differs from machine to machine."""
    text = text.replace(str(Path.cwd()), "WORK")
    text = re.sub(r"in \d+\.\d s\b", "in N s", text)
    return re.sub(r"-?\d\.\d{6,}(e-\d+)?", "VALUE", text)


def run(*arguments: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of `moemerge ARGUMENTS`; a traceback fails the test."""
    result = CliRunner().invoke(app, list(arguments), prog_name="moemerge")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result.exit_code, normal(result.stdout), normal(result.stderr)


def shown(*arguments: str) -> str:
    """A whole run as one text, for snapshots."""
    status, stdout, stderr = run(*arguments)
    return f"$ moemerge {' '.join(arguments)}\n{stdout}--- stderr\n{stderr}--- exit {status}"


def in_a_process(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=variables, check=False)


@pytest.mark.parametrize("command", ["", "init", "plan", "build", "verify", "schema", "train-router"])
def test_help(command: str, snapshot: SnapshotAssertion) -> None:
    """Every command says what it takes; where it takes much, what most people need comes first."""
    assert shown(*command.split(), "--help") == snapshot


def test_the_help_fits_a_screen_and_shows_the_way() -> None:
    """24 lines of 80 columns; each command has one line, in the order in which they are used."""
    lines = run("--help")[1].splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    commands = [found[1] for line in lines if (found := re.match(r"  ([a-z][a-z-]+)  +[A-Z].*\.$", line))]
    beside = ["trace", "export", "push", "families", "schema", "doctor"]
    assert commands == ["init", "plan", "build", "verify", "eval", "train-router", *beside]


def test_version_of_the_installed_command() -> None:
    """`python -m moemerge` is the command; in a clone it says its commit too."""
    done = in_a_process("-m", "moemerge", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"moemerge {full_version()}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(shell: str) -> None:
    """It is given a script, and with that the commands that begin with what was typed."""
    environment = {"_MOEMERGE_COMPLETE": f"source_{shell}"}
    script = in_a_process("-c", AS_SCRIPT, **environment)
    assert (script.returncode, script.stderr, "_MOEMERGE_COMPLETE=complete_" in script.stdout) == (0, "", True)
    if shell == "bash":
        typed = {"COMP_WORDS": "moemerge ver", "COMP_CWORD": "1", "_MOEMERGE_COMPLETE": "complete_bash"}
        assert in_a_process("-c", AS_SCRIPT, **typed).stdout == "verify\n"


AS_SCRIPT = "import sys; from moemerge.__main__ import main; sys.argv[0] = 'moemerge'; main()"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bild", "recipe.yaml"],
        ["build"],
        ["build", "recipe.yaml", "--overwite"],
        ["build", "recipe.yaml", "-o"],
        ["plan", "recipe.yaml", "another.yaml"],
        ["train", "out"],
    ],
)
def test_misuse(arguments: list[str], snapshot: SnapshotAssertion) -> None:
    """What cannot be understood is answered on stderr with the nearest thing that can, and status 2."""
    status, stdout, _ = run(*arguments)
    assert (status, stdout) == (2, "")
    assert shown(*arguments) == snapshot


def test_plan(snapshot: SnapshotAssertion) -> None:
    """Sizes and origins, on stdout; nothing is written."""
    before = sorted(Path().rglob("*"))
    assert shown("plan", "recipe.yaml", "-v") == snapshot
    assert sorted(Path().rglob("*")) == before


def test_plan_with_problems(snapshot: SnapshotAssertion) -> None:
    """All of them at once, on stderr; a hint that several share comes once."""
    path = Path("models/code/config.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}, "eos_token_id": 7}
    path.write_text(json.dumps(config), encoding="utf-8")
    Path("models/math/model.safetensors").write_bytes(b"")
    assert shown("plan", "recipe.yaml") == snapshot


def test_plan_of_configs_alone() -> None:
    """Without weights there is a plan, which says that a build needs them."""
    Path("models/math/model.safetensors").unlink()
    status, stdout, stderr = run("plan", "recipe.yaml")
    assert (status, stdout.splitlines()[-1]) == (0, "nothing is wrong; a build needs the weights too")
    assert stderr == "warning: expert `math` has a config and no weights: it can be planned, not built\n"


def test_plan_as_json() -> None:
    """One object on stdout and nothing else anywhere; problems are in it, and in the status."""
    status, stdout, stderr = run("plan", "recipe.yaml", "--json")
    report = json.loads(stdout)
    assert (status, stderr, report["problems"]) == (0, "", [])
    assert report["parameters"] == {"total": 33056, "active": 33056}
    status, stdout, stderr = run("plan", "recipe.yaml", "--json", "--set", "experts[1].model=./nowhere")
    assert (status, stderr) == (1, "")
    assert json.loads(stdout)["problems"] == [
        {
            "code": "source",
            "message": "expert `math`: Model `./nowhere` does not exist: there is no `WORK/nowhere`",
            "hint": None,
        }
    ]


def test_deep_plan() -> None:
    """`--deep` reads the weights: the distance of each expert from the base, and a warning where it is large."""
    status, stdout, stderr = run("plan", "recipe.yaml", "--deep")
    assert status == 0
    assert re.findall(r"^  (\w+) +1\.4\d+  relative distance", stdout, re.MULTILINE) == ["code", "math"]
    assert "warning: expert `code` is far from the base (relative distance 1.4" in stderr


def test_build_and_verify(snapshot: SnapshotAssertion) -> None:
    """The result is on stdout; the plan and the progress, which here are plain lines, are on stderr."""
    assert shown("build", "recipe.yaml") == snapshot
    assert shown("verify", "out") == snapshot
    data = bytearray(Path("out/model.safetensors").read_bytes())
    data[-3] ^= 1
    Path("out/model.safetensors").write_bytes(data)
    Path("out/tokenizer.json").unlink()
    assert shown("verify", "out", "-q") == snapshot
    status, stdout, _ = run("verify", "out", "--json")
    report = json.loads(stdout)
    assert (status, report["ok"]) == (1, False)
    assert {difference["where"] for difference in report["differences"]} == {"tokenizer.json", "lm_head.weight"}


def test_verify_of_what_nobody_built() -> None:
    """A folder without a record is not a difference but an error."""
    assert run("verify", "models") == (
        1,
        "",
        "error: `models` holds no `moemerge.yaml`\nhint: name a folder that `moemerge build` made\n",
    )


def test_a_quiet_build_prints_its_result_alone() -> None:
    """`-q` leaves three lines; `-o` is relative to where the user is, the recipe's own output to the recipe."""
    elsewhere = Path("élan vital")
    elsewhere.mkdir()
    recipe = RECIPE.replace("models/", "../models/").replace("path: out", "path: ../sor tie")
    (elsewhere / "the recipe.yaml").write_text(recipe, encoding="utf-8")
    for out, options in (("sor tie", []), ("là/out", ["-o", "là/out"])):
        assert run("build", "élan vital/the recipe.yaml", "-q", *options) == (
            0,
            f"built {out} (132 kB, verified)\n"
            f'load it with: AutoModelForCausalLM.from_pretrained("{out}", dtype="auto")\n'
            f"measure it with: moemerge eval {out} --domains FILE\n",
            "",
        )
        assert run("verify", out, "-q")[0] == 0


def test_build_as_json() -> None:
    """One object on stdout: the folder, the plan, the gate, what was verified."""
    status, stdout, _ = run("build", "recipe.yaml", "--json", "-q")
    report = json.loads(stdout)
    assert (status, report["path"], report["gate"]["init"]) == (0, "WORK/out", "random")
    assert report["plan"]["architecture"] == "mixtral"
    assert report["verified"]["tensors"] == 29


def test_build_prints_the_gate() -> None:
    """A fitted gate: how well it tells the experts apart, by layer, and `--gate` and `--set` in effect."""
    arguments = ["--gate", "discriminant", "--set", "gate.expand=off", "--set", "experts_per_token=1"]
    status, stdout, stderr = run("build", "recipe.yaml", *arguments)
    assert status == 0
    assert re.match(
        r"gate: \d+\.\d% of held-out tokens go to their own expert, by layer:\n   0: \d\.\d\d   1: \d\.\d\d\n", stdout
    )
    assert "2 (code, math), 1 per token" in stderr
    assert "warning: The gate is fitted from few tokens: `code` 12, `math` 15" in stderr
    assert json.loads(Path("out/config.json").read_text(encoding="utf-8"))["num_experts_per_tok"] == 1


def test_a_warning_is_told_in_full_where_one_can_act() -> None:
    """By `plan`, and by `build -v`; `init` and `build` name it in a line."""
    for name, ends in (("code", 7), ("math", 8)):
        path = Path("models", name, "config.json")
        config = json.loads(path.read_text(encoding="utf-8")) | {"eos_token_id": ends}
        path.write_text(json.dumps(config), encoding="utf-8")
    full = [
        f"warning: expert `{name}` has `eos_token_id` `{ends}`, the base's is `2`: the base's is kept"
        for name, ends in (("code", 7), ("math", 8))
    ]

    def warnings(*arguments: str) -> list[str]:
        status, _, stderr = run(*arguments)
        assert status == 0
        return [line for line in stderr.splitlines() if line.startswith("warning: ")]

    assert warnings("plan", "recipe.yaml") == full
    models = ("--base", "models/base", "--expert", "code=models/code", "--expert", "math=models/math")
    brief = "warning: the plan has 2 warnings (`special-token-differs`): `moemerge plan {}` explains them"
    assert warnings("init", "moe.yaml", *models) == [brief.format("moe.yaml")]
    assert warnings("build", "recipe.yaml") == [brief.format("recipe.yaml")]
    assert warnings("build", "recipe.yaml", "--overwrite", "-v") == full
    assert warnings("build", "recipe.yaml", "--overwrite", "-q") == []


def test_what_a_killed_build_left_is_named_and_removed() -> None:
    """Under a name that would be a pattern; what only looks like it stays."""
    for name in (".out[1].moemerge-12345678", ".out1.moemerge-12345678"):
        Path(name).mkdir()
        Path(name, ".moemerge-staged").touch()
    status, _, stderr = run("build", "recipe.yaml", "-o", "out[1]")
    assert status == 0
    assert "removing `.out[1].moemerge-12345678`, left by a build that was killed" in stderr.splitlines()
    assert sorted(path.name for path in Path().glob("*out*")) == [".out1.moemerge-12345678", "out[1]"]


def test_a_mergekit_recipe_is_translated_aloud(snapshot: SnapshotAssertion) -> None:
    """What was changed is noted on stderr, unless `-q` or a gate of the user's own makes it needless."""
    Path("recipe.yaml").write_text(MERGEKIT, encoding="utf-8")
    assert shown("plan", "recipe.yaml") == snapshot
    assert run("plan", "recipe.yaml", "-q")[2] == ""
    assert "gate_mode" not in run("plan", "recipe.yaml", "--gate", "mergekit_hidden")[2]


def test_schema_is_a_json_schema() -> None:
    """It names its dialect, every reference in it has its aim, and it knows the keys of a recipe."""
    status, stdout, stderr = run("schema")
    schema = json.loads(stdout)
    assert (status, stderr, schema["$schema"]) == (0, "", "https://json-schema.org/draft/2020-12/schema")
    references = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', stdout))
    assert references == schema["$defs"].keys()
    assert schema["properties"].keys() == Recipe.model_fields.keys()
    assert (schema["required"], schema["additionalProperties"]) == (["base_model", "experts"], False)


WITHOUT = """
import sys
from moemerge.cli import app
status = 0
try:
    app(sys.argv[1:])
except SystemExit as end:
    status = end.code or 0
heavy = {"torch", "transformers", "peft", "datasets", "gguf", "numpy", "huggingface_hub"} & sys.modules.keys()
heavy |= {"moemerge.families"} & sys.modules.keys() if sys.argv[1] == "--help" else set()
sys.exit(f"loaded: {sorted(heavy)}" if heavy else status)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["schema"], ["plan", "recipe.yaml"], ["plan", "recipe.yaml", "-v"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    """Help, schema and the plan of local folders come without torch and its like; help without any family, too."""
    done = in_a_process("-c", WITHOUT, *arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_on_a_terminal(no_color: bool) -> None:
    """`error:` is red on a terminal, unless NO_COLOR is set."""
    pty: Any = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    variables = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    variables |= {"PYTHONPATH": str(Path(__file__).parents[1])} | ({"NO_COLOR": "1"} if no_color else {})
    command = [sys.executable, "-m", "moemerge", "plan", "recipe.yml"]
    subprocess.run(command, stderr=terminal, env=variables, check=False)
    os.close(terminal)
    printed = os.read(master, 10_000).decode().replace("\r\n", "\n")
    os.close(master)
    assert ("\x1b[31m" in printed) is not no_color
    assert re.sub(r"\x1b\[\d+m", "", printed) == (
        "error: Recipe `recipe.yml` does not exist\nhint: did you mean `recipe.yaml`?\n"
    )


SLOWLY = """
import sys, time
from pathlib import Path
import moemerge.write.weights as weights
from moemerge.__main__ import main
original = weights._Writer.write
def slowly(self, *arguments):
    Path("started").touch()
    time.sleep(0.05)
    return original(self, *arguments)
weights._Writer.write = slowly
sys.argv[0] = "moemerge"
main()
"""


def test_ctrl_c_ends_a_build_without_a_trace() -> None:
    """Status 130, one line, no traceback, no output, no staged folder, none of the folders above it."""
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", SLOWLY, "build", "recipe.yaml", "-q", "-o", "new/out"]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not Path("started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "error: interrupted\n")
    assert sorted(path.name for path in Path().iterdir()) == ["models", "recipe.yaml", "started"]


@pytest.mark.parametrize("arguments", [["schema"], ["plan", "recipe.yaml"], ["build", "--help"], ["--version"]])
def test_what_the_system_refuses_elsewhere_is_no_traceback(arguments: list[str]) -> None:
    """A full disk under what is not the output, here under stdout, is said in a line, too."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-m", "moemerge", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=variables, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")

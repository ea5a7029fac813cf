"""Installs a built wheel as users do, by `uv tool install` and `pipx install`, and runs it there on tiny models.

    make test-install            or            python release/try_install.py dist/moemerge-0.1.0-py3-none-any.whl

Each tool gets folders of its own, which are removed afterwards; nothing of this machine's own tools is touched. What is
installed is what constraints.txt pins. `TRY_INSTALL_UV` holds more options for uv, and `TRY_INSTALL_PIPX` for pipx's
pip, such as where torch's CPU build comes from.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
MODELS = f"""
import importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("tiny", {str(ROOT / "tests" / "tiny.py")!r})
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
for seed, name in enumerate(("base", "code", "french")):
    tiny.tiny_model("llama", Path("models", name), seed=seed)
"""
LOAD = """
import moemerge
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("out/moe")
print("moemerge is", moemerge.__file__, "and the mixture", type(model).__name__)
"""


def run(*command: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Prints and runs a command; this script ends where one fails."""
    shown = [Path(command[0]).name, *("..." if "\n" in word else word for word in command[1:])]
    print(f"$ {shlex.join(shown)}", flush=True)
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode:
        sys.exit(f"error: `{shlex.join(shown)}` failed")


def try_tool(tool: str, wheel: Path) -> None:
    """Installs the wheel by one tool, and uses it from an empty folder."""
    with tempfile.TemporaryDirectory(prefix=f"moemerge-{tool}-") as made:
        home, work = Path(made), Path(made, "work")
        work.mkdir()
        plain = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment = plain | {
            "UV_TOOL_DIR": str(home / "tools"), "UV_TOOL_BIN_DIR": str(home / "bin"),
            "PIPX_HOME": str(home / "tools"), "PIPX_BIN_DIR": str(home / "bin"), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        more = shlex.split(os.environ.get(f"TRY_INSTALL_{tool.upper()}", ""))
        if tool == "uv":
            command = ["uv", "tool", "install", "--python", sys.executable, "--constraints", str(CONSTRAINTS)]
            python = home / "tools" / "moemerge" / "bin" / "python"
        else:
            options = shlex.join([f"--constraint={CONSTRAINTS}", *more])
            command, more = ["pipx", "install", "--python", sys.executable, f"--pip-args={options}"], []
            python = home / "tools" / "venvs" / "moemerge" / "bin" / "python"
        beside = Path(sys.executable).with_name(command[0])
        command[0] = str(beside) if beside.exists() else command[0]
        run(*command, *more, str(wheel), folder=work, environment=environment)
        moemerge = str(home / "bin" / "moemerge")
        run(str(python), "-I", "-c", MODELS, folder=work, environment=environment)
        models = ["--base", "models/base", "--expert", "code=models/code", "--expert", "french=models/french"]
        for words in (["--version"], ["--help"], ["doctor"], ["init", *models], ["plan", "moe.yaml"],
                      ["build", "moe.yaml", "-q"], ["verify", "out/moe", "-q"]):  # fmt: skip
            run(moemerge, *words, folder=work, environment=environment)
        run(str(python), "-I", "-c", LOAD, folder=work, environment=environment)


def main() -> None:
    """Tries both tools."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: python release/try_install.py WHEEL")
    for tool in ("uv", "pipx"):
        try_tool(tool, Path(sys.argv[1]).resolve())
    print("both installations work")


if __name__ == "__main__":
    main()

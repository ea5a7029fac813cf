"""Ctrl-C, SIGTERM and a closed terminal, at any moment of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TinyMaker

ROOT = Path(__file__).parents[1]
ENDS = {
    signal.SIGINT: (130, "error: interrupted\n"),
    signal.SIGTERM: (143, "error: terminated\n"),
    signal.SIGHUP: (129, "error: terminated\n"),
}
HEADER = """
import os, signal, sys, time
from pathlib import Path
from moemerge.__main__ import main
from moemerge.signals import Stopped

def send(number):
    os.kill(os.getpid(), number)
"""


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A shell may have started pytest with signals ignored (`nohup`, `&`), and children would inherit that."""
    ignored = [number for number in ENDS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def run(program: str, *arguments: str, **settings: object) -> tuple[int, str]:
    """Status and stderr of a program that begins as `HEADER` does."""
    command = [sys.executable, "-c", HEADER + program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_while_the_command_line_is_loaded(number: signal.Signals) -> None:
    """The first third of a second is imports: of typer, for one."""
    program = f"""
class Importing:
    def find_spec(self, name, *_):
        if name == "typer.core":
            send({number})
sys.meta_path.insert(0, Importing())
main()
"""
    assert run(program) == ENDS[number]


def listens(process: int) -> bool:
    """Whether a process has a handler for SIGTERM, which Python does not set by itself."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells there what a process listens to")
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_a_signal_early_in_a_real_command(delay: float, tiny: TinyMaker, tmp_path: Path) -> None:
    """Whatever is being imported then; a command that was quicker has its own status."""
    recipe = tmp_path / "recipe.yaml"
    base = tiny("llama")
    experts = ", ".join(f"{{name: {name}, model: {base}, prompts: [{name} b c]}}" for name in "xy")
    recipe.write_text(f"base_model: {base}\nexperts: [{experts}]\n", "utf-8")
    command = [sys.executable, "-m", "moemerge", "build", str(recipe), "-q", "-o", str(tmp_path / "out")]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not listens(child.pid):
        time.sleep(0.001)
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said) in ((130, "error: interrupted\n"), (0, "")), said
    assert (tmp_path / "out").exists() is (child.returncode == 0)
    assert [path.name for path in tmp_path.glob(".*")] == []


BUILD = """
import moemerge.write.weights as weights
original = weights._Writer.write
def slowly(self, *arguments):
    Path("started").touch()
    time.sleep(0.05)
    return original(self, *arguments)
weights._Writer.write = slowly
main()
"""


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_the_staged_folder_goes(
    number: signal.Signals, tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it writes, a build leaves nothing: no output, no staged folder, no folder above them."""
    monkeypatch.chdir(tmp_path)
    base = tiny("llama")
    experts = f"[{{name: a, model: {base}}}, {{name: b, model: {tiny('llama', 1)}}}]"
    Path("recipe.yaml").write_text(f"base_model: {base}\ngate: {{init: random}}\nexperts: {experts}\n", "utf-8")
    command = [sys.executable, "-c", HEADER + BUILD, "build", "recipe.yaml", "-q", "-o", "new/out"]
    child = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not Path("started").exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(number)
    stdout, stderr = child.communicate(timeout=60)
    assert (child.returncode, stdout, stderr) == (ENDS[number][0], "", ENDS[number][1])
    assert sorted(path.name for path in Path().iterdir()) == ["recipe.yaml", "started"]


def test_a_signal_that_python_drops_comes_again() -> None:
    """What is raised in a `__del__` is only reported by Python, which would go on."""
    program = """
import moemerge.cli
class Dropped:
    def __del__(self):
        send(signal.SIGINT)
        time.sleep(0.01)
def work():
    Dropped()
    time.sleep(30)
moemerge.cli.run = work
started = time.monotonic()
main()
"""
    assert run(program) == ENDS[signal.SIGINT]


def test_what_others_make_of_a_signal_is_no_error() -> None:
    """A library may turn it into an exception of its own."""
    program = """
import moemerge.cli
def work():
    try:
        send(signal.SIGTERM)
        time.sleep(30)
    except BaseException as error:
        raise ImportError("a module is broken") from error
moemerge.cli.run = work
main()
"""
    assert run(program) == ENDS[signal.SIGTERM]


def test_a_command_that_ends_all_the_same_has_ended() -> None:
    """The signal came too late to change anything."""
    program = """
import moemerge.cli
def work():
    try:
        send(signal.SIGTERM)
        time.sleep(30)
    except Stopped:
        sys.exit(0)
moemerge.cli.run = work
main()
"""
    assert run(program) == (0, "")


def test_a_second_signal_soon_after_changes_nothing() -> None:
    """A terminal sends one, and so may `make`: what tidies up goes on."""
    program = """
import moemerge.cli
def work():
    try:
        send(signal.SIGINT)
        time.sleep(30)
    finally:
        send(signal.SIGINT)
        time.sleep(0.1)
        print("tidy", file=sys.stderr)
moemerge.cli.run = work
main()
"""
    assert run(program) == (130, "tidy\nerror: interrupted\n")


def test_a_later_signal_ends_what_tidies_up() -> None:
    """Who asks again does not want to wait."""
    program = """
import moemerge.cli, moemerge.signals
moemerge.signals.AGAIN = 0.05
def work():
    try:
        send(signal.SIGINT)
        time.sleep(30)
    finally:
        time.sleep(0.1)
        send(signal.SIGINT)
        time.sleep(30)
moemerge.cli.run = work
main()
"""
    assert run(program) == (130, "")


def test_what_is_ignored_stays_ignored() -> None:
    """As `nohup` and a shell's `&` start a command."""
    program = """
import moemerge.cli
signal.signal(signal.SIGHUP, signal.SIG_IGN)
def work():
    send(signal.SIGHUP)
    print("went on", file=sys.stderr)
moemerge.cli.run = work
main()
"""
    assert run(program) == (0, "went on\n")

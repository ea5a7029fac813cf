"""What the benchmarks of whole commands share: a timed run, the state that it starts from, medians, the machine.

Commands take turns, so that a busy moment of the machine meets all of them. Before each run the page cache is brought
to the same state. It is filled, because free memory of a virtual machine may have been handed back to its host, and
getting it again costs three times what copying into it does: a command that happens to find memory that another just
freed would look that much faster.
"""

from __future__ import annotations

import compileall
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread

ROOT = Path(__file__).resolve().parents[1]
MOEMERGE = (sys.executable, "-m", "moemerge")
"""The command, as this folder has it."""
MEGA = 1e6
_CHUNK = 1 << 24
_LEFT_FREE = 512 << 20
_SMALL = 64 << 20
"""Bytes of inputs that only try a script, or measure Python's start: those find memory in any state."""


@dataclass(frozen=True)
class Run:
    """One timed command.

    Attributes:
        seconds: wall clock.
        processor: seconds of processor time, user's and kernel's.
        peak: the most memory it held (resident), in bytes.
        stages: seconds of each stage that it told about, by name.
    """

    seconds: float
    processor: float
    peak: float
    stages: Mapping[str, float] = field(default_factory=dict)


def timed(command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Run:
    """Runs a command in a folder, the repository's; ends the program with what it said where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    peak = _Peak(process.pid)
    told = [(time.perf_counter(), line.rstrip("\n")) for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    most = peak.stop() or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    seconds = time.perf_counter() - start
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"`{' '.join(command)}` failed with {process.returncode}:\n" + "\n".join(line for _, line in told))
    return Run(seconds, usage.ru_utime + usage.ru_stime, most, _stages(told))


class _Peak(Thread):
    """Looks every 20 ms at the peak that Linux keeps of a process.

    `ru_maxrss` would not do: it counts what this script held when it forked.
    """

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._status, self._most, self._over = Path(f"/proc/{process}/status"), 0, Event()
        self.start()

    def run(self) -> None:
        """See `Thread`."""
        while not self._over.wait(0.02):
            with suppress(OSError):
                for line in self._status.read_text(encoding="ascii").splitlines():
                    if line.startswith("VmHWM:"):
                        self._most = max(self._most, int(line.split()[1]) * 1024)

    def stop(self) -> int:
        """The peak in bytes; 0 where the system keeps none."""
        self._over.set()
        self.join()
        return self._most


def _stages(told: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Seconds between `NAME: amount` and `NAME: done in ...`, which `moemerge` prints as they happen."""
    began: dict[str, float] = {}
    found: dict[str, float] = {}
    for at, line in told:
        name, colon, rest = line.partition(": ")
        if rest.startswith("done in") and name in began:
            found[name] = at - began[name]
        elif colon:
            began.setdefault(name, at)
    return found


def settle(work: Path, inputs: Sequence[Path], *, cold: bool) -> None:
    """Brings disk and page cache to the state that each timed run starts from: full, and of `work` the inputs alone.

    Args:
        work: a folder for a file with no blocks, which the cache is filled from.
        inputs: folders whose files are then read, so that the run finds them in memory; not with `cold`.
        cold: empties the page cache first (root, Linux).
    """
    os.sync()
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    for file in work.rglob("*"):
        _forget(file)
    files = [file for folder in inputs for file in sorted(folder.iterdir()) if file.is_file()]
    if sum(file.stat().st_size for file in files) > _SMALL:
        _fill(work)
    if not cold:
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while stream.read(_CHUNK):
                    pass


def _forget(file: Path) -> None:
    """Leaves nothing of a file in memory: what was read twice would be kept there, and what the run needs dropped."""
    if file.is_file() and hasattr(os, "posix_fadvise"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _fill(work: Path) -> None:
    memory = Path("/proc/meminfo")
    if not memory.exists():
        return

    def free() -> int:
        lines = memory.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemFree:"))

    hole = work / "hole"
    hole.touch()
    os.truncate(hole, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with hole.open("rb", buffering=0) as stream:
        while free() > _LEFT_FREE and stream.read(_CHUNK):
            pass


def take_turns(cases: Mapping[str, Callable[[], Run]], turns: int) -> dict[str, list[Run]]:
    """Runs every case once a turn, in their order, and tells how it goes.

    The package's modules are compiled beforehand, as those of an installed one are.
    """
    compileall.compile_dir(ROOT / "moemerge", quiet=1)
    runs: dict[str, list[Run]] = {name: [] for name in cases}
    for turn in range(turns):
        for name, case in cases.items():
            runs[name].append(case())
        said = ", ".join(f"{name} {runs[name][-1].seconds:.2f} s" for name in cases)
        print(f"turn {turn + 1} of {turns}: {said}", flush=True)
    return runs


def median(runs: Sequence[Run], stage: str | None = None) -> float:
    """The median of the seconds of the runs, or of one stage of theirs."""
    return statistics.median(run.seconds if stage is None else run.stages[stage] for run in runs)


def row(name: str, runs: Sequence[Run], against: float, stage: str | None = None) -> str:
    """A row of the table: median and range of the seconds, processor's seconds, times `against` seconds, peak."""
    seconds = [run.seconds if stage is None else run.stages[stage] for run in runs]
    numbers = [f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}-{max(seconds):.2f}"]
    if stage is None:
        numbers.append(f"{statistics.median(run.processor for run in runs):.2f}")
    else:
        numbers.append("")
    numbers.append(f"{statistics.median(seconds) / against:.2f}")
    numbers.append(f"{max(run.peak for run in runs) / MEGA:,.0f}" if stage is None else "")
    return f"| {name} | {' | '.join(numbers)} |"


HEADER = "| | median s | range s | processor s | times `cp` | peak MB |\n|---|---|---|---|---|---|"


def machine(work: Path) -> str:
    """The machine, the disk and the versions, in a line."""
    cpu, memory = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if "model name" in line]
        cpu = names[0].partition(": ")[2] if names else cpu
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    stat = subprocess.run(["stat", "-f", "-c", "%T", str(work)], capture_output=True, text=True, check=False)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("moemerge", "numpy", "ml_dtypes", "torch"))
    return (
        f"{cpu}, {os.cpu_count()} cores{memory}, {stat.stdout.strip() or 'unknown'} file system, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {libraries}"
    )

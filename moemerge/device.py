"""What the machine has: its processors and memory, the dtypes that it multiplies fast, and torch's devices."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moemerge.errors import MoemergeError

BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by torch's name of its dtype."""


def check_device(device: str) -> None:
    """Checks a device name such as `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        MoemergeError: the name is not a device, or the device is not here.
    """
    if device == "cpu":
        return
    import torch

    kind, _, index = device.partition(":")
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in here or (index and not index.isdigit()):
        raise MoemergeError(f"`--device {device}` is not a device", hint="one of `cpu`, `cuda`, `cuda:N`, `mps`")
    if not here[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise MoemergeError(f"`--device {device}` is not available here", hint="leave `--device` out to use the CPU")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that the machine can give before it swaps."""
    import psutil

    return int(psutil.virtual_memory().available)


GPU_DRIVERS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""What Linux has where there is a GPU: NVIDIA's, AMD's, and that of Windows below WSL."""


def may_have_gpu() -> bool:
    """Whether there are signs of a GPU; cheap, where asking torch takes seconds."""
    return platform.system() != "Linux" or any(Path(driver).exists() for driver in GPU_DRIVERS)


@dataclass(frozen=True)
class Gpu:
    """A GPU that this torch can use.

    Attributes:
        device: what `--device` calls it.
        name: its maker's name.
        memory: its bytes; None where it shares the machine's.
        bfloat16: whether it multiplies bf16 itself.
    """

    device: str
    name: str
    memory: int | None
    bfloat16: bool


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this torch can use; loads torch."""
    import torch

    if torch.backends.mps.is_available():
        return (Gpu("mps", processor(), None, True),)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = []
    for index in range(count):
        with torch.cuda.device(index):
            own = torch.cuda.is_bf16_supported(including_emulation=False)
        properties = torch.cuda.get_device_properties(index)
        found.append(Gpu(f"cuda:{index}", properties.name, properties.total_memory, own))
    return tuple(found)


@dataclass(frozen=True)
class Computing:
    """The dtype that models run in.

    Attributes:
        dtype: torch's name of it.
        why: a sentence, where it is not simply the stored one or the one that was asked for.
    """

    dtype: str
    why: str | None = None


def computing(stored: str, asked: str, device: str, needed: Callable[[str], int]) -> Computing:
    """The dtype to run models in that are stored in another.

    `auto` is the stored one, but on a CPU that multiplies it slowly: there it is float32, where memory allows.

    Args:
        stored: torch's name of the dtype of the weights.
        asked: `auto`, or the dtype that the user asks for.
        device: a torch device, or a device map: what is spread because it is large stays as it is stored.
        needed: bytes of memory that the models take in a dtype.
    """
    if asked != "auto":
        return Computing(asked)
    if device != "cpu" or stored in fast_dtypes():
        return Computing(stored)
    wanted, free = needed("float32"), available_memory()
    if wanted > free:
        lack = f"float32 would take {wanted / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free"
        return Computing(stored, f"computing in {stored}, which this CPU multiplies slowly: {lack}")
    return Computing("float32", f"computing in float32, since this CPU multiplies {stored} slowly")


def fast_dtypes() -> frozenset[str]:
    """The dtypes that the CPU multiplies as fast as float32, or faster."""
    return _fast(platform.machine().lower(), processor_flags(), isa_limit())


def isa_limit() -> str:
    """The instruction set that the environment holds oneDNN to, such as `AVX2`; empty without a limit."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()


def _fast(machine: str, flags: frozenset[str], limit: str) -> frozenset[str]:
    """The same of a machine with these flags, whose oneDNN is held to an instruction set (`AVX2`; "" for no limit).

    On x86-64 torch leaves products in bf16 to oneDNN, which needs AVX-512 for them, and products in fp16 where there
    are instructions for them. Elsewhere they take three to four times as long as in float32 (`benchmarks/dtypes.py`).
    On AVX-512 without instructions for bf16 the two are level, and bf16 takes half the memory.
    """
    fast = {"float32"}
    if machine in ("x86_64", "amd64"):
        if {"avx512bw", "avx512vl", "avx512dq"} <= flags and not re.match(r"SSE41|AVX2|AVX$", limit):
            fast.add("bfloat16")
            halves = {"avx512_fp16", "amx_fp16"} & flags
            if halves and not re.match(r"AVX512_CORE(_VNNI|_BF16)?$", limit):
                fast.add("float16")
    elif "bf16" in flags:  # Arm
        fast.add("bfloat16")
    return frozenset(fast)


@cache
def processor_flags() -> frozenset[str]:
    """What Linux says of the first processor; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def processor() -> str:
    """The processor in a few words, for records and reports: its name and what it computes with."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()

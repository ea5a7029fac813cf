"""What the machine has: its processors, and whether a torch device is there, said before anything is read."""

from __future__ import annotations

import os

from moemerge.errors import MoemergeError


def check_device(device: str) -> None:
    """Checks a device name such as `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        MoemergeError: the name is no device, or the device is not here.
    """
    if device == "cpu":
        return
    import torch

    kind, _, index = device.partition(":")
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in here or (index and not index.isdigit()):
        raise MoemergeError(f"`--device {device}` is no device", hint="one of `cpu`, `cuda`, `cuda:N`, `mps`")
    if not here[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise MoemergeError(f"`--device {device}` is not available here", hint="leave `--device` out to use the CPU")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Trains in a process of its own, which a test kills.

Run as `python -m tests.train.interrupted FOLDER OUTPUT DATA METHOD [resume]`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from moemerge.api import train_router
from moemerge.train.options import TrainOptions


def options(data: Path, method: Any) -> TrainOptions:
    """Steps enough to be killed among them."""
    return TrainOptions(
        data=data,
        method="full" if method == "full" else "lora",
        also=("attention", "experts") if method == "also" else (),
        rate=2e-2,
        steps=40,
        judge_every=4,
        context=64,
        rows=4,
        accumulation=2,
    )


if __name__ == "__main__":
    folder, output, data, method, *resume = sys.argv[1:]
    train_router(folder, output, options(Path(data), method), resume=bool(resume))

"""How many numbers of a mean of bf16 checkpoints, summed in fp32 as `build` sums them, are not what fp64 gives.

    python benchmarks/build_vs_cp.py --runs 1                               # leaves its sources in work/bench/large
    python benchmarks/mean_precision.py work/bench/large/source-*
    python benchmarks/mergekit/run.py                                       # leaves the demo's full checkpoints
    python benchmarks/mean_precision.py work/mergekit/{base,code,math,french}

All tensors but the FFNs' are averaged; each folder is one file of safetensors. Exit status 1 says that some differ.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open


def main() -> int:
    """Counts, prints, and gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    folders = parser.parse_args().folders
    numbers = differ = 0
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(folder / "model.safetensors", "pt")) for folder in folders]
        for name in filter(lambda name: ".mlp." not in name, files[0].keys()):
            tensors = [file.get_tensor(name) for file in files]
            total, exact = tensors[0].float(), tensors[0].double()
            for tensor in tensors[1:]:
                total, exact = total + tensor.float(), exact + tensor.double()
            single = (total / len(tensors)).bfloat16()
            double = (exact / len(tensors)).float().bfloat16()
            numbers += single.numel()
            differ += int((single.view(torch.int16) != double.view(torch.int16)).sum())
    print(f"{differ:,} of {numbers:,} numbers of the mean of {len(folders)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())

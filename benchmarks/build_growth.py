"""How the memory and the time of a build grow with experts and with the size of the models.

    python benchmarks/build_growth.py           # up to 30 GB of disk, one output at a time
    python benchmarks/build_growth.py --small   # models of a few MB, to try the script itself

One model of random values is hard-linked as all the others; that of 7 B is a file of zeros without blocks, of which
memory and work see no difference. Two experts for the shapes, the 1.1 B shape for the experts; each build runs once.
Exit status 1 says that the peak is not flat: within 10 % of that of four experts of 1.1 B.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from build_vs_cp import build, prepare, size
from sources import SHAPES, SMALL, link_source, make_source, write_recipe
from timing import MEGA, ROOT, Run, machine

FLAT = 0.1
EXPERTS = (2, 4, 8, 16)


def grown(work: Path, shape: str, experts: int, shared: str) -> tuple[Run, int]:
    """A build of so many experts, and the bytes that it wrote."""
    folder = work / "growth"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if shape == "1.1 B":
            prepare(work / "large", SHAPES[shape], 1)
            link_source(work / "large" / "source-0", folder / "source-0")
        else:
            make_source(folder / "source-0", SHAPES.get(shape, SMALL), seed=None if shape == "7 B" else 0)
        for index in range(1, experts):
            link_source(folder / "source-0", folder / f"source-{index}")
        run = build(write_recipe(folder, experts), shared, cold=False)
        return run, size(folder / "built")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Measures, prints, and gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "bench", help="folder for sources and outputs")
    parser.add_argument("--shared", nargs="+", default=["mean", "base"], help="values of `merge.shared`")
    parser.add_argument("--small", action="store_true", help="tiny models, 2 and 4 of them: tries the script")
    arguments = parser.parse_args()

    middle_shape = "small" if arguments.small else "1.1 B"
    cases = [(middle_shape, experts) for experts in ((2, 4) if arguments.small else EXPERTS)]
    cases += [(shape, 2) for shape in SHAPES if shape != middle_shape and not arguments.small]
    rows, peaks = [], {}
    for shared in arguments.shared:
        for shape, experts in cases:
            run, written = grown(arguments.work, shape, experts, shared)
            rows.append(
                f"| {shared} | {shape} | {experts} | {written / 1e9:.2f} | {run.seconds:.2f} "
                f"| {written / run.seconds / MEGA:,.0f} | {run.peak / MEGA:,.0f} |"
            )
            print(rows[-1], flush=True)
            peaks[shared, shape, experts] = run.peak
    print(f"\n{machine(arguments.work)}; warm page cache, one run each\n")
    print("| `merge.shared` | models | experts | GB written | s | MB/s | peak MB |\n|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    middle = {shared: peaks[shared, middle_shape, 4] for shared in arguments.shared}
    off = max(abs(peak / middle[shared] - 1) for (shared, _, _), peak in peaks.items())
    print(f"\nbar: peaks within {off:.0%} of that of four experts of {middle_shape}, of at most {FLAT:.0%}")
    return int(off > FLAT)


if __name__ == "__main__":
    sys.exit(main())

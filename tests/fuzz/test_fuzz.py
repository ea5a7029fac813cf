"""Fuzzers: `make fuzz`, or `pytest -m slow tests/fuzz/test_fuzz.py -k template` with MOEMERGE_FUZZ=10000 inputs each.

What fails is kept in `tests/fuzz/corpus/`, which the quick tests replay.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import resource
import time
import traceback
from collections import Counter
from pathlib import Path

import psutil
import pytest

from moemerge import templates
from moemerge.errors import MoemergeError
from tests.conftest import TinyMaker
from tests.fuzz.bounds import bounded
from tests.fuzz.targets import TARGETS, prepare

CORPUS = Path(__file__).parent / "corpus"
INPUTS = int(os.environ.get("MOEMERGE_FUZZ", "300"))
SEED = int(os.environ.get("MOEMERGE_FUZZ_SEED", "0"))
MEMORY = 2_000_000_000
KEPT = 30
SHOWN = 12
"""Kinds of refusals that are told: a fuzzer that is refused at the door finds nothing behind it."""
TOLD = 1000
"""Inputs after which it is told how far it is."""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # transformers may warn of what it is given
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_makes_a_traceback_a_hang_or_gigabytes(
    name: str, tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each spoilt input gives a clear error, or a build that `verify` accepts and transformers loads."""
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    work, target = prepare(tmp_path, tiny), TARGETS[name]
    monkeypatch.chdir(work)
    seeds = target.seeds(work)
    outcomes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    tried: set[str] = set()  # small files are often spoilt in the same way
    began, slowest = time.monotonic(), 0.0
    for number in range(INPUTS):
        if number and number % TOLD == 0:
            print(f"{name}: {number:,} in {time.monotonic() - began:.0f} s, {len(tried):,} of them differ", flush=True)
        chance = random.Random(f"{name} {SEED} {number}")
        data = target.mutate(chance, chance.choice(seeds))
        digest = hashlib.sha256(data).hexdigest()
        if digest in tried:
            outcomes["the same again"] += 1
            continue
        tried.add(digest)
        started = time.process_time()
        try:
            with bounded(MEMORY):
                target.run(work, data)
            outcomes["taken"] += 1
        except MoemergeError as error:
            outcomes["refused"] += 1
            refusals[re.sub(r"`[^`]*`|'[^']*'|[0-9]+", "…", str(error))[:120]] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcomes["fault"] += 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:200]}"
            faults[kind] += 1
            if faults[kind] == 1 and len(faults) <= KEPT:
                _keep(name, digest[:12], data)
                print(f"--- {name} {number}\n{''.join(traceback.format_exception(error))[-3000:]}")
        slowest = max(slowest, time.process_time() - started)
    print(*(f"{count} x {kind!r}" for kind, count in refusals.most_common(SHOWN)), sep="\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name}: {INPUTS:,} inputs in {time.monotonic() - began:.0f} s, {dict(outcomes)}, slowest {slowest:.1f} s, "
          f"peak {peak:.2f} GB of {psutil.virtual_memory().total / 1e9:.0f}")  # fmt: skip
    assert not faults, "\n".join(f"{count} x {kind}" for kind, count in faults.most_common(KEPT))


def _keep(name: str, file: str, data: bytes) -> None:
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(data)

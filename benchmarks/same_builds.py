"""Whether two checkouts build the same: every case of the identity tests and every recipe whose sources are here.

    python benchmarks/same_builds.py OTHER_CHECKOUT

Each checkout builds in a process of its own, from the same sources; tensors and `config.json` of what both build are
compared by digest. Gates are fitted to prompts alone (`gate.expand=off`): what specialists write is one more thing that
a checkout may change. A recipe that one of the two does not read, or whose models somebody would have to make first, is
named and left out.
Exit status 1 names what differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def digests(work: Path) -> dict[str, dict[str, str]]:
    """Of every build by this process's package: what is in it, tensors and `config.json`, to sha256."""
    from importlib import import_module
    from importlib.util import find_spec

    from moemerge.errors import PlanError, RecipeError
    from moemerge.recipe import load_recipe

    moe, identity, tiny = (import_module(f"tests.{name}") for name in ("moe", "test_identity", "tiny"))  # untyped
    build = import_module("moemerge.api" if find_spec("moemerge.api") else "moemerge.build").build
    found: dict[str, dict[str, str]] = {}

    def add(case: str, folder: Path) -> None:
        found[case] = {"config.json": hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()}
        for path in sorted(folder.glob("*.safetensors")):
            data = memoryview(path.read_bytes())
            start = 8 + int.from_bytes(data[:8], "little")
            for name, entry in json.loads(bytes(data[8:start])).items():
                if name != "__metadata__":
                    first, end = entry["data_offsets"]
                    state = hashlib.sha256(f"{entry['dtype']} {entry['shape']} ".encode())
                    state.update(data[start + first : start + end])
                    found[case][name] = state.hexdigest()

    for number, (case, (family, config, fields)) in enumerate(identity.CASES.items()):
        models = [
            tiny.tiny_model(family, work / f"m{number}-{seed}", seed=seed, scale=4.0, **config) for seed in range(3)
        ]
        for gate in ("random", "discriminant"):
            recipe = moe.recipe_of(models[0], models[1:], **fields | {"gate": {"init": gate, "expand": "off"}})
            add(f"{case}, {gate}", build(recipe, work / f"o{number}-{gate}", root=work).path)
    for path in sorted((HERE / "recipes").glob("*.yaml")):
        if "package:" in path.read_text(encoding="utf-8"):
            try:
                recipe = load_recipe(path, ("gate.expand=off",)).recipe
                add(path.name, build(recipe, work / path.stem, root=path.parent).path)
            except (PlanError, RecipeError) as error:
                print(f"{path.name} is not built by {Path.cwd()}: {str(error).splitlines()[0]}", file=sys.stderr)
    return found


def main(other: Path) -> None:
    """Compares."""
    results = []
    for checkout in (HERE, other.resolve()):
        with tempfile.TemporaryDirectory() as work:
            command = [sys.executable, str(Path(__file__).resolve()), "--digests", work]
            variables = os.environ | {"PYTHONPATH": str(checkout)}
            run = subprocess.run(command, cwd=checkout, env=variables, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(run.stdout))
    ours, theirs = results
    both = ours.keys() & theirs.keys()
    differ = {case: sorted({name for name, _ in ours[case].items() ^ theirs[case].items()}) for case in sorted(both)}
    print(f"{len(both)} builds; {len(ours.keys() ^ theirs.keys())} more that one checkout alone has")
    for case, names in differ.items():
        print(f"{case}: {len(names)} of {len(ours[case])} differ {' '.join(names)}".rstrip())
    sys.exit(any(differ.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--digests"]:
        print(json.dumps(digests(Path(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]))

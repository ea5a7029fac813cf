"""Builds a recipe's MoE with mergekit-moe itself, so that the result can be evaluated beside moemerge's.

    python benchmarks/mergekit/run.py --venv work/venvs/mergekit
    python benchmarks/mergekit/run.py RECIPE --gate-mode hidden cheap_embed --work FOLDER

mergekit reads neither adapters (0.1.5 stops on an assertion) nor GGUF files. So the base and each specialist are first
written as full checkpoints, folded by peft and dequantised by transformers: mergekit is given better input than it
takes by itself. Then it runs in an environment of its own with the same prompts, once for each gate mode, and what it
wrote is loaded by transformers, to see that it is whole. Nothing of mergekit is imported here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from moemerge.errors import MoemergeError
from moemerge.recipe import LoadedRecipe, file_path, load_recipe
from moemerge.sources.spec import Hub, Local, WithAdapter, parse
from moemerge.texts import read_prompts_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Materials:
    """Writes models as the full checkpoints that mergekit reads.

    Attributes:
        root: what the recipe's relative paths are relative to.
        work: where the checkpoints are written.
    """

    root: Path
    work: Path

    def checkpoint(self, spec: str, name: str, base: str | None) -> str:
        """A folder (or hub id) that mergekit can read for a model of the recipe.

        Args:
            spec: the model as the recipe names it.
            name: the folder in `work` to write where something has to be written.
            base: the base's checkpoint, which adapters are folded into; None for the base itself.
        """
        if spec == "base" and base is not None:
            return base
        target = self.work / name
        source = parse(spec, self.root)
        if isinstance(source, Hub):
            return spec
        if isinstance(source, WithAdapter):
            adapter = parse(source.adapter, self.root)
            folder = str(adapter.path) if isinstance(adapter, Local) else source.adapter
            return self._folded(folder, self.checkpoint(source.model, f"{name}-base", base), target)
        if source.path.suffix == ".gguf":
            return self._dequantised(source, target)
        if (source.path / "adapter_config.json").exists():
            if base is None:
                sys.exit(f"`{spec}` is an adapter, and an adapter cannot be the base")
            return self._folded(str(source.path), base, target)
        return str(source.path.resolve())

    def _dequantised(self, source: Local, target: Path) -> str:
        """A GGUF file as a bf16 checkpoint, its tokenizer as transformers converts it."""
        folder, file = source.path.parent, source.path.name
        settings = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.bfloat16, quantization_config=settings
        )
        return self._save(model, AutoTokenizer.from_pretrained(folder, gguf_file=file), target)

    def _folded(self, adapter: str, base: str, target: Path) -> str:
        """The base with an adapter merged into it by peft, in the dtype in which the base is stored."""
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        folded = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        return self._save(folded, AutoTokenizer.from_pretrained(base), target)

    def _save(self, model: PreTrainedModel, tokenizer: Any, target: Path) -> str:
        shutil.rmtree(target, ignore_errors=True)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        print(f"wrote {target}")
        return str(target.resolve())


def mergekit_recipe(loaded: LoadedRecipe, materials: Materials) -> dict[str, Any]:
    """The recipe in mergekit-moe's form, all but its gate mode; writes the checkpoints that it names."""
    recipe = loaded.recipe
    base = materials.checkpoint(recipe.base_model, "base", None)
    config = AutoConfig.from_pretrained(base)
    experts = []
    for expert in recipe.experts:
        prompts = list(expert.prompts)
        if expert.prompts_file is not None:
            prompts = list(read_prompts_file(file_path(loaded.root, expert.prompts_file)))
        if not prompts:
            sys.exit(f"Expert `{expert.name}` has no prompts, and mergekit-moe fits its gate from nothing else")
        source = materials.checkpoint(expert.model, expert.name, base)
        experts.append({"source_model": source, "positive_prompts": prompts})
        if expert.negative_prompts:
            experts[-1]["negative_prompts"] = list(expert.negative_prompts)
    dtype = str(config.dtype or "float32").removeprefix("torch.")
    return {"base_model": base, "dtype": dtype, "experts_per_token": recipe.experts_per_token, "experts": experts}


def install(venv: Path) -> Path:
    """The program `mergekit-moe` of an environment, which is made where there is none."""
    program = venv.resolve() / "bin" / "mergekit-moe"
    if not program.exists():
        print(f"installing mergekit into {venv}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        constraints = ["--constraint", str(HERE / "constraints.txt")]
        subprocess.run([*pip, *constraints, "torch"], check=True)
        subprocess.run([*pip, *constraints, "mergekit"], check=True)
    return program


def run_mergekit(program: Path, recipe: Mapping[str, Any], output: Path) -> None:
    """Runs mergekit-moe on a recipe, offline, and says how long it took and how much memory it held."""
    shutil.rmtree(output, ignore_errors=True)
    file = output.with_suffix(".yml")
    file.write_text(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True), encoding="utf-8")
    command = [str(program), str(file), str(output), "--quiet"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"`{' '.join(command)}` failed with {process.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{output}: {time.perf_counter() - start:.1f} s, {peak / 1e6:,.0f} MB at most")


def check(output: Path) -> None:
    """Loads what mergekit wrote in plain transformers; ends the program where a weight is missing or over."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    found: dict[str, Any] = loaded[1]
    wrong = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
    if wrong:
        sys.exit(f"{output} does not load whole: {json.dumps(wrong, indent=1)}")
    AutoTokenizer.from_pretrained(output)


def main() -> None:
    """Materialises, builds, checks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path, nargs="?", default=ROOT / "recipes" / "demo.yaml", help="a recipe")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "mergekit", help="folder for all that is written")
    parser.add_argument(
        "--venv", type=Path, default=ROOT / "work" / "venvs" / "mergekit", help="mergekit's environment"
    )
    parser.add_argument(
        "--gate-mode", nargs="+", default=["hidden"], choices=["hidden", "hidden_avg", "cheap_embed", "random"]
    )
    arguments = parser.parse_args()

    program = install(arguments.venv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    try:
        loaded = load_recipe(arguments.recipe)
        recipe = mergekit_recipe(loaded, Materials(loaded.root, arguments.work))
    except MoemergeError as error:
        sys.exit(f"error: {error.message}")
    for mode in arguments.gate_mode:
        output = arguments.work / f"moe-{mode}"
        run_mergekit(program, {"gate_mode": mode, **recipe}, output)
        check(output)
    print(f"evaluate them as you would ours, such as {arguments.work / f'moe-{arguments.gate_mode[0]}'}")


if __name__ == "__main__":
    main()

"""How many questions about pictures a mixture answers, beside the models that it is made of.

    python examples/measure_vision.py out/vision-base out/vision
    python examples/measure_vision.py out/vision-base out/vision --examples        # minutes more
    python examples/measure_vision.py out/vision-base out/vision --pictures validation

All are loaded by plain transformers (and peft), in bf16. Intervals are Wilson's, 95 %. The test pictures are for the
figures in the documentation alone: choose by the validation pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from measure_specialists import specialist_weights
from pictures import Asked, Picture, held_out, majority, spelt_out, training
from train_specialists import HERE
from vision_model import PICTURES, answers, right_by_kind, wilson

TEXTS = ("code", "math", "french")
INSIDE = "model.language_model."
EXAMPLES = "\n".join(spelt_out(shown) for shown in islice(training(97), 6)) + "\n"
"""Six training pictures, spelt out, with all that is asked of them: what may help the base without any training."""


def load(folder: Path) -> Any:
    """A LLaVA of plain transformers, dense or a mixture."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()


def linear_merge(base: Path, picture_expert: Mapping[str, Tensor]) -> Any:
    """The dense mean of the four specialists, within the base."""
    texts = [specialist_weights(HERE / "adapters" / text) for text in TEXTS]
    parts = [{INSIDE + name.removeprefix("model."): weight for name, weight in part.items()} for part in texts]
    merged = load(base)
    stored = merged.state_dict()
    means = {
        name: torch.stack([part[name].double() for part in [*parts, picture_expert]]).mean(0).to(torch.bfloat16)
        for name in parts[0]
    }
    assert means.keys() <= stored.keys()
    merged.load_state_dict(means, strict=False)
    return merged


@contextmanager
def counted(model: Any, experts: Sequence[str], image: int) -> Iterator[dict[str, Tensor]]:
    """Counts which expert the tokens of a prompt go to, summed over the layers: those of pictures, and the others."""
    counts = {kind: torch.zeros(len(experts)) for kind in ("picture", "text")}
    ids: list[Tensor] = []

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids[:] = [kwargs["input_ids"].flatten()]

    def count(module: Any, args: tuple[Tensor, ...]) -> None:
        chosen = torch.nn.functional.linear(args[0].flatten(0, -2), module.weight).argmax(-1)
        is_picture = ids[0] == image
        for kind, here in (("picture", is_picture), ("text", ~is_picture)):
            counts[kind] += torch.bincount(chosen[here], minlength=len(experts))

    handles = [model.model.register_forward_pre_hook(keep, with_kwargs=True)]
    handles += [layer.mlp.gate.register_forward_pre_hook(count) for layer in model.model.language_model.layers]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def share(right: int, of: int) -> str:
    """`91.3 % (89.4 to 92.9)`."""
    low, high = wilson(right, of)
    return f"{100 * right / of:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Measure models on questions about pictures.")
    parser.add_argument("base", type=Path, help="the LLaVA that the mixture was made from")
    parser.add_argument("mixtures", type=Path, nargs="+", help="folders that moemerge built")
    parser.add_argument("--adapter", type=Path, default=PICTURES, help="the specialist [examples/adapters/pictures]")
    parser.add_argument("--pictures", choices=["validation", "test"], default="test")
    parser.add_argument("--examples", action="store_true", help="the base also with six worked examples before each")
    parser.add_argument("--only-mixtures", action="store_true", help="leave the dense models out")
    parser.add_argument("--output", type=Path, help="a JSON file for all answers")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    asked: list[tuple[Picture, Asked]] = held_out(arguments.pictures)
    plain = [one for _, one in asked]
    tokenizer = AutoProcessor.from_pretrained(arguments.base).tokenizer
    kept: dict[str, list[str]] = {"asked": [one.answer for one in plain]}

    def show(name: str, found: Sequence[str], seconds: float = 0.0) -> None:
        kept[name] = list(found)
        counts = right_by_kind(plain, found)
        kinds = ", ".join(f"{kind} {right}/{of}" for kind, (right, of) in counts.items() if kind != "all")
        print(f"{name:22s} {share(*counts['all'])}  {kinds}  [{seconds:.0f} s]", flush=True)

    def measured(name: str, model: Any, examples: str = "") -> None:
        start = time.monotonic()
        show(name, answers(model, tokenizer, asked, examples), time.monotonic() - start)

    print(f"{len(asked)} pictures of {arguments.pictures}, a question each, answered exactly (95 % interval)")
    if not arguments.only_mixtures:
        show("most frequent answer", majority(plain, [one for _, one in held_out("validation")]))
        base = load(arguments.base)
        measured("base", base)
        if arguments.examples:
            measured("base, six examples", base, EXAMPLES)
        del base
        specialist = PeftModel.from_pretrained(load(arguments.base), str(arguments.adapter)).merge_and_unload()
        measured("specialist", specialist)
        merged = linear_merge(arguments.base, specialist.state_dict())
        del specialist
        measured("linear merge", merged)
        del merged
    for folder in arguments.mixtures:
        model = load(folder)
        experts = [line["name"] for line in _experts(folder)]
        with counted(model, experts, model.config.image_token_id) as counts:
            measured(f"MoE {folder.name}", model)
        for kind, count in counts.items():
            parts = ", ".join(f"{name} {n / count.sum():.3f}" for name, n in zip(experts, count, strict=True))
            print(f"    tokens of the {kind} go to: {parts}")
    if arguments.output:
        arguments.output.write_text(json.dumps(kept), encoding="utf-8")


def _experts(folder: Path) -> Any:
    import yaml

    return yaml.safe_load((folder / "moemerge.yaml").read_text(encoding="utf-8"))["experts"]


if __name__ == "__main__":
    main()

"""The model card's section on running the model: in transformers, and in the other engines that hold it."""

from __future__ import annotations

from moemerge.families.runtimes import RUNTIMES
from moemerge.plan.model import Plan
from moemerge.write.engines import engines

_HERE = "In this folder, or with its id on the hub in the place of the `.`:\n\n"
_ID = 'model_id = "{}"'
_CHECK = "`moemerge verify .` checks this folder"


def run_section(plan: Plan) -> str:
    """How to run a built folder by its class of transformers and by other engines."""
    auto_class, more = plan.host.auto_class, ""
    if plan.host.wrapper is not None:
        more = "`AutoProcessor.from_pretrained(model_id)` makes its inputs of more than text. "
    return (
        f"## Run\n\n{_HERE}"
        f"```python\nfrom transformers import {auto_class}, AutoTokenizer\n\n"
        f"{_ID.format('.')}\n"
        f'model = {auto_class}.from_pretrained(model_id, dtype="auto", device_map="auto")\n'
        "tokenizer = AutoTokenizer.from_pretrained(model_id)\n"
        'inputs = tokenizer("Hello", return_tensors="pt").to(model.device)\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n```\n\n"
        f"{more}"
        f"`device_map` needs `accelerate`; leave it out to run on the CPU. {_CHECK} "
        "against `moemerge.yaml`, which also holds the recipe that made it.\n\n"
        "What a token costs goes mostly with the active parameters. `experts_implementation` in `from_pretrained` says "
        "how transformers 5 computes the experts: `grouped_mm` (its default), `eager`, or `batched_mm`, which copies "
        "an expert's weights for every token and is meant for few tokens on a GPU; try which is fastest. "
        '`dtype="auto"` keeps the stored dtype; on a CPU without bfloat16 instructions try `dtype="float32"`.\n\n'
        f"{engines(plan)}"
    )


def moved(section: str, repo: str, gguf: str | None) -> str:
    """The same section where the model lies on the hub; lines that somebody wrote anew stay as they are.

    Args:
        section: that of the folder.
        repo: the repository's id.
        gguf: the name of a GGUF file beside it.
    """
    section = section.replace(_HERE, "").replace(_ID.format("."), _ID.format(repo))
    section = section.replace(_CHECK, "`moemerge verify FOLDER` checks a download")
    there: dict[str, tuple[str, ...]] = {line: () for runtime in RUNTIMES for line in runtime.commands}
    for runtime in RUNTIMES:
        if gguf is not None or not any("{gguf}" in line for line in runtime.by_id):
            there[runtime.commands[0]] = tuple(line.format(repo=repo, gguf=gguf) for line in runtime.by_id)
    lines = (found for line in section.split("\n") for found in there.get(line, (line,)))
    return "\n".join(lines).replace("\n\n```sh\n```", "")

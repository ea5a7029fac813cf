"""The model card's section on running the model: in transformers, and in the other engines that hold it."""

from __future__ import annotations

from moemerge.plan.model import Plan
from moemerge.write.engines import engines


def run_section(plan: Plan) -> str:
    """How to run a built folder by its class of transformers and by other engines."""
    auto_class, more = plan.host.auto_class, ""
    if plan.host.wrapper is not None:
        more = "`AutoProcessor.from_pretrained(model_id)` makes its inputs of more than text. "
    return (
        "## Run\n\nIn this folder, or with its id on the hub in the place of the `.`:\n\n"
        f"```python\nfrom transformers import {auto_class}, AutoTokenizer\n\n"
        'model_id = "."\n'
        f'model = {auto_class}.from_pretrained(model_id, dtype="auto", device_map="auto")\n'
        "tokenizer = AutoTokenizer.from_pretrained(model_id)\n"
        'inputs = tokenizer("Hello", return_tensors="pt").to(model.device)\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n```\n\n"
        f"{more}"
        f"`device_map` needs `accelerate`; leave it out to run on the CPU. `moemerge verify .` checks this folder "
        "against `moemerge.yaml`, which also holds the recipe that made it.\n\n"
        "What a token costs goes mostly with the active parameters. `experts_implementation` in `from_pretrained` says "
        "how transformers 5 computes the experts: `grouped_mm` (its default), `eager`, or `batched_mm`, which copies "
        "an expert's weights for every token and is meant for few tokens on a GPU; try which is fastest. "
        '`dtype="auto"` keeps the stored dtype; on a CPU without bfloat16 instructions try `dtype="float32"`.\n\n'
        f"{engines(plan)}"
    )

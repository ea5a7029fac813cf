"""The model card's section on running the model: in transformers, and in the other engines that hold it."""

from __future__ import annotations

from moemerge.families import Host

HERE = "."
"""Where a card that lies beside its model finds it."""


def run_section(host: Host, *, new: bool, place: str = HERE, gguf: str | None = None) -> str:
    """How to run it by its class of transformers and by other engines.

    Args:
        host: the mixture's class.
        new: it is stored as transformers 5 alone reads it.
        place: where the model lies: this folder, or its id on the hub.
        gguf: the name of a GGUF file beside it.
    """
    auto_class, more = host.auto_class, ""
    if host.wrapper is not None:
        more = "`AutoProcessor.from_pretrained(model_id)` makes its inputs of more than text. "
    where = "In this folder, or with its id on the hub in the place of the `.`:\n\n" if place == HERE else ""
    checks = "`moemerge verify .` checks this folder" if place == HERE else "`moemerge verify FOLDER` checks a download"
    return (
        f"## Run\n\n{where}"
        f"```python\nfrom transformers import {auto_class}, AutoTokenizer\n\n"
        f'model_id = "{place}"\n'
        f'model = {auto_class}.from_pretrained(model_id, dtype="auto", device_map="auto")\n'
        "tokenizer = AutoTokenizer.from_pretrained(model_id)\n"
        'inputs = tokenizer("Hello", return_tensors="pt").to(model.device)\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n```\n\n"
        f"{more}"
        f"`device_map` needs `accelerate`; leave it out to run on the CPU. {checks} "
        "against `moemerge.yaml`, which also holds the recipe that made it.\n\n" + _engines(host, new, place, gguf)
    )


def _engines(host: Host, new: bool, place: str, gguf: str | None) -> str:
    text = (
        "What a token costs goes mostly with the active parameters. `experts_implementation` in `from_pretrained` says "
        "how transformers 5 computes the experts: `grouped_mm` (its default), `eager`, or `batched_mm`, which copies "
        "an expert's weights for every token and is meant for few tokens on a GPU; try which is fastest. "
        '`dtype="auto"` keeps the stored dtype; on a CPU without bfloat16 instructions try `dtype="float32"`.'
    )
    if host.wrapper is not None:
        return text + " Whether engines other than transformers 5 read it was not tried."
    if new:
        text += (
            " The experts are stored fused, which transformers 5 alone reads: transformers 4 loads them at random and "
            "only warns."
        )
    commands = [] if new or host.runtimes.get("vLLM") != "right" else [f"vllm serve {place}"]
    if gguf is not None and place != HERE:
        commands += [f"llama-server -hf {place} --hf-file {gguf}", f"ollama run hf.co/{place}"]
    elif host.gguf is not None and place == HERE:
        commands += ["moemerge export . --gguf moe.gguf   # for llama.cpp and Ollama", "llama-cli -m moe.gguf"]
    paragraphs = [text]
    if commands:
        listed = "\n".join(commands)
        paragraphs.append(f"Other engines; none of them was run on this very model:\n\n```sh\n{listed}\n```")
    wrong = [f"- {name}: {state}" for name, state in host.runtimes.items() if state != "right"]
    if wrong and not new:
        listed = "\n".join(wrong)
        paragraphs.append(f"What some make of such a folder:\n\n{listed}")
    return "\n\n".join(paragraphs)

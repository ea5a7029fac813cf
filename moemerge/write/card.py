"""The model card: what was built from what, how well the gate tells the experts apart, and how to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from moemerge import __version__
from moemerge.console import count, size
from moemerge.plan.cost import groups
from moemerge.plan.model import Plan


def model_card(plan: Plan, gate: Mapping[str, Any], name: str) -> str:
    """README.md of the output, with the hub's metadata in front.

    Args:
        plan: what was built.
        gate: the record's account of the gate.
        name: the output folder's name.
    """
    assert plan.host is not None
    front = yaml.safe_dump(_metadata(plan), sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{front}---\n\n# {name}",
        _intro(plan),
        _experts(plan),
        _weights(plan),
        _gate(gate),
        _run(name),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(plan: Plan) -> dict[str, Any]:
    hub = [c for c in plan.models.values() if c.kind == "hub"]
    licences = {c.licence for c in plan.models.values() if c.licence}
    metadata: dict[str, Any] = {}
    if len(licences) == 1:
        metadata["license"] = licences.pop()
    elif licences:
        metadata["license"] = "other"
    if hub:
        metadata["base_model"] = [c.spec.partition("@")[0] for c in hub]
    metadata["library_name"] = "transformers"
    metadata["pipeline_tag"] = "text-generation"
    metadata["tags"] = ["moe", "merge", "moemerge", plan.host.model_type if plan.host else ""]
    return metadata


def _intro(plan: Plan) -> str:
    assert plan.host is not None
    total, active = count(plan.parameters.total), count(plan.parameters.active)
    return (
        f"A sparse mixture of {len(plan.experts)} experts, {plan.recipe.experts_per_token} a token, merged by "
        f"[moemerge](https://pypi.org/project/moemerge/) {__version__}: {total} parameters, {active} active a token, "
        f"{size(plan.bytes.total)} in {plan.dtype}. It is a plain `{plan.host.architecture}`: no remote code."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _experts(plan: Plan) -> str:
    base = plan.models["base"]
    rows = [("base", f"`{base.spec}`", base.revision or "", base.licence or "not stated")]
    for expert in plan.experts:
        model = plan.models[expert.model]
        rows.append((expert.name, f"`{model.spec}`", model.revision or "", model.licence or "not stated"))
    return "## Sources\n\n" + _table(("expert", "model", "revision", "licence"), rows)


def _weights(plan: Plan) -> str:
    rows = [(g["group"], g["tensors"], size(g["bytes"]), "; ".join(g["from"])) for g in groups(plan)]
    return "## Weights\n\n" + _table(("group", "tensors", "size", "from"), rows)


def _gate(gate: Mapping[str, Any]) -> str:
    text = f"## Gate\n\n`{gate['init']}`"
    separation = gate.get("separation") or []
    known = [(layer, value) for layer, value in enumerate(separation) if value is not None]
    if not known:
        return text + ", which looks at no text."
    mean = sum(value for _, value in known) / len(known)
    text += f". Tokens given to their own expert, cross-validated, over the layers: {mean:.3f} on average.\n\n"
    return text + _table(("layer", "token accuracy"), [(layer, f"{value:.3f}") for layer, value in known])


def _run(name: str) -> str:
    return (
        "## Run\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto", device_map="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        'inputs = tokenizer("Hello", return_tensors="pt").to(model.device)\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n```\n\n"
        "`device_map` needs `accelerate`; leave it out to run on the CPU. `moemerge verify` checks this folder against "
        "`moemerge.yaml`, which also holds the recipe that made it."
    )

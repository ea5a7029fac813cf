"""The model card: what was built from what, how well the gate tells the experts apart, and how to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from moemerge import __version__
from moemerge.console import count, few, size
from moemerge.plan.cost import MERGEKIT, WITHOUT_ACTIVATIONS, groups
from moemerge.plan.model import Plan
from moemerge.recipe.layers import as_ranges
from moemerge.sources.spec import public
from moemerge.write.markdown import code, plain, table
from moemerge.write.metadata import metadata
from moemerge.write.running import run_section

_NO_TEXT = ", which looks at no text."
_BASE_ONLY = ", which reads the base model on the prompts. How well it separates is not measured."
_NOT_HELD_OUT = ". Nothing could be held out, so how well it separates is not known."


def model_card(plan: Plan, gate: Mapping[str, Any], name: str, near: Mapping[str, Any] | None = None) -> str:
    """README.md of the output, with the hub's metadata in front.

    Args:
        plan: what was built.
        gate: the record's account of the gate.
        name: the output folder's name.
        near: the record's account of how far a host is off that is not exact.
    """
    front = yaml.safe_dump(metadata(plan), sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{front}---\n\n# {plain(name)}",
        _intro(plan) + _near(plan, near),
        _sources(plan),
        _licence(plan),
        _weights(plan),
        _gate(gate, plan.dense.routed_layers),
        run_section(plan),
    ]
    return "\n\n".join(sections) + "\n"


def _licences(plan: Plan) -> list[str]:
    return list(dict.fromkeys(c.licence for c in plan.models.values() if c.licence))


def _intro(plan: Plan) -> str:
    total, active = count(plan.parameters.total), count(plan.parameters.active)
    kept = plan.dense.kept
    dense = f" Layers {as_ranges(kept)} are dense: they have one FFN and no router." if kept else ""
    return (
        f"A sparse mixture of {len(plan.experts)} experts, {plan.recipe.experts_per_token} per token, merged by "
        f"moemerge {__version__}: {total} parameters, {active} active per token, "
        f"{size(plan.bytes.total)} in {plan.dtype}. It is a plain `{plan.host.architecture}`: no remote code.{dense}"
    )


def _near(plan: Plan, near: Mapping[str, Any] | None) -> str:
    if near is None:
        return ""
    return (
        f" The class does not compute quite what `{plan.dense.family}` does: {plan.host.near}. With all experts alike, "
        f"its logits were {near['error']:.1e} off those of the dense model, relative, on {near['tokens']} tokens."
    )


def _sources(plan: Plan) -> str:
    used: dict[str, list[str]] = {}
    for expert in plan.experts:
        used.setdefault(expert.model, []).append(expert.name)
    named = [("base", "base"), *((", ".join(few(names)), key) for key, names in used.items())]
    if plan.shared_expert is not None:
        named.append(("always-on expert", plan.shared_expert))
    head, rows = ("expert", "model", "revision", "licence"), []
    for name, key in named:
        model = plan.models[key]
        rows.append(
            (plain(name), code(public(model.spec)), plain(model.revision or ""), plain(model.licence or "not stated"))
        )
    pinned = any(plan.models[key].revision is not None for _, key in named)
    cells = [row if pinned else (*row[:2], row[3]) for row in (head, *rows)]
    return "## Sources\n\n" + table(cells[0], cells[1:]) + _vocabulary(plan)


def _vocabulary(plan: Plan) -> str:
    """Whose tokenizer it has, where that is not simply the base's."""
    anchor, added = plan.vocabulary.anchor, plan.vocabulary.added
    if anchor == "base" and not added:
        return ""
    whose = "the base" if anchor == "base" else code(anchor)
    more = f", with {len(added)} more token{'s' if len(added) > 1 else ''} of the others" if added else ""
    return f"\n\nTokenizer, chat template and special tokens are those of {whose}{more}."


def _licence(plan: Plan) -> str:
    licences = _licences(plan)
    silent = "" if all(c.licence for c in plan.models.values()) else " Some sources state none: ask their authors."
    if not licences:
        return "## Licence\n\nNo source states a licence: ask their authors before you share this model."
    if len(licences) == 1:
        return f"## Licence\n\n{code(licences[0])}, as its sources.{silent}"
    listed = ", ".join(map(code, licences))
    return (
        f"## Licence\n\nThe sources state different licences: {listed}. Read them before you share this model.{silent}"
    )


def _weights(plan: Plan) -> str:
    rows = [(g["group"], g["tensors"], size(g["bytes"]), plain("; ".join(g["from"]))) for g in groups(plan)]
    return "## Weights\n\n" + table(("group", "tensors", "size", "from"), rows)


def _gate(gate: Mapping[str, Any], layers: Sequence[int]) -> str:
    text = f"## Gate\n\n`{gate['init']}`"
    separation = gate.get("separation") or []
    known = [(layer, value) for layer, value in zip(layers, separation, strict=False) if value is not None]
    if not known:
        init = gate["init"]
        return text + (_NO_TEXT if init in WITHOUT_ACTIVATIONS else _BASE_ONLY if init in MERGEKIT else _NOT_HELD_OUT)
    mean = sum(value for _, value in known) / len(known)
    (least, low), (most, high) = (choice(known, key=lambda one: one[1]) for choice in (min, max))
    spread = f", {low:.3f} in layer {least} to {high:.3f} in layer {most}" if least != most else ""
    text += f". Tokens given to their own expert, cross-validated, over the layers: {mean:.3f} on average{spread}. "
    return text + "`moemerge.yaml` has it for each layer."

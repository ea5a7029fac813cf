"""Reports of several kinds, shaped as `moemerge eval --json` prints them; their numbers are made up."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from moemerge.evaluate.explain import Explanation
from moemerge.evaluate.trace import Trace

HOSTILE = (
    "<script>alert(1)</script> \"'&<!-- </script> [red]x[/red] \u202eevil \x1b[31m \u2028 🙂 \ud800 "
    + "w" * 300
    + "\nnext"
)
"""What a name or a text of a model may hold at worst."""
_TEXT = ["def", " rev", "(", "x", ")", ":", "\n", "    ", "return", " x", "[", "::", "-1", "]", "\n"]


def make(names: tuple[str, ...] = ("code", "math", "french"), layers: int = 4, top: int = 1) -> dict[str, Any]:
    """A whole report of so many experts, the first three of which have a domain."""
    draw = random.Random(0)
    listed = names[:3]
    keys = ("base", "specialist", "linear_merge", "oracle_routed", "random_gate", "moe")
    domains: dict[str, Any] = {}
    by_layer: dict[str, list[list[float]]] = {}
    for place, name in enumerate(listed):
        losses = dict(
            zip(keys, (1.9 + place, 1.5 + place, 1.62 + place, 1.5 + place, 1.7 + place, 1.52 + place), strict=True)
        )
        domains[name] = {
            "expert": name, "documents": 16, "tokens": 3100, "bytes": 12800, **losses, "gain_kept": 0.95,
            "gain_kept_interval": [0.9, 1.02], "gain_kept_note": None,
            "specialists": {other: losses["specialist"] if other == name else losses["base"] for other in names},
            "compared": {"Qwen/Qwen3-0.6B": {"nats": 1.4 + place, "bits_per_byte": 0.5}},
            "intervals": {key: [loss - 0.1, loss + 0.1] for key, loss in losses.items()},
            "bits_per_byte": {key: loss / math.log(2) / 4 for key, loss in losses.items()},
            "perplexity": {key: math.exp(loss) for key, loss in losses.items()},
        }  # fmt: skip
        rest = 0.1 / max(1, len(names) - 1)
        shares = [0.9 if index == place else rest for index in range(len(names))]
        by_layer[name] = [list(shares) for _ in range(layers)]
    load = [sum(by_layer[name][0][index] for name in listed) / len(listed) for index in range(len(names))]
    chosen = [[draw.randrange(len(names)) for _ in _TEXT] for _ in range(layers)]
    return {
        "format": 1, "moemerge": "0.1.0", "path": "out/demo", "architecture": "mixtral", "dtype": "bfloat16",
        "device": "cpu",
        "experts": list(names), "experts_per_token": top, "layers": layers,
        "verdict": "It keeps 95 % of the specialists' gain, ahead of the linear merge (70 %). It is ahead of the base. "
        "It has 2.2 times the parameters of the base, a specialist or the linear merge, and uses as many as these per "
        "token. Routing loses 5 % of the gain: give the gate texts (`data:` in the recipe), or train it on a hundred "
        "or more for each domain (`moemerge train-router --data`)",
        "gain_kept": 0.95, "gain_kept_interval": [0.93, 0.97], "gain_kept_ceiling": 1.0,
        "baselines": {"linear_merge": {"gain_kept": 0.7, "gain_kept_interval": [0.6, 0.8]},
                      "random_gate": {"gain_kept": 0.5, "gain_kept_interval": None},
                      "oracle_routed": {"gain_kept": 1.0, "gain_kept_interval": [0.99, 1.01]}},
        "merge_loss": 0.0, "routing_loss": 0.05, "mend": "routing",
        "mean": {key: sum(domains[name][key] for name in listed) / len(listed) for key in keys}
        | {"best_specialist": 2.6},
        "best_specialist": listed[-1],
        "against": {"base": {"difference": -0.38, "interval": [-0.4, -0.36], "standing": "ahead"},
                    "best_specialist": None,
                    "linear_merge": {"difference": -0.1, "interval": [-0.12, -0.08], "standing": "ahead"}},
        "general": {"domains": ["general"], "difference": 0.004, "interval": [-0.01, 0.02], "standing": "level",
                    "base_experts": [], "share": None},
        "domains": domains,
        "routing": {"accuracy": 0.9, "accuracy_by_layer": [0.9] * layers,
                    "confusion": {name: dict(zip(names, by_layer[name][0], strict=True)) for name in listed},
                    "confusion_by_layer": by_layer, "load": load, "load_by_layer": [load] * layers, "entropy": 0.31,
                    "coefficient_of_variation": 0.08, "max_vio": 0.09, "max_vio_by_layer": [0.1] * layers,
                    "top1_weight": 0.8,
                    "neighbour_agreement": 0.94, "idle": list(names[3:4])},
        "idle_experts": len(names[3:4]),
        "parameters": {"total": 294_000_000, "active": 135_000_000, "base": 134_515_008},
        "tokens_per_second": {"moe": {"prefill": 610.0, "decode": 21.0}, "base": {"prefill": 655.0, "decode": 24.0},
                              "prompt_tokens": 512, "new_tokens": 32},
        "questions": {listed[0]: {"correct": 5, "asked": 16, "exact_match": 0.3125, "base_exact_match": 0.0625,
                                  "examples": [
            {"question": "What is 3 * 12?", "answer": "36", "reply": "36", "correct": True},
            {"question": "What is 5 * 12?", "answer": "60", "reply": "50", "correct": False}]}},
        "chat": {name: {"prompt": "Hello", "reply": "Bonjour !", "tokens": 4, "stopped": place > 0,
                        "stop": "<|im_end|>" if place else None} for place, name in enumerate(listed)},
        "tasks": {"gsm8k": {"exact_match": 0.123, "alias": "gsm8k"}},
        "samples": {name: {"tokens": _TEXT, "experts": chosen, "weights": [[0.75] * len(_TEXT)] * layers}
                    for name in listed},
        "missing": {}, "notes": ["16 documents per domain are few"], "cached": 0,
    }  # fmt: skip


@pytest.fixture
def report() -> dict[str, Any]:
    """A whole report of three experts, as the demo's."""
    return make()


@pytest.fixture
def many() -> dict[str, Any]:
    """64 experts with long names, four for a token, 48 layers."""
    return make(tuple(f"expert-{index:02d}-of-a-long-name" for index in range(64)), layers=48, top=4)


@pytest.fixture
def foreign() -> dict[str, Any]:
    """A report of a folder that moemerge did not build: no baselines, no domain has an expert."""
    found = make()
    for domain in found["domains"].values():
        lost = ("expert", "base", "specialist", "linear_merge", "oracle_routed", "random_gate", "gain_kept")
        domain.update(dict.fromkeys((*lost, "gain_kept_interval")), gain_kept_note="no base is known", specialists={})
        domain.update(compared={})
        for key in ("intervals", "bits_per_byte", "perplexity"):
            domain[key] = {name: value if name == "moe" else None for name, value in domain[key].items()}
    lost = (
        "gain_kept",
        "gain_kept_interval",
        "gain_kept_ceiling",
        "merge_loss",
        "routing_loss",
        "mend",
        "best_specialist",
    )
    found.update(
        dict.fromkeys(lost),
        baselines={},
        verdict="Nothing to compare with",
        against=dict.fromkeys(found["against"]),
        general=None,
    )
    found["mean"] = {name: value if name == "moe" else None for name, value in found["mean"].items()}
    found["routing"].update(accuracy=None, accuracy_by_layer=[None] * 4)
    found["parameters"]["base"] = None
    found.update(tokens_per_second=None, questions={}, chat={}, tasks={}, samples={})
    found["missing"] = {"base": "moemerge did not build this folder, and it names no base"}
    return found


@pytest.fixture
def hostile() -> dict[str, Any]:
    """A report whose every name and text is as bad as can be."""
    found = make((HOSTILE, f"b{HOSTILE}", "__proto__"))
    found.update(
        dict.fromkeys(("path", "architecture", "dtype", "device", "moemerge", "verdict", "best_specialist"), HOSTILE)
    )
    found["domains"][HOSTILE].update(
        gain_kept=None, gain_kept_note=HOSTILE, compared={HOSTILE: {"nats": 1.0, "bits_per_byte": 1.0}}
    )
    found["notes"], found["missing"], found["tasks"] = [HOSTILE], {HOSTILE: HOSTILE}, {HOSTILE: {HOSTILE: HOSTILE}}
    found["chat"] = {HOSTILE: {"prompt": HOSTILE, "reply": HOSTILE, "tokens": 3, "stopped": True, "stop": HOSTILE}}
    example = {"question": HOSTILE, "answer": HOSTILE, "reply": HOSTILE, "correct": None}
    found["questions"] = {HOSTILE: {"correct": 1, "asked": 2, "exact_match": 0.5, "examples": [example]}}
    found["samples"][HOSTILE]["tokens"] = [HOSTILE, "ע", "ברית", *_TEXT[3:]]
    found["routing"]["idle"] = [HOSTILE]
    return found


@pytest.fixture
def trace() -> Trace:
    """A line of code, one of French with a unicorn of two tokens, and what looks like markup."""
    tokens = ("", "def", " reverse", ":", "\n", "bonjour", " 🦄", "", " [bold]", "\n\n", "</b>")
    first = (0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1)
    second = (0, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1)
    return Trace(
        experts=("code", "french"),
        layers=(0, 1),
        tokens=tokens,
        special=("<s>", *(None,) * 10),
        chosen=tuple(tuple((top, 1 - top) for top in layer) for layer in (first, second)),
        weights=(((0.9, 0.1),) * 11, ((0.6, 0.4),) * 11),
        context=8,
        windows=2,
    )


@pytest.fixture
def explanation() -> Explanation:
    """A token of a mixture of ten experts with a shared one."""
    odds = [2.0 ** -(place + 1) for place in range(9)]
    return Explanation(
        experts=("code", "math", *(f"e{place}" for place in range(2, 10))),
        index=3,
        token=" [red]\n",
        layer=7,
        input_norm=12.3456,
        input_head=(0.5, -1.25, 0.001, 3.0),
        logits=tuple(float(-place) for place in range(10)),
        probabilities=(*odds, 1 - sum(odds)),
        chosen=(0, 1),
        weights=(0.6667, 0.3333),
        expert_norms=(3.0, 6.0),
        sum_norm=3.21,
        shared_weight=0.25,
        shared_norm=0.5,
        output_norm=3.4,
        difference=2e-7,
        tolerance=4e-5,
        dtype="float32",
    )

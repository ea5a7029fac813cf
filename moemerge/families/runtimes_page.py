"""docs/runtimes.md, made from the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moemerge.families.registry import HOSTS
from moemerge.families.runtimes import BAR, RUNTIMES, Run, Runs, Runtime, Traits, measured

HEAD = f"""# Runtimes

What programs other than transformers 5 make of a mixture. `make docs` writes this page from the runs in
`moemerge/families/measured/`. `moemerge plan`, the model card and `moemerge families HOST` speak from the same runs.

Each run builds a tiny mixture with moemerge: four experts, two layers, every tensor random, fp32, and a router that is
soft (no expert takes nearly all the weight). After 1, 3, 9 and 20 tokens the logprobs of the whole vocabulary are
compared with those of transformers 5. A figure is the largest difference, in nats; up to {BAR:g} counts as right.
A test holds that what is right is below 0.00005 and what is wrong above twice the bar. The exception is Gemma 4 in
llama.cpp, which reads GELU from a table of 16-bit numbers: it is off by up to 0.0015. The ids of three texts are
compared too. A mixture `in` a model of more than text is asked texts alone, and its GGUF file has the language model
alone.

**Wrong** means silently wrong: the program loads the mixture and computes something else. `moemerge plan` warns of it.
"""

TRAITS = """`with` names what else the mixture has. For yours the runs of its host count that are nearest to it, and of
these the worst. If yours has something that no run had, this page cannot tell you about it.
"""


EMPTY = "A dash is a mixture that did not run; an empty field was not tried."
OF_CPUS = """vLLM's `deepseek_v3` without yarn is wrong by its kernel for rope on CPUs. With the code that other devices
share in that place (`RotaryEmbedding.forward_cpu = RotaryEmbedding.forward_native` in
`benchmarks/runtimes/ask/with_vllm.py`) it is right, but for tied embeddings, which it does not know.

vLLM's runs were made on an Intel Xeon with AMX too (2026-11-30). Of 120 mixtures 112 are as above. `deepseek_v3` is
refused there, since that kernel asks for bf16 weights. A `qwen2_moe` of Llamas or Mistrals, which gives NaN on the AMD,
gives wrong numbers there.
"""
FAILED = """Everything ran on CPUs: where the message speaks of a CPU or of CUDA, a GPU may run it. An `AttributeError`
of llama.cpp's own converter is its package's, whose converter is newer than the `gguf` library in it; the converter
in llama.cpp's repository was not tried.
"""


def markdown() -> str:
    """The page."""
    known = measured()
    lines = [HEAD, "| runtime | versions | day | CPU | made by |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {_row(runtime, runs)} |" for runtime, runs in known.items()]
    lines += [f"| {runtime.title} | not tried | | | |" for runtime in RUNTIMES if runtime not in known]
    lines += ["", "## What holds what", "", *_summary(known)]
    lines += ["", TRAITS, "## Every run", "", EMPTY, "", *_all(known), "", OF_CPUS.rstrip()]
    lines += ["", "## Why some did not run", "", FAILED, *_errors(known)]
    return "\n".join(lines) + "\n"


def _row(runtime: Runtime, runs: Runs) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in runs.versions.items())
    return f"{runtime.title} | {versions} | {runs.date} | {runs.cpu} | `make runtimes RUNTIME={runtime.name}`"


def _summary(known: Mapping[Runtime, Runs]) -> Iterator[str]:
    yield f"| host | {' | '.join(runtime.title for runtime in known)} |"
    yield "| --- |" + " --- |" * len(known)
    alone = [name for name, host in HOSTS.items() if host.alone]
    run = (run.host for runs in known.values() for run in runs.runs)
    for host in dict.fromkeys([*alone, *run]):
        yield f"| `{host}` | {' | '.join(in_words(runs, host) for runs in known.values())} |"


def in_words(runs: Runs, host: str) -> str:
    """What a runtime makes of a host, in a few words: the plainest run's state, and the traits with another one."""
    plain = runs.plainest(host)
    if plain is None:
        return "not tried"
    own = [run for run in runs.runs if run.host == host]
    alike: Traits = frozenset().union(*(run.traits for run in own if run.state == plain.state))
    others: dict[str, list[str]] = {}
    for run in own:
        if run.state != plain.state:
            beside = run.traits - alike or run.traits - plain.traits
            others.setdefault(_state(run), []).append(" and ".join(sorted(beside)))
    buts = [f"{state} with {', '.join(dict.fromkeys(with_))}" for state, with_ in others.items()]
    return "; ".join([_state(plain), *buts])


def _state(run: Run) -> str:
    return {"right": "right", "wrong": "**wrong**", "fails": "does not run"}[run.state]


def _all(known: Mapping[Runtime, Runs]) -> Iterator[str]:
    cases = dict.fromkeys(run.case for runs in known.values() for run in runs.runs)
    yield f"| mixture | {' | '.join(runtime.title for runtime in known)} |"
    yield "| --- |" + " --- |" * len(known)
    for case in cases:
        found = ({run.case: run for run in runs.runs}.get(case) for runs in known.values())
        yield f"| {case} | {' | '.join(map(_figure, found))} |"


def _figure(run: Run | None) -> str:
    if run is None:
        return ""
    if run.difference is None:
        return "–"
    other = ", other ids" if run.ids is False else ""
    return (f"**{run.difference:.1e}**" if run.state == "wrong" else f"{run.difference:.1e}") + other


def _errors(known: Mapping[Runtime, Runs]) -> Iterator[str]:
    yield "| runtime | what it said | mixtures |"
    yield "| --- | --- | --- |"
    for runtime, runs in known.items():
        said: dict[str, list[str]] = {}
        for run in runs.runs:
            if run.error is not None:
                said.setdefault(run.error, []).append(run.case)
        for error, cases in said.items():
            shown = error.replace("|", r"\|").replace("`", "'")
            yield f"| {runtime.title} | `{shown}` | {'; '.join(cases)} |"


if __name__ == "__main__":
    print(markdown(), end="")

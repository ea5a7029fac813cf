"""The part of the model card that says what else runs the mixture, by what was measured of others like it."""

from __future__ import annotations

from collections.abc import Iterator

from moemerge.families.gguf_form import TEXT_ALONE
from moemerge.families.runtimes import Run, Runs, Runtime, known_of, run_as
from moemerge.plan.model import Plan
from moemerge.write.markdown import code


def engines(plan: Plan) -> str:
    """How to run it in each runtime that was right, and what the others make of it; nothing where none was tried."""
    known = list(known_of(plan.host, plan.traits))
    if not known:
        return "Whether engines other than transformers 5 read it was not tried."
    listed = "\n".join(f"- {_said(runtime, runs, run)}" for runtime, runs, run in known)
    commands = "\n".join(_commands(runtime for runtime, _, run in known if run.state == "right"))
    shown = f"\n\n```sh\n{commands}\n```" if commands else ""
    texts = "" if plan.host.wrapper is None else f"\n\nTexts alone were compared. As for GGUF, {TEXT_ALONE}."
    had = f" ({', '.join(sorted(plan.traits))})" if plan.traits else ""
    return (
        f"Other engines were tried on tiny mixtures of the class `{run_as(plan.host)}`{had}, and compared with "
        f"transformers 5. None of them was run on this very model:\n\n{listed}{shown}{texts}"
    )


def _commands(right: Iterator[Runtime]) -> Iterator[str]:
    """Each runtime's, below its name: they are not one after the other."""
    for runtime in right:
        yield f"# {runtime.title.replace('`', '')}"
        yield from runtime.commands


def _said(runtime: Runtime, runs: Runs, run: Run) -> str:
    head = f"{runtime.title}, tried with {runs.versions[runtime.package]}:"
    if run.error is not None:
        return f"{head} does not run it: {code(run.error)}"
    if run.state == "wrong":
        return f"{head} **silently wrong**, logprobs up to {run.difference:.1g} nats off"
    return f"{head} right"

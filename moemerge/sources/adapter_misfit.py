"""Why an adapter does not fit: its tensors and the reason, which is not always another base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moemerge.errors import SourceError
from moemerge.sources.checkpoint import Checkpoint
from moemerge.sources.saved import Cause, Shape, part_of

Reason = Literal["base", "kind", "bias", "config", "file", "rows"]
"""Another base than it was trained on; a model of another kind; biases where the base has none; a config of another
training; a save that is not whole; resized embeddings."""
SHOWN = 12
WRITES = "CAUSAL_LM"
"""The `task_type` of a model that writes text, as every expert does."""

CURES: Mapping[Reason, str] = {
    "base": "it is not the model that the adapter was trained on, though it is called so: another size, or another "
    "vocabulary",
    "kind": "it is not the model that the adapter was trained on, though it is called so: another kind of model, or "
    "one with more to it",
    "bias": "`lora_bias: true` trains biases, and the base has none to add them to; peft cannot merge it either: train "
    "it with `lora_bias: false`",
    "config": "its `adapter_config.json` is of another training than its weights: take both from one folder",
    "file": "save it again with peft's `save_pretrained`",
    "rows": "it was trained on a base with resized embeddings; save both ends with it "
    "(`save_embedding_layers=True`), or merge it with peft where it was trained",
}


@dataclass(frozen=True, slots=True)
class Misfit:
    """One tensor that fits nothing.

    Attributes:
        line: what is said of it.
        reason: why.
        shapes: its shape and what it should be, where that is what is wrong.
    """

    line: str
    reason: Reason
    shapes: tuple[Shape, Shape] | None = None


def refuse(
    spec: str,
    misfits: Sequence[Misfit],
    held: int,
    base: Checkpoint,
    trained_on: str | None,
    *,
    task: str | None,
    same_base: bool,
) -> SourceError:
    """The error that lists what does not fit, with the one reason that explains most.

    Args:
        spec: the adapter.
        misfits: what does not fit, at least one.
        held: how many tensors the adapter has.
        base: the model that it is put on.
        trained_on: its base's name in its config.
        task: what it was trained for, as its config says.
        same_base: whether that is `base`, as far as names tell.
    """
    shapes = [misfit.shapes for misfit in misfits if misfit.shapes is not None]
    part = part_of(shapes) if len(shapes) == len(misfits) else None
    listed = _list([misfit.line for misfit in misfits], held)
    if part is not None:
        return SourceError(
            f"Adapter `{spec}` holds tensors that {part.what}: {listed}", hint=part.cure, code="parts-of-tensors"
        )
    reasons = {misfit.reason for misfit in misfits}
    reason = next(reason for reason in CURES if reason in reasons)
    hint = CURES[reason]
    if reason == "kind" and task not in (None, WRITES):
        hint = (
            f"it was trained for another task (`task_type: {task}`), and an expert writes text: train it as `{WRITES}`"
        )
    elif reason in ("base", "kind") and not same_base:
        hint = f"it was trained on `{trained_on}`" if trained_on else "name the base that it was trained on"
    return SourceError(
        f"Adapter `{spec}` does not fit base `{base.spec}`: {listed}", hint=hint, code="adapter-mismatch"
    )


def refuse_wrapped(spec: str, wrapped: Mapping[str, Cause], held: int) -> SourceError:
    """The error for names that tell of a wrapper."""
    cause = next(iter(wrapped.values()))
    listed = _list([name for name, found in wrapped.items() if found == cause], held)
    return SourceError(
        f"Adapter `{spec}` names its tensors {cause.what}: {listed}", hint=cause.cure, code="wrapped-names"
    )


def _list(lines: Sequence[str], held: int) -> str:
    shown = "".join(f"\n  {line}" for line in lines[:SHOWN])
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(lines)} of {held} tensors{shown}{more}"

"""plan → gate → write → verify: the one way from a recipe to a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.build.texts import read_gate_texts, reads_texts, text_problems
from moemerge.console import Progress, Silent
from moemerge.device import processor
from moemerge.errors import GateError, MoemergeError, PlanError, Problem, RecipeError, VerifyError, cause_of
from moemerge.kept import cache_folder
from moemerge.plan import Plan
from moemerge.plan.cost import gate_computing, runs_models
from moemerge.recipe import Recipe, file_path
from moemerge.sources.saved import other_weights

if TYPE_CHECKING:
    import torch

    from moemerge.gate import GateFit, GateTexts
    from moemerge.gate.blank import BlankGate
    from moemerge.verify import Verification

SAMPLES = "gate_samples.jsonl"
"""The texts that the specialists wrote for the gate."""
STATISTICS = "gate_statistics.safetensors"
"""The gate's sufficient statistics, where the recipe keeps them."""


@dataclass(frozen=True)
class Build:
    """A finished build.

    Attributes:
        path: the folder.
        plan: what was done.
        gate: how the router was made.
        verification: what the check at the end found.
        warnings: everything the user should know: the plan's, the texts', the gate's, and what could not be tidied up.
        computed: how models ran for the gate: `dtype`, `device`, `threads`, `processor`. Another processor or number of
            threads rounds otherwise, and gives a gate of slightly other bytes. None where none ran.
        found: those of the warnings that reading the experts' weights and texts gave.
    """

    path: Path
    plan: Plan
    gate: GateFit | BlankGate
    verification: Verification
    warnings: tuple[Problem, ...]
    computed: Mapping[str, Any] | None = None
    found: tuple[Problem, ...] = ()


def output_path(recipe: Recipe, root: Path, output: Path | str | None) -> Path:
    """The output folder: `output` as the shell sees it, else the recipe's, relative to the recipe.

    Raises:
        RecipeError: neither names one, or what they name can be no path.
    """
    if output is None and recipe.output.path is None:
        raise RecipeError("no output folder is named", hint="pass `-o FOLDER`, or set `output.path` in the recipe")
    named = str(output) if output is not None else str(recipe.output.path)
    if not _is_text(named):
        raise RecipeError(f"output {named!r} is not a path in UTF-8", hint="choose another with `-o`")
    path = file_path(Path.cwd() if output is not None else root, named).absolute()
    return path.resolve() if ".." in path.parts else path


def _is_text(path: str) -> bool:
    """Whether a path can be written into the record: no NUL, no bytes that are not UTF-8."""
    try:
        return b"\0" not in path.encode()
    except UnicodeEncodeError:
        return False


def build_plan(
    plan: Plan,
    output: Path,
    *,
    root: Path,
    overwrite: bool = False,
    device: str = "cpu",
    cache: bool = True,
    progress: Progress | None = None,
) -> Build:
    """Builds a plan; see `moemerge.api.build`."""
    from moemerge.build.idle import idle_experts
    from moemerge.build.readable import begin_check
    from moemerge.build.record import make_record
    from moemerge.gate.tempered import tempered
    from moemerge.verify import EarlyChecks, verify_folder
    from moemerge.write import check_output, needed_bytes, remove_orphan, staged, write_folder

    progress = progress or Silent()
    output = Path(output)
    untidy: list[Problem] = []

    def warn(text: str) -> None:
        progress.note(f"warning: {text}")
        untidy.append(Problem("left-over", text))

    missing = [model for model in plan.models.values() if not model.has_weights]
    if missing:
        raise PlanError(
            Problem("no-weights", f"`{model.spec}` has a config and no weights", other_weights(model.location))
            for model in missing
        )
    kept = cache_folder() if cache else None
    check_readable = begin_check(plan, kept)
    for orphan in check_output(output, overwrite=overwrite, needed=needed_bytes(plan)):
        progress.note(f"removing `{orphan.name}`, left by a build that was killed")
        for text in remove_orphan(orphan, output):
            warn(text)
    found = idle_experts(plan)
    texts = read_gate_texts(plan, root, found, progress)
    dtype = _computing_dtype(plan, device, progress) if runs_models(plan) else None
    if reads_texts(plan):
        check_readable()
        if refused := list(text_problems(plan, texts)):
            raise PlanError(refused)
    with _naming_damage(plan):
        if plan.recipe.merge.shared == "auto":
            from moemerge.build.choose import choose_shared_merge

            plan, own = choose_shared_merge(plan, texts.experts, device=device, dtype=dtype, progress=progress)
            texts = replace(texts, experts=own)
        gate = fit_router(plan, texts, device=device, dtype=dtype, kept=kept, progress=progress)
    if plan.host.routing.score == "sigmoid":
        gate = tempered(gate, plan.recipe.experts_per_token)
    computed = None if dtype is None else _computed(dtype, device)
    near = _near(plan, texts, gate, device, progress) if plan.host.near is not None else None
    record = make_record(plan, root, output, gate=_account(plan, gate, computed), near=near)
    with (
        staged(output, overwrite=overwrite, warn=warn) as folder,
        EarlyChecks(folder, record, plan.opened) as early,
    ):
        write_folder(
            folder,
            plan,
            gate.weights,
            output=output,
            record=record,
            extra=_extra(gate),
            progress=progress,
            written=early.written,
        )
        check_readable()
        verification = verify_folder(
            folder, level="built", root=root, checkpoints=plan.opened, early=early, progress=progress
        )
        if not verification.ok:
            listed = "\n  ".join(f"{d.where}: {d.message}" for d in verification.differences[:8])
            raise VerifyError(f"the build does not verify, so nothing was kept:\n  {listed}")
    return Build(
        output, plan, gate, verification, (*plan.warnings, *found, *gate.warnings, *untidy), computed, tuple(found)
    )


def _near(plan: Plan, texts: GateTexts, gate: GateFit | BlankGate, device: str, progress: Progress) -> dict[str, Any]:
    """What a near host's error is, for the record.

    Raises:
        PlanError: it is larger than the recipe allows.
    """
    from moemerge.build.near import LIMIT, measure_near
    from moemerge.dense.models import load_tokenizer

    tokenizer = load_tokenizer(plan) if reads_texts(plan) and not texts.silent else None
    found = measure_near(plan, texts, gate.weights, tokenizer, device, progress)
    said = f"the logits of `{plan.host.model_type}` with all experts alike are {found.error:.1e} off the dense model's"
    if not (found.error <= LIMIT or plan.recipe.near):
        hint = "`near: true` in the recipe builds it all the same; measure what it costs with `moemerge eval`"
        raise PlanError([Problem("near-miss", f"{said}, relative: more than {LIMIT:g}", hint)])
    progress.note(f"{said} (relative, {found.tokens} tokens)")
    return {"error": float(f"{found.error:.3g}"), "tokens": found.tokens}


@contextmanager
def _naming_damage(plan: Plan) -> Iterator[None]:
    """Where models compute NaN because a source holds NaN or Inf, names that source's tensor: whether a NaN comes
    through at all, and where it is seen first, is up to the CPU's kernels."""
    from moemerge.write.damage import CODE, first_damaged

    try:
        yield
    except MoemergeError as error:
        if error.code != CODE:
            raise
        damaged = first_damaged(plan)
        if damaged is None:
            raise
        raise damaged from error


def _computing_dtype(plan: Plan, device: str, progress: Progress) -> torch.dtype:
    """The dtype that the models run in; where it is not the weights' own, that is said."""
    import torch

    chosen = gate_computing(plan, device)
    if chosen.why is not None:
        progress.note(f"{chosen.why} (`gate.dtype` overrides it)")
    dtype: torch.dtype = getattr(torch, chosen.dtype)
    return dtype


def fit_router(
    plan: Plan,
    texts: GateTexts,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> GateFit | BlankGate:
    """Fits the gate of a plan without problems on its texts; see `moemerge.gate.fit_gate`.

    Args:
        plan: what is built.
        texts: the experts', or a pool.
        device: where the models run.
        dtype: that they run in; what suits the machine when None.
        kept: folder where what specialists write is kept for the next build; None keeps nothing.
        progress: how to report.
    """
    from moemerge.gate.blank import blank_gate
    from moemerge.gate.request import CONTEXT, FITTED, MERGEKIT, GateRequest

    recipe = plan.recipe
    request = GateRequest(
        init=recipe.gate.init,
        experts=texts.experts,
        layers=plan.dense.routed_layers,
        hidden_size=plan.dense.hidden_size,
        experts_per_token=recipe.experts_per_token,
        rule=plan.host.routing,
        seed=recipe.seed,
        ridge=recipe.gate.ridge,
        expand=recipe.gate.expand,
        template=recipe.template,
        max_tokens=recipe.gate.max_tokens,
        context=min(CONTEXT, plan.dense.max_position_embeddings),
        keep_statistics=recipe.gate.keep_statistics,
        pool=texts.pool,
        kept=kept,
    )
    if recipe.gate.init not in FITTED | MERGEKIT:
        return blank_gate(request)
    import torch

    from moemerge.dense.layerwise import LayerwiseModels
    from moemerge.dense.models import load_tokenizer
    from moemerge.gate import fit_gate

    dtype = dtype or _computing_dtype(plan, device, progress or Silent())
    try:
        return fit_gate(request, LayerwiseModels(plan, device, dtype), load_tokenizer(plan), progress)
    except torch.OutOfMemoryError as error:
        message = f"`--device {device}` has too little memory for the gate: {cause_of(error)}"
        raise GateError(message, hint="leave `--device` out to use the CPU") from error


def _computed(dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What the bytes of a gate depend on beside the recipe and the sources."""
    import torch

    kind = device.partition(":")[0]
    where = {"threads": torch.get_num_threads(), "processor": processor()} if kind == "cpu" else {}
    return {"dtype": str(dtype).removeprefix("torch."), "device": kind, **where}


def _account(plan: Plan, gate: GateFit | BlankGate, computed: Mapping[str, Any] | None) -> dict[str, Any]:
    """The gate as the record and the model card tell it."""
    return {
        "init": plan.recipe.gate.init,
        "ridge": gate.ridge,
        "scale": [round(scale, 6) for scale in gate.scale],
        "separation": [None if value is None else round(value, 4) for value in gate.separation],
        "tokens": {expert.name: tokens for expert, tokens in zip(plan.experts, gate.tokens, strict=True)},
    } | ({} if computed is None else {"computed": dict(computed)})


def _extra(gate: GateFit | BlankGate) -> Mapping[str, bytes]:
    files: dict[str, bytes] = {}
    if gate.samples:
        lines = [
            json.dumps({"expert": name, "text": text}, ensure_ascii=False)
            for name, texts in gate.samples.items()
            for text in texts
        ]
        files[SAMPLES] = ("\n".join(lines) + "\n").encode()
    if gate.statistics is not None:
        from safetensors.torch import save

        statistics = gate.statistics
        metadata = {
            "tokens": json.dumps(statistics.tokens),
            "negative_tokens": json.dumps(statistics.negative_tokens),
        }
        tensors = {
            "second": statistics.second.contiguous(),
            "means": statistics.means.contiguous(),
            "negative_means": statistics.negative_means.contiguous(),
        }
        files[STATISTICS] = save(tensors, metadata=metadata)
    return files

"""The commands' verbs as functions: `from moemerge import api`, then `api.build("recipe.yaml", "out/moe")`.

Each loads what it needs when it is called, so importing this costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.console import Progress, Silent

if TYPE_CHECKING:
    from moemerge.build.run import Build
    from moemerge.evaluate.options import EvalOptions
    from moemerge.export import Exported
    from moemerge.init import Draft
    from moemerge.mixture.processes import Processes
    from moemerge.options import GgufType
    from moemerge.plan import Plan, Refused
    from moemerge.push import Pushed
    from moemerge.recipe import Recipe
    from moemerge.train.options import TrainOptions
    from moemerge.train.run import TrainResult
    from moemerge.verify import Verification


def init(
    file: Path | str,
    base: str,
    experts: Mapping[str, str],
    prompts: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    *,
    allow_pickle: bool = False,
) -> Draft:
    """Looks at models and writes a recipe for them, as `moemerge init` does.

    Args:
        file: the recipe, which must not exist. Paths in it are relative to its folder.
        base: the base model: a folder, hub id or GGUF file.
        experts: the specialists' models by their names, which choose the prompts that are suggested.
        prompts: for some of them, a file of prompts or the name of a domain (`moemerge.init.DOMAINS`).
        texts: for some of them, a file of texts of its domain that `eval` is to measure on.
        allow_pickle: reads `.bin` sources, tensors only.

    Returns:
        What was written, what the models are, and what is still to fill in.

    Raises:
        MoemergeError: every mistake in what was asked, or every reason why these models make no mixture; nothing is
            then written.
    """
    from moemerge.init import draft_recipe, wanted_of, write_new

    named = [f"{name}={model}" for name, model in experts.items()]
    given = [f"{name}={text}" for name, text in (prompts or {}).items()]
    measured = [f"{name}={text}" for name, text in (texts or {}).items()]
    wanted = wanted_of(base, named, given, Path.cwd(), measured, allow_pickle=allow_pickle)
    draft = draft_recipe(wanted, Path(file), Path.cwd())
    write_new(Path(file), draft.text)
    return draft


def plan(recipe: Recipe | Path | str, *, root: Path | None = None) -> Plan | Refused:
    """Checks a recipe and says what a build would do, as `moemerge plan` does; reads no weights.

    Args:
        recipe: a recipe, or the path of one.
        root: folder that a `Recipe`'s relative paths are relative to; the working folder when None.

    Returns:
        The plan, or all of its problems.

    Raises:
        MoemergeError: the recipe cannot be read.
    """
    from moemerge.build.rehearse import rehearsed
    from moemerge.plan import Refused, make_plan

    loaded, where = _loaded(recipe, root)
    made = make_plan(loaded, where)
    return made if isinstance(made, Refused) else rehearsed(made, where)


def _loaded(recipe: Recipe | Path | str, root: Path | None) -> tuple[Recipe, Path]:
    """A recipe, and the folder that its relative paths are relative to."""
    from moemerge.recipe import Recipe, load_recipe

    if isinstance(recipe, Recipe):
        return recipe, root or Path.cwd()
    loaded = load_recipe(Path(recipe))
    return loaded.recipe, loaded.root


def build(
    recipe: Recipe | Path | str,
    output: Path | str | None = None,
    *,
    root: Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    cache: bool = True,
    progress: Progress | None = None,
) -> Build:
    """Builds a MoE checkpoint, as `moemerge build` does.

    Args:
        recipe: a recipe, or the path of one.
        output: the folder that appears; the recipe's `output.path` when None.
        root: folder that a `Recipe`'s relative paths are relative to; the working folder when None.
        overwrite: replaces `output` where moemerge made it.
        device: torch device for the gate's models.
        cache: whether what specialists write and what transformers has read is kept, and used again where it was kept.
        progress: how to report.

    Returns:
        The build, verified.

    Raises:
        MoemergeError: anything that the user can mend; `output` is then untouched.
    """
    from moemerge.build.run import build_plan, output_path
    from moemerge.plan import sound_plan

    recipe, root = _loaded(recipe, root)
    target = output_path(recipe, root, output)
    made = sound_plan(recipe, root)
    return build_plan(made, target, root=root, overwrite=overwrite, device=device, cache=cache, progress=progress)


def verify(
    folder: Path | str, *, sources: bool | None = None, strict: bool = False, progress: Progress | None = None
) -> Verification:
    """Checks a folder that a build made, as `moemerge verify` does.

    Args:
        folder: the folder.
        sources: True downloads sources where needed, and an absent one is a difference; None compares with those that
            are at hand; False with none.
        strict: a source that is absent or changed is a difference, and so is a training beside the router's.
        progress: is told bytes.

    Raises:
        VerifyError: moemerge did not make the folder.
        ValueError: `strict` with `sources=False`.
    """
    from moemerge.verify import verify_folder

    return verify_folder(folder, sources=sources, strict=strict, progress=progress)


def evaluate(
    folder: Path | str, options: EvalOptions | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measures a mixture, as `moemerge eval` does.

    Args:
        folder: a folder that a build made, or another mixture that transformers loads.
        options: what is measured and how (`moemerge.evaluate.options`); the folder's own recipe says it when None.
        progress: how to report.

    Returns:
        The report; docs/evaluation.md has its names.

    Raises:
        MoemergeError: anything that the user can mend.
    """
    from moemerge.evaluate.options import EvalOptions
    from moemerge.evaluate.run import evaluate_folder
    from moemerge.mixture.processes import join_processes

    return evaluate_folder(Path(folder), options or EvalOptions(), progress or Silent(), join_processes())


def export(
    folder: Path | str,
    gguf: Path | str,
    *,
    kind: GgufType = "f16",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Writes a mixture as a GGUF file for llama.cpp and Ollama, as `moemerge export` does.

    Args:
        folder: the mixture's.
        gguf: the file to write.
        kind: the type of its matrices: `f32`, `f16`, `bf16` or `q8_0`.
        overwrite: whether a file of that name that this wrote may be replaced.
        progress: told of the bytes that are written.

    Raises:
        MoemergeError: the folder cannot be read, llama.cpp would compute something else, or the file cannot be written.
    """
    from moemerge.export import export_gguf

    return export_gguf(Path(folder), Path(gguf), kind, progress or Silent(), overwrite=overwrite)


def push(
    folder: Path | str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    gguf: Path | str | None = None,
    report: Path | str | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Publishes a built folder on the hub with its model card, as `moemerge push` does.

    Args:
        folder: a folder that a build made; it is never touched.
        repo: the repository's id, `owner/name`; it is made where it is not there.
        private: makes one that nobody else sees.
        revision: the branch; `main` when None.
        gguf: a file that `export` wrote of the folder, which is published too.
        report: the figures of `evaluate` in a JSON file, which the card shows.
        progress: is told of the bytes that are read and sent.

    Returns:
        What was published.

    Raises:
        MoemergeError: the folder changed, something does not fit, or the hub does not let it.
    """
    from moemerge.push import prepare, push_folder

    reporter = progress or Silent()
    parcel = prepare(Path(folder), repo, reporter, gguf=_path(gguf), report=_path(report))
    return push_folder(parcel, reporter, revision=revision, private=private)


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def train_router(
    folder: Path | str,
    output: Path | str,
    options: TrainOptions | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> TrainResult:
    """Trains the router of a folder, as `moemerge train-router` does.

    Args:
        folder: a folder that a build made; it is never touched.
        output: the folder that appears.
        options: what is wanted (`moemerge.train.options`); the defaults when None.
        progress: how to report.
        processes: those that share the work; those of `accelerate launch` when None.
        overwrite: replaces `output` where moemerge made it.
        resume: goes on with an interrupted training of `output`.

    Returns:
        What came of it.

    Raises:
        MoemergeError: anything that the user can mend; `output` is then untouched.
    """
    from moemerge.mixture.processes import join_processes
    from moemerge.train.options import TrainOptions
    from moemerge.train.run import train_folder

    return train_folder(
        Path(folder), Path(output), options or TrainOptions(), progress or Silent(), processes or join_processes(),
        overwrite=overwrite, resume=resume,
    )  # fmt: skip

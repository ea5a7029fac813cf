"""What must hold between base and specialists. Every check appends to a list; none stops at the first problem."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moemerge.errors import MoemergeError, Problem, SourceError
from moemerge.families import DENSE_FAMILIES, DenseConfig
from moemerge.families.values import same_activation, same_rope
from moemerge.plan.tokens import (
    Kept,
    blank_templates,
    check_base_tokenizer,
    check_end,
    check_settings,
    check_tokenizer,
)
from moemerge.recipe import Recipe, file_path
from moemerge.recipe.checks import EXPANDED, WITHOUT_PROMPTS
from moemerge.recipe.schema import Data, Rows
from moemerge.sources import Checkpoint
from moemerge.sources.config import MEND, PLAIN, WAY_OUT
from moemerge.sources.renamed import holder_of, inner_name
from moemerge.sources.saved import FSDP, Shape, held_as, other_weights, part_of, stranger, wrapper_of
from moemerge.texts import check_texts, is_absent, read_prompts_file

_SAME: Mapping[str, str] = {
    "family": "model type",
    "hidden_size": "hidden size",
    "layers": "number of layers",
    "heads": "number of attention heads",
    "kv_heads": "number of key-value heads",
    "head_dim": "head dimension",
    "hidden_act": "activation",
    "norm_eps": "norm epsilon (`{norm_eps}`)",
    "rope": "rope (`rope_parameters`)",
    "thetas": "rope of each layer (its base, 0 for none)",
    "windows": "sliding window",
    "kinds": "kinds of layers (`layer_types`)",
    "qkv_bias": "attention bias",
    "output_bias": "attention output bias",
    "mlp_bias": "FFN bias",
    "extra": "multipliers",
}
"""Fields of `DenseConfig` that base and specialist must share, in a reader's words."""

_SIMILAR = 0.8
"""Jaccard similarity of two prompts' word sets above which they are called too similar to tell experts apart."""

_WRITES = "ForCausalLM"
"""What the names of transformers' classes end in whose models write text."""

_AGAIN = "download or copy the model again"

_LISTED = 4
"""Tensors that a message names before it counts the rest."""


def label_of(key: str) -> str:
    """What messages call a model."""
    return "`base_model`" if key == "base" else f"expert `{key}`"


def check_model(
    checkpoint: Checkpoint,
    base: Checkpoint,
    dense: DenseConfig,
    kept: Kept,
    label: str,
    problems: list[Problem],
    warnings: list[Problem],
) -> int | None:
    """Checks one model's config, tensors and tokenizer against the base; `kept` has the settings of the output.

    Returns:
        Its FFN width, or None when its config cannot be used at all.
    """
    if checkpoint.config.get("model_type") not in DENSE_FAMILIES:
        message = f"{label} is a `{checkpoint.config.get('model_type')}`, and the base is a `{dense.family}`"
        problems.append(Problem("family-differs", message, "experts must be fine-tunes of the base"))
        return None
    try:
        own = DenseConfig.resolve(checkpoint.config)
    except ValueError as error:
        problems.append(bad_config(checkpoint, label, error))
        return None
    if checkpoint is base:
        check_base_tokenizer(base, dense.vocab_size, label, problems, warnings)
    else:
        _check_config(own, dense, label, problems, warnings)
        check_tokenizer(checkpoint, base, kept, own.vocab_size, label, problems, warnings)
    if checkpoint.has_weights:
        found: list[Problem] = []
        _check_tensors(checkpoint, own, label, found)
        if checkpoint.kind == "adapter":  # what is wrong with its base is said of that
            said = {problem.message.removeprefix(label_of("base")) for problem in problems}
            found = [problem for problem in found if problem.message.removeprefix(label) not in said]
        problems += found
    elif checkpoint.kind == "folder":
        message = f"{label} has a config and no weights: it can be planned, not built"
        warnings.append(Problem("no-weights", message, other_weights(checkpoint.location)))
    return own.intermediate_size


def bad_config(checkpoint: Checkpoint, label: str, error: ValueError) -> Problem:
    """A value of a config that no model has."""
    hint = "convert the model again" if checkpoint.kind == "gguf" else MEND
    return Problem("bad-config", f"{label}: in its config {error}", hint)


def _check_config(
    own: DenseConfig, dense: DenseConfig, label: str, problems: list[Problem], warnings: list[Problem]
) -> None:
    for field, words in _SAME.items():
        mine, theirs = getattr(own, field), getattr(dense, field)
        by_layer = field in ("thetas", "windows")
        if (
            mine == theirs
            or (by_layer and own.layers != dense.layers)
            or (field == "thetas" and own.rope != dense.rope)
        ):
            continue
        if field == "rope" and same_rope(mine, theirs):
            continue
        if field == "hidden_act" and same_activation(mine, theirs):
            continue
        hint = "experts must be fine-tunes of the base"
        if field == "windows":
            mine, theirs = own.windows_in_words(), dense.windows_in_words()
            hint = "if that is the only difference, `sliding_window: base` or an expert's name says whose holds"
        elif field in ("rope", "thetas"):
            hint = "if only its config was changed (for YaRN, say), give it the base's there; an expert that was "
            hint += "trained with another rope fits no such base"
        code = f"{field.replace('_', '-')}-differs"
        named = words.format(norm_eps=dense.row.norm_eps)
        message = f"{label} does not fit the base: {named} is {_show(mine)}, the base's is {_show(theirs)}"
        problems.append(Problem(code, message, hint))
    if own.max_position_embeddings != dense.max_position_embeddings:
        mine, theirs = own.max_position_embeddings, dense.max_position_embeddings
        message = f"{label} has a context of {mine} tokens, the base's is {theirs}: the base's is kept"
        warnings.append(Problem("context-differs", message))


def check_special(checkpoint: Checkpoint, kept: Kept, key: str, label: str, warnings: list[Problem]) -> None:
    """Says where a model's special tokens and chat template are not those that the output has, and, of the model whose
    they are, where they contradict each other."""
    try:
        if checkpoint is kept.checkpoint:
            check_end(checkpoint, label, warnings)
            return
        own, theirs = DenseConfig.resolve(checkpoint.config), DenseConfig.resolve(kept.checkpoint.config)
        for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
            mine, other = getattr(own, field), getattr(theirs, field)
            if mine != other:
                message = f"{label} has `{field}` {_show(mine)}, {kept.whose} is {_show(other)}: {kept.whose} is kept"
                warnings.append(Problem("special-token-differs", message))
        check_settings(checkpoint, kept, key, label, warnings)
    except (SourceError, ValueError, KeyError):
        return  # what cannot be read is a problem already


def check_templates(models: Mapping[str, Checkpoint], warnings: list[Problem]) -> None:
    """Says which models have a chat template that is none."""
    blank = blank_templates(models)
    if blank:
        listed = " and ".join(filter(None, [", ".join(map(label_of, blank[:-1])), label_of(blank[-1])]))
        message = f"the chat template of {listed} is blank, which counts as none"
        warnings.append(Problem("blank-template", message, "save the tokenizer with the template that it was tuned on"))


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "`" + json.dumps(dict(value), sort_keys=True) + "`"
    return f"`{value}`"


def _check_tensors(checkpoint: Checkpoint, own: DenseConfig, label: str, problems: list[Problem]) -> None:
    """Names, shapes and dtypes. Where a wrapper or a save of parts explains what is wrong, that is said instead."""
    expected, held = dict(own.tensors()), checkpoint.tensors
    extra = [
        name
        for name in held
        if name not in expected
        and name not in checkpoint.beside
        and not own.is_unread(name)
        and not (own.tied and name == own.row.names.head)
    ]
    wrapped = {name: cause for name in extra if (cause := wrapper_of(name)) and inner_name(name) in expected}
    if flat := [name for name in extra if stranger(name) == FSDP]:
        message = f"{label} holds tensors that {FSDP.what}: {_list(flat, len(held))}"
        problems.append(Problem("parts-of-tensors", message, FSDP.cure))
        return
    wrapped |= {name: cause for name in extra if (cause := stranger(name))}
    inside = {inner_name(name) for name in wrapped}
    missing = [name for name in expected if name not in held and name not in inside]
    if found := holder_of((name for name in extra if name not in wrapped), missing):
        holder, names = found
        wrapped |= dict.fromkeys(names, held_as(holder))
        missing = [name for name in missing if name not in names.values()]
    extra = [name for name in extra if name not in wrapped]
    wrong = {name: info.shape for name, info in held.items() if name in expected and info.shape != expected[name]}
    for cause in dict.fromkeys(wrapped.values()):
        named = [name for name, found in wrapped.items() if found == cause]
        message = f"{label} names its tensors {cause.what}: {_list(named, len(held))}"
        problems.append(Problem("wrapped-names", message, cause.cure))
    if missing:
        message = f"{label} lacks {_list(missing, len(expected))}"
        problems.append(Problem("missing-tensor", message, _cure_of_missing(checkpoint, own, missing)))
    if extra:
        message = f"{label}: `{own.family}` has no place for {_list(extra, len(held))}"
        hint = "a build would silently drop them; remove them, or use the checkpoint they belong to"
        problems.append(Problem("extra-tensor", message, hint))
    lines = [f"{name}: {_shape(shape)}, its config says {_shape(expected[name])}" for name, shape in wrong.items()]
    if wrong and (part := part_of((shape, expected[name]) for name, shape in wrong.items())):
        message = f"{label} holds tensors that {part.what}: {_list(lines, len(expected))}"
        problems.append(Problem("parts-of-tensors", message, part.cure))
    elif wrong:
        message = f"{label} differs in the shape of {_list(lines, len(expected))}"
        problems.append(Problem("shape-mismatch", message, _cure_of_shapes(own, wrong, expected)))
    odd = [f"{name}: {held[name].dtype}" for name in expected if name in held and held[name].dtype not in PLAIN]
    if odd:
        kinds = {"FP8" if line.rpartition(": ")[2].startswith("F8") else "whole numbers" for line in odd}
        message = f"{label} is quantised ({' and '.join(sorted(kinds))}): {_list(odd, len(expected))}"
        problems.append(Problem("dtype", message, WAY_OUT))


def _cure_of_missing(checkpoint: Checkpoint, own: DenseConfig, missing: list[str]) -> str:
    classes = checkpoint.config.get("architectures")
    kind = str(classes[0]) if isinstance(classes, list) and classes else _WRITES
    if own.row.names.head in missing and not kind.endswith((_WRITES, "ForConditionalGeneration")):
        return f"it was saved as a `{kind}`, and an expert writes text: save it as a `...{_WRITES}`, with its head"
    if missing == [own.row.names.head]:
        return (
            "if its head is its embedding, set `tie_word_embeddings: true` in its config; if not, save it again with "
            "its head"
        )
    return f"{_AGAIN}, or set its config right if that is of another model"


def _cure_of_shapes(own: DenseConfig, wrong: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str:
    """A hint on shapes that are not the config's: the number of rows may be all that is wrong there."""
    ends, rows = (
        {own.row.names.embedding, own.row.names.head} & expected.keys(),
        {shape[:1] for shape in wrong.values()},
    )
    if wrong.keys() == ends and len(rows) == 1 and all(wrong[name][1:] == expected[name][1:] for name in ends):
        return f"set `vocab_size: {rows.pop()[0]}` in its config if its tokenizer has no more tokens"
    return "take its config and its weights from one folder: one of them is of another model"


def _shape(shape: Shape) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _list(lines: list[str], total: int) -> str:
    rest = f"\n  and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return f"{len(lines)} of {total} tensors:\n  " + "\n  ".join(lines[:_LISTED]) + rest


def check_licences(models: Mapping[str, Checkpoint], warnings: list[Problem]) -> None:
    """Warns where the models' stated licences differ."""
    licences = {key: checkpoint.licence for key, checkpoint in models.items() if checkpoint.licence}
    if len(set(licences.values())) > 1:
        listed = ", ".join(f"`{key}`: {licence}" for key, licence in licences.items())
        message = f"the models' licences differ ({listed})"
        warnings.append(Problem("licences-differ", message, "read them before you publish the merge"))


def check_prompts(recipe: Recipe, root: Path, problems: list[Problem], warnings: list[Problem]) -> None:
    """Reads prompt files, looks into local files of texts, and compares the prompts of different experts."""
    prompts: list[tuple[str, tuple[str, ...]]] = []
    for index, expert in enumerate(recipe.experts):
        lines = expert.prompts
        if expert.prompts_file is not None:
            with _of_key(f"experts[{index}].prompts_file", problems):
                lines = read_prompts_file(file_path(root, expert.prompts_file))
        if expert.data is not None:
            with _of_key(f"experts[{index}].data", problems):
                check_texts(expert.data, root)
        prompts.append((expert.name, lines))
    if recipe.gate.data is not None:
        with _of_key("gate.data", problems):
            check_texts(recipe.gate.data, root)
    if recipe.gate.init not in EXPANDED | WITHOUT_PROMPTS:
        unread = [f"`{expert.name}`" for expert in recipe.experts if expert.data is not None]
        if unread:
            message = f"the gate `{recipe.gate.init}` reads prompts alone, and not the `data` of {', '.join(unread)}"
            warnings.append(Problem("unread-data", message, "`discriminant`, the default, reads both"))
    for position, (name, lines) in enumerate(prompts):
        for other, others in prompts[position + 1 :]:
            pair = _most_similar(lines, others)
            if pair is not None:
                message = f"experts `{name}` and `{other}` share near-equal prompts: `{pair[0]}` and `{pair[1]}`"
                warnings.append(Problem("similar-prompts", message, "a gate cannot tell apart what is the same"))


@contextmanager
def _of_key(key: str, problems: list[Problem]) -> Iterator[None]:
    """Adds what is wrong inside to the problems, with the recipe's key before it."""
    try:
        yield
    except MoemergeError as error:
        problems += [Problem(p.code, f"`{key}`: {p.message}", p.hint) for p in error.problems]


def check_evaluation(recipe: Recipe, root: Path, warnings: list[Problem]) -> None:
    """Says which held-out texts are not there, and opens none: a build never reads them."""
    named: list[tuple[str, Rows]] = [
        (f"eval.domains.{name}", given if isinstance(given, Data) else Data(path=given))
        for name, given in recipe.eval.domains.items()
    ]
    named += [(f"eval.questions.{name}", questions) for name, questions in recipe.eval.questions.items()]
    for key, rows in named:
        if is_absent(rows, root):
            message = f"`{key}`: `{rows.path}` does not exist"
            warnings.append(Problem("no-eval-texts", message, "a build does not need it, `moemerge eval` does"))


def _most_similar(first: Iterable[str], second: Iterable[str]) -> tuple[str, str] | None:
    words = [(prompt, frozenset(prompt.lower().split())) for prompt in second]
    for prompt in first:
        mine = frozenset(prompt.lower().split())
        for other, theirs in words:
            if mine and theirs and len(mine & theirs) / len(mine | theirs) >= _SIMILAR:
                return prompt, other
    return None

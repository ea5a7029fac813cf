"""Matches an adapter's tensors with its base's: what is folded where, what is replaced, and what fits nothing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from moemerge.errors import Problem, SourceError
from moemerge.families.dense_family import Names
from moemerge.sources.adapter_config import LoraConfig
from moemerge.sources.adapter_misfit import CURES, Misfit, Reason, refuse, refuse_wrapped
from moemerge.sources.adapter_names import PREFIX, Sorted, sort_names
from moemerge.sources.adapter_targets import ALL, Targets
from moemerge.sources.checkpoint import Checkpoint, TensorInfo
from moemerge.sources.config import PLAIN
from moemerge.sources.fold import Layout
from moemerge.sources.saved import Shape
from moemerge.sources.wrapped import is_wrapper

EMBEDDING, HEAD = Names().embedding, Names().head
_ROWS = {EMBEDDING: ("lora_embedding_A",), HEAD: ("lora_B.weight", "lora_B.bias", "magnitude")}
"""The parts of a LoRA that have as many rows or columns as there are tokens."""
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Fold:
    """One LoRA on one weight; the letters are names of tensors in the adapter's file."""

    layout: Layout
    a: str
    b: str
    scaling: float
    magnitude: str | None = None


@dataclass(slots=True)
class Change:
    """What the adapter does to one tensor of its base, in this order.

    Attributes:
        replaced: the adapter's tensor that takes its place (modules_to_save, trained biases).
        folds: LoRAs on it; two where a tied embedding is adapted at both of its ends.
        biases: LoRA biases that are added to it, with their scaling.
    """

    replaced: str | None = None
    folds: list[Fold] = field(default_factory=list)
    biases: list[tuple[str, float]] = field(default_factory=list)


@dataclass(slots=True)
class Fit:
    """Every change by the base's tensor name, and what a user should know.

    Attributes:
        changes: by name of a tensor of the result.
        untied: the head is a tensor of its own in the result though the base ties it to the embedding.
        rows: of embedding and head, where they are not the base's.
        targets: how many modules have a LoRA.
        warnings: what is worth saying.
    """

    changes: dict[str, Change] = field(default_factory=lambda: defaultdict(Change))
    untied: bool = False
    rows: int | None = None
    targets: int = 0
    warnings: list[Problem] = field(default_factory=list)


def fit(spec: str, config: LoraConfig, held: Mapping[str, TensorInfo], base: Checkpoint) -> Fit:
    """Matches the adapter's tensors `held` with those of `base`, as peft does: by its config, then by names.

    Raises:
        SourceError: tensors that fit nothing in the base or have the wrong shape, all listed; factors that are missing;
            names or shapes that tell of a save that is not whole.
    """
    names = sort_names(held, more_than_text=is_wrapper(base))
    if names.wrapped:
        raise refuse_wrapped(spec, names.wrapped, len(held))
    if len(names.labels) > 1:
        labels = ", ".join(f"`{label}`" for label in sorted(names.labels - {None}, key=str))
        raise SourceError(
            f"Adapter `{spec}` holds several adapters in one file: {labels}",
            hint="save one with `save_pretrained(FOLDER, selected_adapters=[NAME])`",
        )
    matching = _Matching(spec, config, held, base, names)
    result = matching.match()
    if matching.wrong:
        same = is_same_base(config.base, base)
        raise refuse(spec, matching.wrong, len(held), base, config.base, task=config.task, same_base=same)
    if not held:
        raise SourceError(f"Adapter `{spec}` holds no tensors", hint=CURES["file"])
    if not result.changes:
        raise SourceError(
            f"Adapter `{spec}` changes nothing: its `target_modules` name none of the modules that it has a LoRA on",
            hint=CURES["config"],
        )
    result.changes = dict(result.changes)
    return result


def is_same_base(name: str | None, base: Checkpoint) -> bool:
    """Whether an adapter's config names a base, as far as names tell; no where it names none."""
    if name is None:
        return False
    same = {base.spec, base.spec.rpartition("@")[0], str(base.location)}
    names = {_last(base.spec).partition("@")[0]}
    if base.kind == "gguf":  # transformers names such a model by the folder of its file
        names.add(base.location.parent.name)
    return name in same or _last(name) in names


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


@dataclass
class _Matching:
    """One adapter on its way onto a base: what fits, and what does not."""

    spec: str
    config: LoraConfig
    held: Mapping[str, TensorInfo]
    base: Checkpoint
    names: Sorted
    result: Fit = field(default_factory=Fit)
    wrong: list[Misfit] = field(default_factory=list)

    def match(self) -> Fit:
        """Everything, in peft's order."""
        for key in self.names.unknown:
            self.wrong.append(Misfit(f"{key}: its name does not begin with `{PREFIX}`", "file"))
        for key, info in self.held.items():
            if info.dtype not in PLAIN:
                self.wrong.append(Misfit(f"{key}: stored as {info.dtype}, which no weight is", "file"))
        whole = self._whole()
        self.result.rows = self._rows(whole)
        # the embedding before the head: where both are the same tensor, peft comes to it in this order
        for name in sorted(whole, key=lambda name: (name == HEAD, name)):
            self._replace(name, whole[name])
        targets = self._targets()
        on = [module for module in self.names.modules if targets.holds(module)]
        for module in sorted(on, key=lambda module: (f"{module}.weight" == HEAD, module)):
            self._fold(module, self.names.modules[module])
        self._unkept(whole)
        if not self.wrong:
            self.result.warnings += self._unlike_config(targets, on)
            self.result.warnings += self._resized(whole)
            if self.result.untied:
                self.result.warnings.append(self._untied(whole))
        return self.result

    @property
    def tied(self) -> bool:
        """Whether the base's head is its embedding."""
        return HEAD not in self.base.tensors and EMBEDDING in self.base.tensors

    def _whole(self) -> dict[str, str]:
        """Tensors that are stored whole. Of two copies of a module peft takes the first, and none that the config does
        not name."""
        copies = {name: key for name, key in self.names.copies.items() if self._is_saved(name)}
        return copies | self.names.whole

    def _rows(self, whole: Mapping[str, str]) -> int | None:
        """The rows of embedding and head where both have others than the base."""
        ends = [name for name in (EMBEDDING, HEAD) if name in self.base.tensors]
        if not all(name in whole for name in ends) or EMBEDDING not in ends:
            return None
        shapes = {self.held[whole[name]].shape for name in (EMBEDDING, HEAD) if name in whole}
        shape, own = next(iter(shapes)), self.base.tensors[EMBEDDING].shape
        resized = len(shapes) == 1 and len(shape) == 2 and shape[1:] == own[1:] and 0 < shape[0] != own[0]
        return shape[0] if resized else None

    def shape_of(self, name: str) -> Shape | None:
        """The shape that a tensor has where the LoRA is put on it; None where there is no such tensor."""
        info = self.base.tensors.get(EMBEDDING if self.tied and name == HEAD else name)
        if info is None or self.result.rows is None or name not in (EMBEDDING, HEAD):
            return info.shape if info is not None else None
        return (self.result.rows, *info.shape[1:])

    def _targets(self) -> Targets:
        """The config's; where it names no modules, those that peft takes for such a base."""
        targets = self.config.targets
        if targets.names is not None:
            return targets
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

        return replace(targets, names=tuple(USUAL.get(str(self.base.config.get("model_type")), ())) or None)

    def _replace(self, name: str, key: str) -> None:
        saved, held = self._is_saved(name), self.held[key].shape
        target = EMBEDDING if self.tied and name == HEAD and not saved else name
        expected = self.shape_of(name)
        if expected is None:
            self.wrong.append(Misfit(f"{key}: the base has no `{name}`", self._absence(name)))
        elif expected != held:
            resized = name in (EMBEDDING, HEAD) and held[1:] == expected[1:] and 0 not in held
            line = f"{key}: adapter {held}, base {expected}"
            self.wrong.append(Misfit(line, "rows" if resized else "base", (held, expected)))
        else:
            self.result.changes[target].replaced = key
            self.result.untied |= self.tied and saved and name in (EMBEDDING, HEAD)

    def _fold(self, module: str, parts: dict[str, str]) -> None:
        name = f"{module}.weight"
        at_tied_head = self.tied and name == HEAD
        target = EMBEDDING if at_tied_head else name
        shape = self.shape_of(target)
        if shape is None or len(shape) != 2:
            why = self._absence(name)
            self.wrong += [Misfit(f"{key}: the base has no matrix `{name}`", why) for key in parts.values()]
            return
        layout: Layout = "embedding" if "lora_embedding_A" in parts else "linear"
        a, b = ("lora_embedding_A", "lora_embedding_B") if layout == "embedding" else ("lora_A.weight", "lora_B.weight")
        needed = {a, b} | ({"magnitude"} if self.config.dora else set())
        if missing := sorted(needed - parts.keys()):
            line = f"{PREFIX}{module}: the adapter lacks its {' and '.join(missing)}"
            self.wrong.append(Misfit(line, "file"))
            return
        rank = self.config.rank_of(module)
        out, into = shape if layout == "linear" else shape[::-1]
        shapes = {a: (rank, into), b: (out, rank), "lora_B.bias": (out,)}
        shapes |= {"magnitude": (out,)} if self.config.dora else {}
        before = len(self.wrong)
        ranks = {self.held[parts[a]].shape[:1], self.held[parts[b]].shape[1:]}
        for part, key in parts.items():
            held = self.held[key].shape
            if part not in shapes:
                self.wrong.append(Misfit(f"{key}: not a part of this kind of adapter", "config"))
            elif held != shapes[part]:
                line = f"{key}: adapter {held}, expected {shapes[part]} for rank {rank} and base {shape}"
                reason: Reason = "file" if len(ranks) > 1 else "base" if ranks == {(rank,)} else "config"
                if reason == "base" and part in _ROWS.get(name, ()):
                    reason = "rows"
                self.wrong.append(Misfit(line, reason, (held, shapes[part])))
        if "lora_B.bias" in parts and f"{module}.bias" not in self.base.tensors:
            line = f"{parts['lora_B.bias']}: the base has no `{module}.bias` to add it to"
            self.wrong.append(Misfit(line, "bias"))
        if len(self.wrong) > before:
            return
        scaling = self.config.scaling_of(module)
        self.result.targets += 1
        self.result.changes[target].folds.append(Fold(layout, parts[a], parts[b], scaling, parts.get("magnitude")))
        if "lora_B.bias" in parts:
            self.result.changes[f"{module}.bias"].biases.append((parts["lora_B.bias"], scaling))
        if self.tied and target == EMBEDDING:
            ends = (HEAD, EMBEDDING) if at_tied_head else (EMBEDDING, HEAD)
            self.result.warnings.append(self._tied(*(name.split(".")[-2] for name in ends)))

    def _absence(self, name: str) -> Reason:
        """Why the base has no such tensor: a base of another size has its like in another layer."""
        alike = {_LAYER.sub("", held) for held in (*self.base.tensors, HEAD)}
        return "base" if _LAYER.sub("", name) in alike else "kind"

    def _unkept(self, whole: Mapping[str, str]) -> None:
        known = {*self.base.tensors, HEAD}  # peft names heads of classifiers that its model may have
        for entry in self.config.modules_to_save:
            if _in_any(known, entry) and not _in_any(whole, entry):
                line = f"{entry}: in `modules_to_save`, but the adapter holds no tensor of it"
                self.wrong.append(Misfit(line, "file"))

    def _is_saved(self, name: str) -> bool:
        return any(_in_any((name,), entry) for entry in self.config.modules_to_save)

    def _unlike_config(self, targets: Targets, on: list[str]) -> Iterator[Problem]:
        """Where config and file speak of other modules, both are as peft leaves them."""
        left = sorted(self.names.modules.keys() - set(on))
        if left:
            message = f"Adapter `{self.spec}` has a LoRA on {_modules(left)}, which its `target_modules` do not name: "
            message += "left out, as by peft"
            yield Problem("targets-differ", message, "add them to `target_modules` in its `adapter_config.json`")
        if targets.names is None:
            return
        linear = isinstance(targets.names, str) and targets.names.lower() == ALL
        there = {name.removesuffix(".weight") for name, info in self.base.tensors.items() if len(info.shape) == 2}
        there |= {HEAD.removesuffix(".weight")} if self.tied and not linear else set()
        absent = sorted(module for module in there if targets.holds(module) and module not in on)
        if absent:
            message = f"Adapter `{self.spec}` names {_modules(absent)} in its `target_modules`, of which it holds no "
            message += "LoRA: the base's own are used, as by peft"
            yield Problem(
                "targets-differ", message, "save it again with peft's `save_pretrained`, if they were trained"
            )

    def _resized(self, whole: Mapping[str, str]) -> Iterator[Problem]:
        if self.result.rows is None:
            return
        rows, own = self.result.rows, self.base.tensors[EMBEDDING].shape[0]
        message = (
            f"Adapter `{self.spec}` stores embeddings of {rows} rows, and base `{self.base.spec}` has {own}: they "
        )
        message += "take its place, as in peft once the base is resized"
        yield Problem("embeddings-resized", message)

    def _untied(self, whole: Mapping[str, str]) -> Problem:
        ends = [f"`{name}`" for name in (EMBEDDING, HEAD) if name in whole and self._is_saved(name)]
        both = "train with both in `modules_to_save`, or with neither"
        return Problem(
            "embeddings-untied",
            f"Adapter `{self.spec}` stores a trained {' and '.join(ends)}, but base `{self.base.spec}` ties "
            "`embed_tokens` and `lm_head`: as in peft's merge, the result has both",
            both if len(ends) == 1 else None,
        )

    def _tied(self, end: str, other: str) -> Problem:
        return Problem(
            "tied-embedding-adapted",
            f"Adapter `{self.spec}` adapts `{end}`, which base `{self.base.spec}` ties to `{other}`: as in peft's "
            "merge, both change",
            "untie the embeddings before training, or leave them out of `target_modules`",
        )


def _modules(names: list[str]) -> str:
    return f"`{names[0]}`" if len(names) == 1 else f"{len(names)} modules such as `{names[0]}`"


def _in_any(names: Iterable[str], module: str) -> bool:
    return any(re.search(rf"(^|\.){re.escape(module)}\.", name) for name in names)

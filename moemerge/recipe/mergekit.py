"""The mergekit-moe dialect: its recipes read unchanged, as the native recipe that does what their author meant.

mergekit's `gate_mode: hidden` reads the residual stream, where the router never looks; who writes it asks for routing
by the prompts, so it becomes `discriminant`. Every other mode keeps its meaning, and the shared weights stay the
base's. What is changed or passed over is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from moemerge.errors import Problem
from moemerge.recipe.checks import RESERVED
from moemerge.recipe.mergekit_tokenizer import vocabulary_of
from moemerge.recipe.places import Place, RecipeProblems, did_you_mean, listed, nearest, problem, quoted, recipe_error
from moemerge.recipe.schema import Recipe
from moemerge.recipe.yaml import Entry, Items, Node, Scalar, Table

GATE_MODES: Mapping[str, str] = {
    "hidden": "discriminant",
    "hidden_last": "mergekit_hidden",
    "hidden_avg": "hidden_avg",
    "cheap_embed": "cheap_embed",
    "random": "random",
    "uniform_random": "uniform",
}
"""mergekit's gate modes and ours."""
ARCHITECTURES: Mapping[str, str] = {"mixtral": "mixtral", "qwen": "qwen2_moe", "qwen3": "qwen3_moe"}
"""mergekit's names of hosts and ours."""
DTYPES: Mapping[str, str] = {"bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}
"""mergekit's dtypes and ours."""

_TOP = (
    "base_model", "experts", "gate_mode", "dtype", "experts_per_token", "shared_experts", "architecture", "tokenizer",
    "tokenizer_source",
)  # fmt: skip
_EXPERT = ("source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale")
_NATIVE: Mapping[str, str] = {"model": "source_model", "prompts": "positive_prompts", "gate": "gate_mode"}
_UNUSED = frozenset({
    "merge_method", "parameters", "chat_template", "out_dtype", "name",
})  # fmt: skip
"""Keys of mergekit's dense merges that published recipes have, and that mergekit-moe passes over."""
_DENSE = ("merge_method", "slices", "models", "modules")
_SAYS = "mergekit-moe recipe"


def is_mergekit(tree: Table) -> bool:
    """Whether a recipe speaks the dialect: by its experts' `source_model`, or by other keys that only mergekit has."""
    experts = tree.get("experts")
    nodes = experts.nodes if isinstance(experts, Items) else ()
    keys = {key for node in nodes if isinstance(node, Table) for key in node.entries}
    if keys & {"model", "prompts"}:
        return "source_model" in keys
    return bool(keys & {"source_model", "positive_prompts"}) or "gate_mode" in tree.entries


def refuse_dense_merge(tree: Table) -> None:
    """Refuses a recipe for mergekit-yaml.

    Raises:
        RecipeError: it merges dense models into a dense model.
    """
    key = next((key for key in _DENSE if key in tree.entries), None)
    if key is None or "experts" in tree.entries:
        return
    message = f"This recipe is for mergekit-yaml (it has `{key}`), which merges models into one dense model, not an MoE"
    hint = "to keep the models apart, list them under `experts`, each with prompts; a dense merge is `mergekit-yaml`'s"
    raise recipe_error(tree.entries[key].key, "dense-merge", message, hint)


def translate(tree: Table, *, gate_given: bool = False) -> tuple[Table, list[str]]:
    """The native form of a mergekit-moe recipe, and lines that the user should read.

    Args:
        tree: the recipe.
        gate_given: whether the user chose the gate elsewhere, so that nothing need be said of the recipe's own.

    Raises:
        RecipeProblems: what mergekit-moe would not take, and what cannot be done here.
    """
    translator = _Translator()
    native = translator.recipe(tree, gate_given)
    if translator.problems:
        raise RecipeProblems(said for _, said in sorted(translator.problems, key=lambda pair: pair[0].order))
    return native, translator.notes


class _Translator:
    """Collects problems and notes on its way through a recipe."""

    def __init__(self) -> None:
        self.problems: list[tuple[Place, Problem]] = []
        self.notes: list[str] = []
        self.names: set[str] = set()

    def complain(self, place: Place, code: str, message: str, hint: str | None = None) -> None:
        """One more problem."""
        self.problems.append((place, problem(place, code, message, hint)))

    def note(self, text: str) -> None:
        """One more line for the user."""
        self.notes.append(f"{_SAYS}: {text}")

    def recipe(self, tree: Table, gate_given: bool) -> Table:
        """The whole recipe."""
        self.check_keys(tree, _TOP, "")
        native = {key: entry for key, entry in tree.entries.items() if key in {"base_model", "experts_per_token"}}
        for key, words in (("dtype", DTYPES), ("architecture", ARCHITECTURES)):
            chosen = self.word(tree, key, words)
            if chosen is not None:
                native[key] = chosen
        if "experts" in tree.entries:
            native["experts"] = self.each(tree.entries["experts"], "experts", self.expert)
        shared = tree.get("shared_experts")
        if isinstance(shared, Items) and shared.nodes:
            native["shared_experts"] = self.each(tree.entries["shared_experts"], "shared_experts", self.shared_expert)
            if "architecture" not in native:
                native["architecture"] = _entry("qwen2_moe", shared.place)
                self.note("its shared expert needs `architecture: qwen2_moe`, which is set")
        mode = self.word(tree, "gate_mode", GATE_MODES) or _entry("discriminant", tree.place)
        native["gate"] = Entry(mode.key, Table({"init": mode}, mode.key))
        native["merge"] = Entry(tree.place, Table({"shared": _entry("base", tree.place)}, tree.place))
        vocabulary = vocabulary_of(tree, native.get("experts"), self.complain)
        if vocabulary is not None:
            native["tokenizer"] = vocabulary
        if not gate_given:
            self.say_gate(tree)
        return Table({key: entry for key, entry in native.items() if not _is_null(entry.node)}, tree.place)

    def say_gate(self, tree: Table) -> None:
        """What became of the gate mode."""
        mode = tree.get("gate_mode")
        text = mode.text if isinstance(mode, Scalar) and mode.value is not None else None
        if text in {None, "hidden"}:
            said = "`gate_mode: hidden`" if text else "no `gate_mode`"
            self.note(
                f"{said} becomes `gate.init: discriminant`, which routes by the same prompts; "
                "`--gate mergekit_hidden` reproduces mergekit's own gate"
            )
        elif GATE_MODES.get(text, text) != text:
            self.note(f"`gate_mode: {text}` is `gate.init: {GATE_MODES[text]}` here")

    def each(self, entry: Entry, key: str, one: Callable[[Table, str], Iterator[tuple[str, Entry]]]) -> Entry:
        """A list with each of its mappings translated; what is not a list is left for the schema to refuse."""
        if not isinstance(entry.node, Items):
            return entry
        nodes = []
        for index, node in enumerate(entry.node.nodes):
            where = f"{key}[{index}]"
            if isinstance(node, Table):
                self.check_keys(node, _EXPERT, where)
                nodes.append(Table(dict(one(node, where)), node.place))
            else:
                self.complain(node.place, "wrong-type", f"`{where}` must be a mapping with a `source_model`")
        return Entry(entry.key, Items(tuple(nodes), entry.node.place))

    def expert(self, node: Table, where: str) -> Iterator[tuple[str, Entry]]:
        """The native keys of one expert."""
        source = self.source(node, where)
        if source is not None:
            yield "name", _entry(self.name(source.text), source.place)
            yield "model", Entry(node.entries["source_model"].key, source)
        for key, ours in (("positive_prompts", "prompts"), ("negative_prompts", "negative_prompts")):
            if not _is_null(node.get(key)):
                yield ours, self.prompts(node.entries[key], f"{where}.{key}")
        for key in ("noise_scale", "residual_scale"):
            if not _is_null(node.get(key)):
                yield key, node.entries[key]

    def shared_expert(self, node: Table, where: str) -> Iterator[tuple[str, Entry]]:
        """The native keys of one shared expert, whose gate is always fully open here."""
        source = self.source(node, where)
        if source is not None:
            yield "model", Entry(node.entries["source_model"].key, source)
        if not _is_null(node.get("residual_scale")):
            yield "residual_scale", node.entries["residual_scale"]
        noise = node.get("noise_scale")
        if noise is not None and not _is_null(noise) and not (isinstance(noise, Scalar) and noise.value == 0):
            hint = "leave it out, or add the noise to the model beforehand"
            self.complain(noise.place, "shared-experts", f"`{where}.noise_scale` is not supported", hint)
        if any(not _is_null(node.get(key)) for key in ("positive_prompts", "negative_prompts")):
            self.note(f"the prompts of `{where}` are not used: every token passes through a shared expert in full")

    def source(self, node: Table, where: str) -> Scalar | None:
        """An expert's `path@revision+adapter`."""
        source = node.get("source_model")
        if source is None:
            if not any(nearest(key, _EXPERT) == "source_model" for key in node.entries):  # a misspelt one is named
                self.complain(node.place, "missing-key", f"`{where}.source_model` is missing")
        elif not isinstance(source, Scalar) or not isinstance(source.value, str) or not source.value.strip():
            message = f"`{where}.source_model` must be a folder or hub id, such as `path@revision+adapter`"
            self.complain(source.place, "wrong-type", message)
        else:
            return source
        return None

    def prompts(self, entry: Entry, where: str) -> Entry:
        """A text or a list of texts, as a list."""
        nodes = entry.node.nodes if isinstance(entry.node, Items) else (entry.node,)
        for node in nodes:
            if not isinstance(node, Scalar) or not isinstance(node.value, str):
                hint = "put quotes round a text that looks like a number, or that holds a colon and a space"
                self.complain(node.place, "wrong-type", f"`{where}` must be a text or a list of texts", hint)
        return Entry(entry.key, Items(nodes, entry.node.place))

    def name(self, source: str) -> str:
        """A name made from the last part of a source's path, unlike those before."""
        path = source.rpartition("+")[2].partition("@")[0].rstrip("/")
        last = path.rpartition("/")[2].removesuffix(".gguf")
        wanted = re.sub("[^A-Za-z0-9._-]+", "-", last).lstrip("._-") or "expert"
        name, count = wanted, 1
        while name in self.names or RESERVED.fullmatch(name):
            count += 1
            name = f"{wanted}-{count}"
        self.names.add(name)
        return name

    def word(self, tree: Table, key: str, words: Mapping[str, str]) -> Entry | None:
        """One of mergekit's words as ours, or None where none is given."""
        node = tree.get(key)
        if node is None or _is_null(node):
            return None
        text = node.text.removeprefix("torch.") if isinstance(node, Scalar) else ""
        text = text.lower().removesuffix(" moe") if key == "architecture" else text
        if text in words:
            return Entry(tree.entries[key].key, Scalar(words[text], words[text], node.place))
        if key == "architecture" and text.startswith("deepseek"):
            message = "`architecture: deepseek` is not built: a DeepSeek-MoE loads only with remote code"
            self.complain(node.place, "unknown-value", message, "leave `architecture` out")
        else:
            shown, meant = f"`{node.text}`" if isinstance(node, Scalar) else "a list or mapping", nearest(text, words)
            message = f"`{key}` must be {listed(quoted(words), 'or')}, not {shown}"
            self.complain(node.place, "unknown-value", message, f"did you mean `{meant}`?" if meant else None)
        return None

    def check_keys(self, node: Table, known: tuple[str, ...], where: str) -> None:
        """Refuses keys that mergekit-moe has not, and names those that it passes over."""
        for key, (place, _) in node.entries.items():
            if key in known:
                continue
            if not where and key in _UNUSED:
                self.note(f"`{key}` is passed over, as mergekit-moe does")
                continue
            hint = did_you_mean(key, known)
            if _NATIVE.get(key) in known:
                hint = f"did you mean `{_NATIVE[key]}`?"
            elif not where and key in Recipe.model_fields:
                hint = f"mergekit-moe has no `{key}`; give it on the command line, with `--set {key}=...`"
            inside = f"`{where}` of this mergekit-moe recipe" if where else "this mergekit-moe recipe"
            self.complain(place, "unknown-key", f"Unknown key `{key}` in {inside}", hint)


def _entry(text: str, place: Place) -> Entry:
    """A text that stands for what the user wrote at a place."""
    return Entry(place, Scalar(text, text, place))


def _is_null(node: Node | None) -> bool:
    return node is None or (isinstance(node, Scalar) and node.value is None)

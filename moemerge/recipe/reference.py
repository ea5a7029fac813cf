"""The recipe's two references, made from the field docstrings: docs/recipe.md and the JSON Schema.

python -m moemerge.recipe.reference > docs/recipe.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moemerge.recipe.mergekit import ARCHITECTURES, GATE_MODES
from moemerge.recipe.schema import Recipe

_ORDER = (
    "Recipe",
    "Expert",
    "Data",
    "SharedExpert",
    "Gate",
    "Merge",
    "Vocabulary",
    "Output",
    "Evaluation",
    "Questions",
)
_TITLES: Mapping[str, str] = {
    "Recipe": "The top",
    "Expert": "`experts[]`",
    "Data": "`experts[].data`, `gate.data` and `eval.domains.NAME`",
    "SharedExpert": "`shared_experts[]`",
    "Gate": "`gate`",
    "Merge": "`merge`",
    "Vocabulary": "`tokenizer`",
    "Output": "`output`",
    "Evaluation": "`eval`",
    "Questions": "`eval.questions.NAME`",
}
_KINDS: Mapping[str, str] = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "nothing",
}  # fmt: skip

_HEAD = """\
# The recipe

<!-- Made by `make docs` from the docstrings in moemerge/recipe/schema.py: change those, not this page. -->

A recipe is a YAML file that says what is to be built. The smallest one names the base and two specialists:

```yaml
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
experts:
  - name: code
    model: adapters/code
    prompts: [Write a function that reverses a list, Fix the bug in this loop]
  - name: french
    model: adapters/french
    prompts: [Écris une lettre à un ami, Corrige les fautes de ce texte]
output: {path: out/moe}
```

- Relative paths are relative to the recipe's folder. A model or data set is local if it begins with `.`, `/` or `~`, or
  if something of that name exists there; otherwise it is an id on the hub.
- An unknown key, a misspelt value or a rule broken is refused before anything is read, all of them together, each with
  its line, a caret and the nearest name that would do.
- YAML is read safely. Anchors, aliases and merge keys (`<<: *name`) work; tags, duplicate keys and bombs of aliases are
  refused. Only `true`, `false`, `null` and decimal numbers are more than text: `off`, `no` and dates stay as typed.
- `--set KEY=VALUE` overrides a field: `--set gate.init=lda`, `--set experts[1].pad=true`. `--gate NAME` is
  `--set gate.init=NAME`.
- `moemerge schema` prints the JSON Schema of this page, for editors.
"""

_TAIL = """\
## mergekit-moe recipes

A recipe of mergekit-moe is read unchanged, its YAML anchors, its `path@revision+adapter` and a single text for a list
of prompts too, and is built as this recipe would be:

| mergekit-moe | here |
|---|---|
{rows}
| the base model's attention, norms and embeddings | `merge.shared: base` |
| `source_model` | `model`; `name` is the last part of its path |
| `positive_prompts`, `negative_prompts` | `prompts`, `negative_prompts` |
| `noise_scale`, `residual_scale`, `experts_per_token`, `dtype` | the same |
| `shared_experts` | `shared_experts` without prompts, noise refused; `architecture: qwen2_moe` where none is given |
| `architecture: deepseek` | refused: it loads only with remote code |
| `tokenizer_source`, `tokenizer` | `tokenizer`; `base` where none is given, since experts' embeddings play no part |
| `chat_template` and other keys of mergekit's dense merges | passed over, as mergekit-moe does, and named |
| any other key | refused |

`--gate mergekit_hidden` reproduces mergekit's own gate for comparison. `--set` takes native keys here too, such as
`--set output.path=out/moe`. A recipe for mergekit-yaml, which merges models into one dense model, is refused.
"""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of native recipes, with the field docstrings as descriptions."""
    schema = Recipe.model_json_schema()
    _tidy(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "moemerge recipe",
        "description": Recipe.__doc__,
    }


def markdown() -> str:
    """docs/recipe.md."""
    schema = json_schema()
    models = {"Recipe": schema, **schema["$defs"]}
    rows = [f"| `gate_mode: {theirs}` | `gate.init: {ours}` |" for theirs, ours in GATE_MODES.items()]
    rows[0] = rows[0].replace("hidden`", "hidden`, or none", 1)
    rows += [f"| `architecture: {theirs}` | `architecture: {ours}` |" for theirs, ours in ARCHITECTURES.items()]
    sections = ("\n".join(_section(name, models[name])) for name in _ORDER)
    return "\n".join([_HEAD, *sections, _TAIL.format(rows="\n".join(rows))])


def _tidy(node: Any) -> None:
    """Descriptions on one line, and no titles that only repeat the key; in place."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        if isinstance(node.get("description"), str):
            node["description"] = " ".join(node["description"].split())
        for below in node.values():
            _tidy(below)
    elif isinstance(node, list):
        for below in node:
            _tidy(below)


def _section(name: str, model: dict[str, Any]) -> Iterator[str]:
    yield f"## {_TITLES[name]}\n"
    yield model["description"] + "\n"
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, field in model["properties"].items():
        default = "**required**" if key in model.get("required", ()) else _default(field.get("default"))
        meaning = field.get("description", "").replace("|", "\\|")
        yield f"| `{key}` | {_kind(field)} | {default} | {meaning} |"
    yield ""


def _default(value: Any) -> str:
    match value:
        case None | [] | {}:
            return ""
        case dict():
            return "see below"
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return "`" + value.replace("\n", r"\n") + "`"
        case _:
            return f"`{value}`"


def _kind(field: dict[str, Any]) -> str:
    """What a field's value may be, in words."""
    if "$ref" in field:
        return _link(field["$ref"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "anyOf" in field:
        return " or ".join(_kind(branch) for branch in field["anyOf"] if branch.get("type") != "null")
    if field["type"] == "array":
        return f"list of {_kind(field['items'])}" if "$ref" not in field["items"] else f"list: {_kind(field['items'])}"
    if field["type"] == "object":
        if "patternProperties" in field:
            return f"mapping of layers to {' or '.join(map(_kind, field['patternProperties'].values()))}"
        return f"mapping of names to {_kind(field['additionalProperties'])}"
    bounds = [
        f"{sign} {int(field[bound]) if float(field[bound]).is_integer() else field[bound]}"
        for bound, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if bound in field and field[bound] < 2**63
    ]
    return " ".join([_KINDS[field["type"]], " and ".join(bounds)]).strip()


def _link(reference: str) -> str:
    name = reference.rpartition("/")[2]
    anchor = "".join(c for c in _TITLES[name].lower().replace(" ", "-") if c.isalnum() or c in "-_")
    return f"[{'data' if name == 'Data' else _TITLES[name]}](#{anchor})"


if __name__ == "__main__":
    print(markdown(), end="")

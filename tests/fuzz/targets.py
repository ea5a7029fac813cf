"""What is fuzzed: for each kind of input its seeds, how they are spoilt, and what a user does with the result.

A run that raises anything but a `MoemergeError` has found a fault; so has one that builds what `verify` or transformers
refuses. Each target works in the folder that `prepare` makes.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from moemerge import api
from moemerge.dense.models import load_tokenizer
from moemerge.errors import GateError, MoemergeError
from moemerge.evaluate.chat import end_of_turn
from moemerge.gate.passages import encode_prompt
from moemerge.gate.request import ChatTemplate, ExpertTexts
from moemerge.plan.model import Plan
from moemerge.recipe import load_recipe
from moemerge.recipe.load import load_evaluation
from moemerge.recipe.schema import Data, Questions
from moemerge.sources import open_checkpoint
from moemerge.texts import LeftOut, read_asked, read_documents, read_prompts_file
from tests.fuzz.mixture import export_tokenizer, exported_tokenizers, use_mixture, write_texts
from tests.fuzz.mutate import Mutation, dump, in_bytes, in_json, in_text, in_tree, spliced
from tests.tiny import write_tokenizer

RECIPE = """\
base_model: models/base
experts:
  - name: code
    model: models/code
    prompts: [def reverse list return, class function one two]
  - {name: math, model: models/math, prompts: [sum of two and three, add six to seven]}
gate: {init: discriminant, expand: "off"}
template: chat
"""
TEMPLATES = (
    "{% for m in messages %}<s> {{ m['content'] }} </s>{% endfor %}",
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}",
    "{%- set ns = namespace(found=false) -%}{%- for m in messages -%}{%- if not ns.found -%}{{ m.content }}"
    "{%- set ns.found = true -%}{%- endif -%}{%- endfor -%}{{ eos_token }}",
)


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        seeds: sound ones, by the working folder.
        mutate: spoils one.
        run: does with it what a user would.
    """

    seeds: Callable[[Path], list[bytes]]
    mutate: Mutation
    run: Callable[[Path, bytes], None]


def prepare(work: Path, tiny: Callable[..., Path]) -> Path:
    """Fills a working folder: three models, one of them in shards, an adapter, a built mixture."""
    from safetensors.torch import load_file, save_file

    from tests.sources.conftest import make_adapter
    from tests.tiny import write_tokenizer

    for seed, name in enumerate(("base", "code", "math")):
        folder = Path(shutil.copytree(tiny("llama", seed), work / "models" / name))
        write_tokenizer(folder, chat=True)
        (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
        (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 0}))
    shutil.copytree(work / "models/code", work / "models/sharded")
    tensors = load_file(work / "models/sharded/model.safetensors")
    (work / "models/sharded/model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, work / "models/sharded" / file, {"format": "pt"})
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: file for file, held in halves.items() for name in held},
    }
    (work / "models/sharded/model.safetensors.index.json").write_text(json.dumps(index))
    make_adapter(work / "models/base", work / "adapter")
    (work / "recipe.yaml").write_text(RECIPE)
    api.build(work / "recipe.yaml", work / "built")
    write_texts(work)
    return work


@contextmanager
def spoilt(path: Path, data: bytes) -> Iterator[None]:
    """Other bytes in a file, for a while."""
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def build(work: Path, recipe: str = RECIPE) -> None:
    """Builds, verifies, loads and tokenises, as far as nothing is refused."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (work / "fuzzed.yaml").write_text(recipe)
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    api.build(work / "fuzzed.yaml", out)
    found = api.verify(out)
    assert found.ok, found.differences
    AutoModelForCausalLM.from_pretrained(out)
    if any((out / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        AutoTokenizer.from_pretrained(out)("hello 你好")


MODELS = ("base", "code", "math")


def _file(
    name: str, *models: str, recipe: str = RECIPE, seeds: Callable[[Path], list[bytes]] = lambda work: []
) -> Target:
    """A file of some models, before a build; `seeds` are more than the one that they have."""

    def run(work: Path, data: bytes) -> None:
        with ExitStack() as stack:
            for model in models:
                stack.enter_context(spoilt(work / "models" / model / name, data))
            build(work, recipe)

    return Target(lambda work: [(work / "models" / models[0] / name).read_bytes(), *seeds(work)], in_json, run)


def _tokenizers(work: Path) -> list[bytes]:
    """Small `tokenizer.json` of other kinds, each with every part that there is."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz\u2581.,0123456789", "th", "the", "##e"]
    ids = {word: index for index, word in enumerate(words)}
    kinds: tuple[Any, ...] = (
        models.BPE(ids, [("t", "h"), ("th", "e")], unk_token="<unk>"),
        models.Unigram([(word, -float(index)) for word, index in ids.items()], unk_id=3),
        models.WordPiece(ids, unk_token="<unk>"),
    )
    made = []
    for kind in kinds:
        tokenizer = Tokenizer(kind)
        tokenizer.normalizer = normalizers.Sequence([
            normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(" ", "\u2581"),
        ])  # fmt: skip
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex("[a-z]+|."), "isolated"), pre_tokenizers.Digits(individual_digits=True),
        ])  # fmt: skip
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
        tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in words[:4]])
        tokenizer.enable_padding(pad_id=0, pad_token="<pad>", length=8)
        tokenizer.enable_truncation(64)
        made.append(tokenizer.to_str().encode())
    return made


BLANK = RECIPE.replace('discriminant, expand: "off"', "random").replace("template: chat\n", "")
"""The recipe with a gate that reads no text."""


def _recipe(work: Path, data: bytes) -> None:
    path = work / "fuzzed.yaml"
    path.write_bytes(data)
    load_recipe(path)
    api.plan(path)


def _evaluation(work: Path, data: bytes) -> None:
    path = work / "fuzzed.yaml"
    path.write_bytes(data)
    load_evaluation(path)


_PLANS: dict[Path, tuple[Plan, Any]] = {}


def _template(work: Path, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    if work not in _PLANS:
        plan = api.plan(work / "recipe.yaml")
        assert isinstance(plan, Plan)
        _PLANS[work] = plan, load_tokenizer(plan)
    tokenizer = _PLANS[work][1]
    texts = ExpertTexts("code", ("x",), chat=ChatTemplate(text, {"eos_token": "</s>"}))
    with suppress(GateError):
        encode_prompt("hello world", texts, tokenizer, "chat")
    own, tokenizer.chat_template = tokenizer.chat_template, text
    try:
        end_of_turn(tokenizer)
    finally:
        tokenizer.chat_template = own


def _adapter(name: str) -> Callable[[Path, bytes], None]:
    def run(work: Path, data: bytes) -> None:
        with spoilt(work / "adapter" / name, data):
            model = open_checkpoint("models/base+adapter", root=work)
            for tensor in model.tensors:
                model.read(tensor)

    return run


def _adapter_configs(work: Path) -> list[bytes]:
    config = (work / "adapter/adapter_config.json").read_bytes()
    more = {
        "rank_pattern": {"layers.0.self_attn.q_proj": 4, ".*down_proj": 4}, "alpha_pattern": {"q_proj": 16},
        "modules_to_save": ["lm_head"], "use_rslora": True, "layers_to_transform": [0, 1],
    }  # fmt: skip
    return [config, json.dumps(json.loads(config) | more).encode()]


def _header(chance: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, whose length mostly fits."""
    length = int.from_bytes(data[:8], "little")
    header, rest = in_json(chance, data[8 : 8 + length]), data[8 + length :]
    if chance.random() < 0.1:
        rest = in_bytes(chance, rest)
    stated = chance.choice((0, 1, len(header) + 1, 2**31, 2**63)) if chance.random() < 0.1 else len(header)
    return stated.to_bytes(8, "little") + header + rest


def _built(name: str) -> Callable[[Path, bytes], None]:
    """A file of a built mixture, before it is used."""

    def run(work: Path, data: bytes) -> None:
        folder = work / "built"
        with spoilt(folder / name, data):
            use_mixture(work, data)

    return run


def _record_seeds(work: Path) -> list[bytes]:
    return [(work / "built/moemerge.yaml").read_bytes()]


def _in_yaml(chance: random.Random, data: bytes) -> bytes:
    """Half of them are well-formed YAML of another shape."""
    if chance.random() < 0.4:
        return in_text(chance, data)
    return dump(in_tree(chance, yaml.load(data, yaml.CSafeLoader)))


def _index(work: Path, data: bytes) -> None:
    with spoilt(work / "models/sharded/model.safetensors.index.json", data):
        model = open_checkpoint("models/sharded", root=work)
        for tensor in model.tensors:
            model.read(tensor)


def _texts(work: Path, data: bytes) -> None:
    path = work / "fuzzed.jsonl"
    path.write_bytes(data)
    reads: tuple[Callable[[], Any], ...] = (
        lambda: read_documents(Data(path=str(path), field="text"), work, _tokenizer, "the base"),
        lambda: read_documents(Data(path=str(path)), work, _tokenizer, "the base"),
        lambda: read_asked(Questions(path=str(path)), work, LeftOut(path.name)),
        lambda: read_prompts_file(path),
    )
    for read in reads:
        with suppress(MoemergeError):
            read()


@cache
def _tokenizer() -> Any:
    """One without a chat template: conversations are their messages."""
    from transformers import AutoTokenizer

    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return AutoTokenizer.from_pretrained(folder)


def _parquet(work: Path, data: bytes) -> None:
    path = work / "fuzzed.parquet"
    path.write_bytes(data)
    read_documents(Data(path=str(path)), work, _tokenizer, "the base")


def _parquet_seeds(work: Path) -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["one", "two"] * 20, "n": list(range(40))}), work / "seed.parquet")
    return [(work / "seed.parquet").read_bytes()]


RECIPES = (
    RECIPE,
    BLANK,
    "base_model: models/base\nexperts:\n  - {source_model: models/code, positive_prompts: [one two]}\n"
    "  - {source_model: models/math, positive_prompts: [three]}\ngate_mode: hidden\ndtype: float32\n",
    RECIPE.replace("models/code", "adapter") + "merge: {shared: ties, norms: mean}\neval:\n  domains: {code: x.jsonl}\n"
    "output: {path: out, shard_size: 5GB, layout: per_expert}\nseed: 3\nexperts_per_token: 1\n",
)
JSONL = b"""{"text": "one two"}
{"text": "three", "question": "what?", "answer": "that"}

{"text": "\\u00e9", "n": 1}
"""
PARTS = (
    b"{{ ", b" }}", b"{% for x in range(99999) %}", b"{% endfor %}", b"{{ 'a' * 99999999 }}", b"{{ 1/0 }}", b"{% if ",
    b" %}", b"{{ messages[5].content }}", b"{{ messages.x.y }}", b"{{ raise_exception(1) }}", b"{{ none + 1 }}",
    b"{% set ns.x = ns.x + ns.x %}", b"{{ strftime_now(3) }}", b"{{ strftime_now('%Q') }}", b"{{ messages | tojson }}",
    b"{{ messages | sort }}", b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", b"{{ '\\ud800' }}", b"{{ self }}",
    b"{% include 'x' %}", b"{% extends 'x' %}", b"{% generation %}", b"{% endgeneration %}", b"{% break %}", b"\xff",
    b"{{ ''.__class__ }}", b"{{ '%99999999d' % 1 }}", b"{{ namespace(__x=1) }}", b"{{ messages.append(1) }}",
    b"{{ lipsum(n=3000) }}", b"{{ cycler() }}", b"{{ joiner(1)() }}", b"{{ dict(1) }}", b"{{ ('x', )[9] }}",
    b"{{ 10 ** 9999 }}", b"{{ 'x'.format_map({}) }}", b"{{ '{0.x}'.format(1) }}", b"{{ messages | map('x') | list }}",
)  # fmt: skip

TARGETS: Mapping[str, Target] = {
    "recipe": Target(lambda work: [text.encode() for text in RECIPES], _in_yaml, _recipe),
    "evaluation": Target(
        lambda work: [b"domains: {code: x.jsonl}\nquestions:\n  math: {path: q.jsonl, question: q, answer: a}\n"],
        _in_yaml, _evaluation,
    ),
    "config": _file("config.json", *MODELS, recipe=BLANK),
    "config-of-expert": _file("config.json", "code", recipe=BLANK),
    "generation-config": _file("generation_config.json", "base", recipe=BLANK),
    "tokenizer": _file("tokenizer.json", *MODELS, seeds=_tokenizers),
    "tokenizer-config": _file("tokenizer_config.json", *MODELS),
    "special-tokens": _file("special_tokens_map.json", *MODELS),
    "added-tokens": _file("added_tokens.json", *MODELS),
    "tokenizer-of-expert": _file("tokenizer.json", "code"),
    "tokenizer-config-of-expert": _file("tokenizer_config.json", "code"),
    "template": Target(lambda work: [text.encode() for text in TEMPLATES], spliced(PARTS), _template),
    "adapter-config": Target(
        _adapter_configs, in_json, _adapter("adapter_config.json")
    ),
    "adapter-header": Target(
        lambda work: [(work / "adapter/adapter_model.safetensors").read_bytes()], _header,
        _adapter("adapter_model.safetensors"),
    ),
    "record": Target(_record_seeds, _in_yaml, _built("moemerge.yaml")),
    "config-of-mixture": Target(
        lambda work: [(work / "built/config.json").read_bytes()], in_json, _built("config.json")
    ),
    "tokenizer-of-mixture": Target(
        lambda work: [(work / "built/tokenizer.json").read_bytes()], in_json, _built("tokenizer.json")
    ),
    "tokenizer-config-of-mixture": Target(
        lambda work: [(work / "built/tokenizer_config.json").read_bytes()], in_json, _built("tokenizer_config.json")
    ),
    "tokenizer-of-export": Target(exported_tokenizers, in_json, export_tokenizer),
    "index": Target(
        lambda work: [(work / "models/sharded/model.safetensors.index.json").read_bytes()], in_json, _index
    ),
    "texts": Target(lambda work: [JSONL], in_text, _texts),
    "parquet": Target(_parquet_seeds, in_bytes, _parquet),
}  # fmt: skip

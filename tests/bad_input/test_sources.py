"""Bad models and adapters, likewise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moemerge.errors import SourceError
from moemerge.sources import open_checkpoint
from tests.bad_input.command import (
    RECIPE,
    UP,
    build,
    change_config,
    change_tensors,
    refused,
    refused_by_build,
    write_adapter,
)
from tests.conftest import TinyMaker


def cut(data: bytes) -> bytes:
    return data[:-1000]


def empty(data: bytes) -> bytes:
    return b""


def no_safetensors(data: bytes) -> bytes:
    return b"PK\3\4 another format" + data


def damaged_header(data: bytes) -> bytes:
    return data[:8] + b"x" + data[9:]


def overlapping(data: bytes) -> bytes:
    return data.replace(b'"data_offsets":[16384,32768]', b'"data_offsets":[16380,32764]')


WEIGHTS = "error: expert `code`: `WORK/models/code/model.safetensors"


BY_HAND = "hint: download or copy it again, or mend it if you changed it\n"
AGAIN = "hint: download or copy the file again\n"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, f"{WEIGHTS}` is truncated: its header promises 96952 bytes, the file has 95952\n{AGAIN}"),
        (empty, f"{WEIGHTS}` is not a safetensors file: it has 0 bytes\n{AGAIN}"),
        (
            no_safetensors,
            f"{WEIGHTS}` is not a safetensors file: its header would have 8029461975782345552 bytes, "
            f"more than the 100000000 allowed\n{AGAIN}",
        ),
        (
            damaged_header,
            f"{WEIGHTS} (header)` is not valid JSON: Expecting value: line 1 column 1 (char 0)\n{BY_HAND}",
        ),
        (
            overlapping,
            f"{WEIGHTS}` has a malformed header: tensor `model.embed_tokens.weight` overlaps the one before it\n"
            f"{AGAIN}",
        ),
    ],
)
def test_damaged_weight_files(spoil: Callable[[bytes], bytes], message: str) -> None:
    """A file that was cut short or altered is found by its header, before anything is written."""
    path = Path("models/code/model.safetensors")
    data = path.read_bytes()
    path.write_bytes(spoil(data))
    assert path.read_bytes() != data
    assert refused() == message


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
STANDS_IN = {
    LFS: "is a pointer of Git LFS, and not the file itself\nhint: `git lfs pull` in its folder fetches the file\n",
    PAGE: "is a web page, and not the file itself\nhint: download it again: on the hub, addresses with `/resolve/` "
    "give the file, those with `/blob/` its page\n",
}


@pytest.mark.parametrize("data", STANDS_IN, ids=["lfs", "page"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_what_lies_in_a_files_place(name: str, data: bytes) -> None:
    """A file that was never downloaded is called what it is, with the way to fetch it."""
    Path(f"models/code/{name}").write_bytes(data)
    apart = "token" in name
    who = "expert `code` cannot be compared with the base: " if apart else "expert `code`: "
    assert refused() == f"error: {who}`WORK/models/code/{name}` {STANDS_IN[data]}"


@pytest.mark.parametrize("data", STANDS_IN, ids=["lfs", "page"])
def test_what_lies_in_the_place_of_other_weights(data: bytes, tmp_path: Path) -> None:
    """Likewise of a GGUF file and of pickled weights."""
    what, hint = STANDS_IN[data].splitlines()
    shutil.copytree("models/code", tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    for path, spec in ((tmp_path / "m.gguf", "m.gguf"), (tmp_path / "pickled" / "pytorch_model.bin", "pickled")):
        path.write_bytes(data)
        with pytest.raises(SourceError) as caught:
            open_checkpoint(spec, root=tmp_path, allow_pickle=True)
        assert (caught.value.message, f"hint: {caught.value.hint}") == (f"`{path}` {what}", hint)


def test_a_missing_shard() -> None:
    """The index names a file that is not there."""
    folder = Path("models/code")
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {name: f"model-0000{1 + (name == UP)}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert refused() == (
        "error: expert `code`: Model `models/code` is incomplete: 1 of 2 shards are missing from "
        "`WORK/models/code`: `model-00002-of-00002.safetensors`\n"
        "hint: download or copy the model again\n"
    )


def test_a_config_without_weights() -> None:
    """A model can be planned from its config, and not built."""
    Path("models/code/model.safetensors").unlink()
    assert refused_by_build() == "error: `models/code` has a config and no weights\n"


def test_wrong_shapes() -> None:
    """Every tensor that differs is listed with both shapes."""
    change_tensors("code", {UP: torch.zeros(40, 32), "model.norm.weight": torch.ones(31)})
    assert refused() == (
        "error: expert `code` differs in the shape of 2 of 21 tensors:\n"
        "  model.layers.1.mlp.up_proj.weight: (40, 32), its config says (48, 32)\n"
        "  model.norm.weight: (31), its config says (32)\n"
        "hint: take its config and its weights from one folder: one of them is of another model\n"
    )


def test_a_vocabulary_of_another_size_in_the_config() -> None:
    """Where nothing else is wrong, the config is."""
    change_config("code", vocab_size=132)
    assert refused() == (
        "error: expert `code` differs in the shape of 2 of 21 tensors:\n"
        "  lm_head.weight: (128, 32), its config says (132, 32)\n"
        "  model.embed_tokens.weight: (128, 32), its config says (132, 32)\n"
        "hint: set `vocab_size: 128` in its config if its tokenizer has no more tokens\n"
    )


LOST = "error: expert `code` lacks 1 of 21 tensors:\n  lm_head.weight\nhint: "


def test_a_missing_head() -> None:
    """It may be the embedding, or was not saved; a class that writes no text has none."""
    change_tensors("code", {"lm_head.weight": None})
    assert refused() == (
        f"{LOST}if its head is its embedding, set `tie_word_embeddings: true` in its config; if not, save it again "
        "with its head\n"
    )
    for kind in ("LlamaModel", "LlamaForSequenceClassification"):
        change_config("code", architectures=[kind])
        assert refused() == (
            f"{LOST}it was saved as a `{kind}`, and an expert writes text: save it as a `...ForCausalLM`, with its "
            "head\n"
        )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'\xef\xbb\xbf{"model_type": "llama"}', "JSON: it begins with a byte order mark\nhint: save it as UTF-8 "
         "without a byte order mark\n"),
        ('{"model_type": "llama"}'.encode("utf-16"), "JSON: it begins with a byte order mark\nhint: save it as UTF-8 "
         "without a byte order mark\n"),
        (b'{"model_type": "lla', f"JSON: Unterminated string starting at: line 1 column 16 (char 15)\n{BY_HAND}"),
        (b"[]", f"it holds a list where an object is expected\n{BY_HAND}"),
        (b'{"a": 1, "a": 2}', "the key `a` appears twice\nhint: remove all but one\n"),
    ],
)  # fmt: skip
def test_a_config_that_is_no_object(text: bytes, why: str) -> None:
    """Each has a hint."""
    Path("models/code/config.json").write_bytes(text)
    valid = "is not valid " if why.startswith("JSON") else "is not valid: "
    assert refused() == f"error: expert `code`: `WORK/models/code/config.json` {valid}{why}"


def test_another_ffn_width(tiny: TinyMaker) -> None:
    """The way out is in the hint."""
    shutil.rmtree("models/math")
    shutil.copytree(tiny("llama", 2, intermediate_size=40), "models/math")
    assert refused() == (
        "error: expert `math` has FFN width 40, and the widest expert has 48\n"
        "hint: set `experts[1].pad: true` to zero-pad narrower experts, which is exact\n"
    )


def test_a_missing_layer() -> None:
    """A checkpoint that lost a layer, and one whose config knows of fewer."""
    lost = [name for name in load_file("models/code/model.safetensors") if name.startswith("model.layers.1.")]
    change_tensors("code", dict.fromkeys(lost))
    change_config("math", num_hidden_layers=1)
    assert refused() == (
        "error: expert `code` lacks 9 of 21 tensors:\n"
        "  model.layers.1.input_layernorm.weight\n"
        "  model.layers.1.self_attn.q_proj.weight\n"
        "  model.layers.1.self_attn.k_proj.weight\n"
        "  model.layers.1.self_attn.v_proj.weight\n"
        "  and 5 more\n"
        "hint: download or copy the model again, or set its config right if that is of another model\n"
        "error: expert `math` does not fit the base: number of layers is `1`, the base's is `2`\n"
        "hint: experts must be fine-tunes of the base\n"
        "error: expert `math`: `llama` has no place for 9 of 21 tensors:\n"
        "  model.layers.1.input_layernorm.weight\n"
        "  model.layers.1.mlp.down_proj.weight\n"
        "  model.layers.1.mlp.gate_proj.weight\n"
        "  model.layers.1.mlp.up_proj.weight\n"
        "  and 5 more\n"
        "hint: a build would silently drop them; remove them, or use the checkpoint they belong to\n"
    )


def test_an_extra_layer() -> None:
    """A layer that the config does not know would be dropped in silence."""
    change_tensors("code", {UP.replace("1", "2"): torch.zeros(48, 32)})
    assert refused() == (
        "error: expert `code`: `llama` has no place for 1 of 22 tensors:\n"
        "  model.layers.2.mlp.up_proj.weight\n"
        "hint: a build would silently drop them; remove them, or use the checkpoint they belong to\n"
    )


def test_another_tokenizer() -> None:
    """Tokens with another id are counted and shown."""
    path = Path("models/math/tokenizer.json")
    path.write_text(path.read_text(encoding="utf-8").replace('"bonjour"', '"ciao"'), encoding="utf-8")
    assert refused() == (
        "error: expert `math` has another tokenizer than the base: "
        "2 tokens with another id or none, such as `ciao`, `bonjour`\n"
        "hint: the experts see the base's token ids; use specialists that kept the base's tokenizer\n"
    )


def test_a_damaged_tokenizer() -> None:
    """The file is named once, be it the base's or an expert's."""
    whole = Path("models/base/tokenizer.json").read_text(encoding="utf-8")
    Path("models/base/tokenizer.json").write_text("{}", encoding="utf-8")
    wrong = "is not a tokenizer's file\nhint: download or copy it again\n"
    assert refused() == f"error: `base_model`: `WORK/models/base/tokenizer.json` {wrong}"
    Path("models/base/tokenizer.json").write_text(whole, encoding="utf-8")
    Path("models/math/tokenizer.json").write_text("{}", encoding="utf-8")
    path = "`WORK/models/math/tokenizer.json`"
    assert refused() == f"error: expert `math` cannot be compared with the base: {path} {wrong}"


def test_an_adapter_that_does_not_fit() -> None:
    """Trained on a model of another width."""
    write_adapter("org/wider", 64, 64)
    factor = "  base_model.model.model.layers.0.self_attn.q_proj.lora_"
    assert refused(recipe=RECIPE.replace("models/code", "adapter")) == (
        "error: expert `code`: Adapter `adapter` does not fit base `models/base`: 2 of 2 tensors\n"
        f"{factor}A.weight: adapter (2, 64), expected (2, 32) for rank 2 and base (32, 32)\n"
        f"{factor}B.weight: adapter (64, 2), expected (32, 2) for rank 2 and base (32, 32)\n"
        "hint: it was trained on `org/wider`\n"
    )


def test_an_adapter_of_another_name_is_only_warned_of() -> None:
    """Models are moved and renamed: what fits is built."""
    write_adapter("org/renamed", 32, 32)
    status, stdout, stderr = build(recipe=RECIPE.replace("models/code", "adapter"))
    assert (status, stdout.splitlines()[0]) == (0, "built out (132 kB, verified)")
    assert [line for line in stderr.splitlines() if line.startswith("warning: ")] == [
        "warning: the plan has a warning (`adapter-base-differs`): `moemerge plan recipe.yaml` explains it",
        "warning: expert `code` has the base's FFNs: it adds nothing",
    ]
    assert Path("out/model.safetensors").is_file()

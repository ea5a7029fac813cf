"""Model folders: what is read, what is refused, and that nothing outside them is followed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moemerge.errors import SourceError
from moemerge.sources import Checkpoint, open_checkpoint
from moemerge.sources.card import stated_in_card
from moemerge.sources.weights import Folder, shard_map, sources_of

INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(llama: Path, tmp_path: Path) -> Path:
    """A copy of a tiny model that a test may spoil."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


def shard(folder: Path) -> dict[str, Any]:
    """Splits `model.safetensors` into two shards with an index, and returns the index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {
        "metadata": {"total_size": sum(value.nbytes for value in tensors.values())},
        "weight_map": {name: file for file, held in halves.items() for name in held},
    }
    (folder / INDEX).write_text(json.dumps(index))
    return index


def refusal(spec: str, root: Path, **settings: Any) -> SourceError:
    """The error with which a model is refused."""
    with pytest.raises(SourceError) as caught:
        open_checkpoint(spec, root=root, **settings)
    return caught.value


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | values).items() if v is not None}))


def test_single_file(model: Path, llama: Path) -> None:
    """Config, tensors, files and place of a plain model folder."""
    opened = open_checkpoint("model", root=model.parent)
    expected = load_file(llama / "model.safetensors")
    assert (opened.kind, opened.spec, opened.location, opened.revision) == ("folder", "model", model, None)
    assert opened.config["model_type"] == "llama"
    assert (opened.adapter, opened.warnings, opened.has_weights) == (None, (), True)
    assert set(opened.tensors) == set(expected)
    assert list(opened.files) == ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    for name, value in expected.items():
        assert torch.equal(opened.read(name), value)
        place = opened.bytes_of(name)
        assert place is not None
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            assert file.read(place.length) == value.numpy().tobytes()


def test_shards_give_the_same_tensors(model: Path, llama: Path) -> None:
    """A sharded model reads as the single file did."""
    shard(model)
    opened = open_checkpoint("model", root=model.parent)
    for name, value in load_file(llama / "model.safetensors").items():
        assert torch.equal(opened.read(name), value)


def test_a_single_file_wins_over_an_index(model: Path) -> None:
    """As in transformers: a stale index beside `model.safetensors` is not looked at."""
    (model / INDEX).write_text("nonsense")
    assert open_checkpoint("model", root=model.parent).has_weights


def test_a_folder_without_weights_opens_empty(model: Path) -> None:
    """A plan can be made from configs alone."""
    (model / "model.safetensors").unlink()
    opened = open_checkpoint("model", root=model.parent)
    assert (opened.has_weights, dict(opened.tensors)) == (False, {})


def test_configs_only_still_reads_the_headers_of_what_is_here(model: Path) -> None:
    """`configs_only` spares downloads: the header of a local file costs nothing, and a broken one is found."""
    assert open_checkpoint("model", root=model.parent, configs_only=True).has_weights
    (model / "model.safetensors").write_bytes(b"broken")
    assert "is not a safetensors file" in refusal("model", model.parent, configs_only=True).message


def test_nothing_heavy_is_imported(model: Path) -> None:
    """Opening a local folder loads neither torch nor transformers, gguf, numpy or the hub's library."""
    code = (
        "import sys; from pathlib import Path; from moemerge.sources import open_checkpoint;"
        f"assert open_checkpoint('model', root=Path({str(model.parent)!r})).digest();"
        "heavy = {'torch', 'transformers', 'gguf', 'numpy', 'peft', 'huggingface_hub'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digest_follows_headers(model: Path, llama: Path, tmp_path: Path) -> None:
    """Equal folders have equal digests wherever they lie; another shape, name or place changes it."""
    first = open_checkpoint("model", root=tmp_path).digest()
    assert first == open_checkpoint(str(llama), root=tmp_path).digest()
    assert len(first) == 32
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(33)
    save_file(tensors, model / "model.safetensors")
    assert open_checkpoint("model", root=tmp_path).digest() != first


INDEX_CASES = {
    "missing shard": (
        lambda index: index["weight_map"].update({"x": "model-00003-of-00003.safetensors"}),
        "Model `model` is incomplete: 1 of 3 shards are missing from `{model}`: `model-00003-of-00003.safetensors`",
    ),
    "tensor elsewhere": (
        lambda index: index["weight_map"].update({"lm_head.weight": "model-00002-of-00002.safetensors"}),
        "Model `model` is inconsistent: 1 of 21 tensors in `model.safetensors.index.json` are not in the shard that it "
        "names\n  lm_head.weight: not in model-00002-of-00002.safetensors",
    ),
    "no map": (
        lambda index: index.pop("weight_map"),
        "`{model}/model.safetensors.index.json` is not valid: it needs a `weight_map` that is not empty",
    ),
    "parent": (
        lambda index: index["weight_map"].update({"lm_head.weight": "../model.safetensors"}),
        "`{model}/model.safetensors.index.json` is not valid: it places tensor `lm_head.weight` in "
        "`../model.safetensors`, which is not the plain name of a `.safetensors` file in the same folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEX_CASES)
def test_a_bad_index_is_refused(case: str, model: Path) -> None:
    """Each way in which an index can be wrong has its message."""
    spoil, message = INDEX_CASES[case]
    index = shard(model)
    spoil(index)
    (model / INDEX).write_text(json.dumps(index))
    error = refusal("model", model.parent)
    assert error.message == message.format(model=model)
    assert error.hint in ("download or copy the model again", "download or convert the model again")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "..", ".", "", "a/b.safetensors", "a\\b.safetensors", "C:x.safetensors", "x\0.safetensors", 3],
)
def test_only_plain_names_are_followed(name: Any, tmp_path: Path) -> None:
    """An index cannot name anything outside its folder, in any system's spelling."""
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(SourceError, match="not the plain name") as caught:
        shard_map(Folder.at(tmp_path, "m"), INDEX, ".safetensors")
    assert caught.value.code == "source"
    assert sources_of({"w": name}) == []


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=12)), max_size=5))
@settings(deadline=None, max_examples=50)
def test_any_weight_map_is_refused_or_stays_inside(weight_map: dict[str, Any]) -> None:
    """Whatever an index holds, only SourceError comes of it, and what is to be downloaded is a plain name."""
    for name in sources_of(weight_map):
        assert os.path.basename(name) == name
    folder = Path("/tmp" if not os.path.isdir("/dev/shm") else "/dev/shm") / f"moemerge-index-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    try:
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(SourceError):
            shard_map(Folder.at(folder, "m"), INDEX, ".safetensors")
    finally:
        shutil.rmtree(folder)


def test_links_may_not_leave_the_folder(model: Path, tmp_path: Path) -> None:
    """A shard or tokenizer that is a link to elsewhere is refused; a link inside the folder is fine."""
    inside = model / "weights"
    inside.mkdir()
    shutil.move(model / "model.safetensors", inside / "w")
    (model / "model.safetensors").symlink_to("weights/w")
    assert open_checkpoint("model", root=tmp_path).has_weights
    shutil.move(inside / "w", tmp_path / "outside")
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(tmp_path / "outside")
    error = refusal("model", tmp_path)
    assert error.message == (
        f"`model.safetensors` of model `model` is a link that leaves its folder, to `{tmp_path / 'outside'}`"
    )
    assert error.hint == f"copy the file into `{model}`"
    (model / "model.safetensors").unlink()
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").symlink_to("/etc/passwd")
    assert refusal("model", tmp_path).message == (
        "`tokenizer.json` of model `model` is a link that leaves its folder, to `/etc/passwd`"
    )


def test_a_link_to_the_folder_itself_is_fine(model: Path, tmp_path: Path) -> None:
    """Users keep models wherever they like and link to them."""
    (tmp_path / "link").symlink_to(model)
    assert open_checkpoint("link", root=tmp_path).location == model


def test_links_within_a_hub_cache_are_fine(model: Path, tmp_path: Path) -> None:
    """Snapshots in the hub's cache are links into the repository's `blobs`, and no further."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("a" * 40)
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(model.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert open_checkpoint(str(snapshot), root=tmp_path).has_weights
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(model / "tokenizer.json")
    assert "leaves its folder" in refusal(str(snapshot), tmp_path).message


QUANTISED = {
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
    "awq": ({"quantization_config": {"quant_method": "awq"}}, "AWQ"),
    "bitsandbytes": ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
    "compressed": ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    "unknown": ({"quantization_config": {"quant_method": "zip4"}}, "zip4"),
    "unnamed": ({"compression_config": {"bits": 4}}, "a method that it does not name"),
    "mlx": ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
}


def pack(model: Path) -> None:
    """Puts whole numbers where a matrix was, as quantised models have them."""
    state = load_file(model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(state | {name: torch.zeros(48, 8, dtype=torch.uint32)}, model / "model.safetensors")


@pytest.mark.parametrize("case", QUANTISED)
def test_quantisation_that_was_left_behind_is_said(case: str, model: Path) -> None:
    """Trainers leave `quantization_config` in the config of merged, plain weights: these are used as they are."""
    values, method = QUANTISED[case]
    change_config(model, **values)
    opened = open_checkpoint("model", root=model.parent)
    assert not values.keys() & opened.config.keys()
    assert [(problem.code, problem.message, problem.hint) for problem in opened.warnings] == [
        (
            "quantisation-left-behind",
            f"Model `model` has a config that says {method}, but its weights are plain: they are used as they are",
            f"remove `{next(iter(values))}` from its `config.json`",
        )
    ]


def test_plain_weights_that_are_quantised_when_run_are_refused(model: Path) -> None:
    """BitNet's weights may be plain, and the model that was trained is the quantised one."""
    change_config(model, quantization_config={"quant_method": "bitnet", "quantization_mode": "online"})
    error = refusal("model", model.parent)
    assert error.message == "Model `model` is quantised with BitNet whenever it runs, so it has no plain weights"


@pytest.mark.parametrize("case", QUANTISED)
def test_quantised_configs_are_refused_by_name(case: str, model: Path) -> None:
    """A quantised model is named as what it is, with the way out."""
    values, method = QUANTISED[case]
    change_config(model, **values)
    pack(model)
    error = refusal("model", model.parent)
    assert error.message == f"Model `model` is quantised with {method}, so it has no plain weights"
    assert error.hint == "use the unquantised original, or dequantise the model first and save it as plain safetensors"


@pytest.mark.parametrize(
    ("tensor", "method"),
    [
        ("model.layers.0.mlp.up_proj.qweight", "GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.weight.absmax", "bitsandbytes (4 bits)"),
        ("model.layers.0.mlp.up_proj.SCB", "bitsandbytes (8 bits)"),
        ("model.layers.0.mlp.up_proj.weight_packed", "compressed-tensors"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "FP8"),
    ],
)
def test_quantised_tensors_are_refused_by_name(tensor: str, method: str, model: Path) -> None:
    """A config that keeps silent does not hide quantised tensors."""
    save_file(load_file(model / "model.safetensors") | {tensor: torch.zeros(1)}, model / "model.safetensors")
    assert refusal("model", model.parent).message == (
        f"Model `model` is quantised with {method} (it holds `{tensor}`), so it has no plain weights"
    )


def test_remote_code_is_never_needed(model: Path) -> None:
    """`auto_map` is dropped with a warning where transformers has the class, and refused where it has not."""
    change_config(model, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    opened = open_checkpoint("model", root=model.parent)
    assert "auto_map" not in opened.config
    assert [(problem.code, problem.message) for problem in opened.warnings] == [
        (
            "remote-code-ignored",
            "Model `model` carries remote code (`auto_map`), which is not run: transformers' own `llama` is used",
        )
    ]
    change_config(model, model_type="own_thing")
    error = refusal("model", model.parent)
    assert error.message == (
        "Model `model` needs remote code: transformers has no class for its model_type `own_thing`, "
        "and moemerge runs no code from a model"
    )
    assert error.hint == "use a model whose class is in transformers"


BY_HAND = "download or copy it again, or mend it if you changed it"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "`{model}/config.json` is not valid JSON: Expecting value: line 1 column 1 (char 0)", BY_HAND),
        ("[]", "`{model}/config.json` is not valid: it holds a list where an object is expected", BY_HAND),
        (
            "{}",
            "`{model}/config.json` names no `model_type`",
            "mend it in its `config.json`, or take the original model's",
        ),
        ('{"a": 1, "a": 1}', "`{model}/config.json` is not valid: the key `a` appears twice", "remove all but one"),
    ],
)
def test_bad_configs(text: str, message: str, hint: str, model: Path) -> None:
    """A config that is empty, no object, or ambiguous."""
    (model / "config.json").write_text(text)
    error = refusal("model", model.parent)
    assert (error.message, error.hint) == (message.format(model=model), hint)


def test_a_config_that_is_not_text(model: Path) -> None:
    """Bytes that are not UTF-8 are refused too."""
    (model / "config.json").write_bytes(b"\xff\xff")
    assert refusal("model", model.parent).message.startswith(f"`{model}/config.json` is not valid JSON: 'utf-8' codec")


def test_folders_that_hold_no_model(model: Path, tmp_path: Path) -> None:
    """An empty folder, one with a GGUF file, one with model and adapter."""
    empty = tmp_path / "empty"
    empty.mkdir()
    error = refusal("empty", tmp_path)
    assert error.message == f"Model `empty` cannot be opened: `{empty}` holds no `config.json`"
    assert error.hint == "a model folder holds `config.json`, tokenizer files and `model*.safetensors`"
    (empty / "consolidated.safetensors").touch()
    assert refusal("empty", tmp_path).hint == (
        "`consolidated.safetensors` is in the form of its maker: convert it with the script that transformers has for "
        "it"
    )
    (empty / "checkpoint-500").mkdir()
    (empty / "checkpoint-500" / "adapter_config.json").touch()
    assert refusal("empty", tmp_path).hint == "name the folder in it that is meant, such as `empty/checkpoint-500`"
    (empty / "m.gguf").touch()
    assert refusal("empty/", tmp_path).hint == "name the file itself: `empty/m.gguf`"
    (model / "adapter_config.json").write_text("{}")
    error = refusal("model", tmp_path)
    assert error.message == (
        "Model `model` is ambiguous: its folder holds a model and an adapter (`adapter_config.json`)"
    )
    assert error.hint == (
        "move the adapter's config and weights into a folder of their own; `MODEL+ADAPTER` then names both"
    )


def pickled(model: Path, *, legacy: bool = False) -> None:
    state = load_file(model / "model.safetensors")
    torch.save(state, model / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (model / "model.safetensors").unlink()


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_only_where_allowed(legacy: bool, model: Path, llama: Path) -> None:
    """`.bin` weights are refused with the safer way, and read as tensors alone where the user allows it."""
    pickled(model, legacy=legacy)
    error = refusal("model", model.parent)
    assert error.message == (
        "Model `model` has its weights in pickled `.bin` files only, which can run code when they are read"
    )
    assert error.hint == (
        "convert it to safetensors (`save_pretrained` does), or set `allow_pickle: true` if you trust its author: "
        "only tensors are then unpickled"
    )
    opened = open_checkpoint("model", root=model.parent, allow_pickle=True)
    assert opened.kind == "pickle"
    assert len(opened.digest()) == 32
    for name, value in load_file(llama / "model.safetensors").items():
        assert (opened.tensors[name].origin, opened.bytes_of(name)) == ("unpickled", None)
        assert torch.equal(opened.read(name), value)
        assert torch.equal(opened.read(name, slice(1, 5)), value[1:5])
    opened.read("model.norm.weight").zero_()
    assert opened.read("model.norm.weight").abs().sum() > 0


def test_sharded_pickles(model: Path, llama: Path) -> None:
    """A `.bin` index is followed as the safetensors one is."""
    state = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(state)
    torch.save({name: state[name] for name in names[:5]}, model / "pytorch_model-00001-of-00002.bin")
    torch.save({name: state[name] for name in names[5:]}, model / "pytorch_model-00002-of-00002.bin")
    files = ["pytorch_model-00001-of-00002.bin"] * 5 + ["pytorch_model-00002-of-00002.bin"] * (len(names) - 5)
    index = {"weight_map": dict(zip(names, files, strict=True))}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    opened = open_checkpoint("model", root=model.parent, allow_pickle=True)
    assert torch.equal(opened.read(names[-1]), state[names[-1]])
    index["weight_map"]["ghost"] = files[0]
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert refusal("model", model.parent, allow_pickle=True).message == (
        "Model `model` is inconsistent: `pytorch_model.bin.index.json` names tensors that its shards do not hold: ghost"
    )


class Attack:
    """Would make a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_run_nothing(model: Path, tmp_path: Path) -> None:
    """Even where pickle is allowed, code in one is not run, and the error says what the file is."""
    pickled(model)
    torch.save({"w": Attack(tmp_path / "run")}, model / "pytorch_model.bin")
    error = refusal("model", model.parent, allow_pickle=True)
    assert error.message.startswith(f"`{model}/pytorch_model.bin` cannot be unpickled as plain tensors: ")
    assert not (tmp_path / "run").exists()
    torch.save([torch.zeros(1)], model / "pytorch_model.bin")
    assert refusal("model", model.parent, allow_pickle=True).message == (
        f"`{model}/pytorch_model.bin` holds something else than a map from names to tensors"
    )
    torch.save({"epoch": 3, "state_dict": {"w": torch.zeros(1)}}, model / "pytorch_model.bin")
    assert refusal("model", model.parent, allow_pickle=True).hint == (
        "it is a training's checkpoint: save what is in its `state_dict` as safetensors"
    )
    torch.save({"w": torch.zeros(1, dtype=torch.complex64)}, model / "pytorch_model.bin")
    assert refusal("model", model.parent, allow_pickle=True).message == (
        f"`{model}/pytorch_model.bin` holds tensor `w` of dtype `complex64`, which is not supported"
    )


def test_files_beside(model: Path) -> None:
    """Licences, templates and notices come along; weights, code and everything else stay."""
    (model / "additional_chat_templates").mkdir()
    for name in (
        "additional_chat_templates/tool.jinja",
        "LICENSE",
        "NOTICE.txt",
        "chat_template.jinja",
        "model.py",
        "x.bin",
    ):
        (model / name).write_text("x")
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.")
    opened = open_checkpoint("model", root=model.parent)
    assert list(opened.files) == [
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
        "additional_chat_templates/tool.jinja", "LICENSE", "NOTICE.txt",
    ]  # fmt: skip
    assert all(path.is_file() for path in opened.files.values())
    assert opened.licence == "apache-2.0"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\nlicense: !!python/object/apply:os.system [ls]\n---\n", "ls"),
        ("---\nlicense: {a: b}\n---\n", None),
        ("---\nlicense: ''\n---\n", None),
        ("---\n- a\n---\n", None),
        ("---\n{{{\n---\n", None),
        ("---\na: &a [x]\nb: [*a, *a]\nlicense: mit\ndate: 2024-99-99\n---\n", "mit"),
        ("# No metadata\n---\nlicense: mit\n---\n", None),
        ("", None),
    ],
)
def test_licence_in_a_card(card: str, licence: str | None) -> None:
    """The licence comes from the card's metadata; a card that cannot be read has none."""
    assert stated_in_card(card).licence == licence


@given(st.text(alphabet="-\n :[]{}&*!'\"license mt\t#", max_size=60))
@settings(deadline=None, max_examples=200)
def test_any_card_is_read_without_a_crash(text: str) -> None:
    """Whatever stands in a card, reading it raises nothing."""
    found = stated_in_card(f"---\n{text}\n---\n")
    assert found.licence is None or isinstance(found.licence, str)


def test_a_checkpoint_is_what_the_contract_says(model: Path) -> None:
    """`base` names the base where one is given."""
    base = open_checkpoint("model", root=model.parent)
    assert isinstance(base, Checkpoint)
    assert open_checkpoint("base", root=model.parent, base=base) is base

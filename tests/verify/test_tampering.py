"""Whatever is changed in a built folder is found and named: the tensor, the field, the file."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.verify.conftest import Folder, set_value

Tamper = Callable[..., Folder]
MIXTRAL = "model.layers.0.block_sparse_moe"
QWEN = "model.layers.1.mlp"


# tensors


def test_one_bit_of_a_copied_tensor(tampered: Tamper) -> None:
    """Byte 1234 of a [48, 32] fp32 matrix lies in element 308, which is [9, 20]."""
    folder = tampered()
    folder.flip(f"{MIXTRAL}.experts.1.w3.weight", byte=1234)
    assert folder.differences() == [
        f"{MIXTRAL}.experts.1.w3.weight: "
        "1 of 6144 bytes differ from `model.layers.0.mlp.up_proj.weight` of `e1`, first at [9, 20]"
    ]


def test_one_bit_of_a_copied_tensor_without_its_source(tampered: Tamper) -> None:
    """The recorded digest is enough to find it."""
    folder = tampered()
    folder.flip(f"{MIXTRAL}.experts.1.w3.weight", byte=1234)
    expected = [f"{MIXTRAL}.experts.1.w3.weight: its bytes changed after the build"]
    assert folder.differences(sources=False) == expected


def test_one_bit_in_the_fused_layout(tampered: Tamper) -> None:
    """The place is that in the whole [3, 96, 32] tensor: expert 2's up projection begins at row 48."""
    folder = tampered("qwen3_moe", output={"layout": "fused"})
    folder.flip(f"{QWEN}.experts.gate_up_proj", byte=4 * (2 * 96 * 32 + 50 * 32 + 7))
    assert folder.differences() == [
        f"{QWEN}.experts.gate_up_proj: "
        "1 of 6144 bytes differ from `model.layers.1.mlp.up_proj.weight` of `e2`, first at [2, 50, 7]"
    ]


@pytest.mark.parametrize(("host", "fields", "name", "value"), [
    ("granitemoe_swa", {}, "model.layers.1.self_attn.sinks", -32768.0),
    ("qwen2_moe", {"architecture": "granitemoe"}, "model.layers.0.self_attn.o_proj.bias", 0.0),
])  # fmt: skip
def test_one_bit_of_what_no_source_has(
    host: str, fields: dict[str, Any], name: str, value: float, tampered: Tamper
) -> None:
    """A sink that would take weight, a bias that would add: each must be what does nothing."""
    folder = tampered(host, **fields)
    folder.flip(name, byte=4 * 3 + 2, bit=6)
    (found,) = folder.differences()
    assert found.startswith(f"{name}: 1 of ")
    assert f"should be {value:g}" in found


GLM = "model.layers.1.mlp"


def test_a_correction_that_is_not_zero(tampered: Tamper) -> None:
    """It would send tokens elsewhere, and no loading of the folder would say so."""
    folder, name = tampered("glm4_moe"), f"{GLM}.gate.e_score_correction_bias"
    folder.write(name, struct.pack("<f", 1e-3), at=8)
    (found,) = folder.differences()
    assert found.startswith(f"{name}: 1 of 3 values are not 0, first at [2], ")


def test_a_shared_expert_without_a_gate_that_speaks(tampered: Tamper) -> None:
    """Its down projection must be zero; what its gate and up are no output depends on, but the record does."""
    folder, name = tampered("glm4_moe"), f"{GLM}.shared_experts.down_proj.weight"
    folder.write(name, struct.pack("<f", 0.5), at=4 * 49)
    (found,) = folder.differences()
    assert found.startswith(f"{name}: 1 of 1536 values are not 0, first at [1, 1], ")


def test_a_correction_in_another_dtype(built: Any, tmp_path: Path) -> None:
    """The class keeps it in fp32: in bf16 what a training makes of it would be rounded."""
    from safetensors.torch import load_file, save_file

    folder = Folder(Path(shutil.copytree(built("glm4_moe", dtype="bfloat16"), tmp_path / "out")))
    file, name = folder.path / "model.safetensors", f"{GLM}.gate.e_score_correction_bias"
    state = load_file(file)
    save_file({**state, name: state[name].bfloat16()}, file, {"format": "pt"})
    assert f"{name}: is BF16, and `glm4_moe` keeps it in F32" in folder.differences()


def test_one_bit_of_a_merged_tensor(tampered: Tamper) -> None:
    """The highest bit of the fraction changes the value; expected and found are both shown."""
    folder = tampered()
    name = "model.layers.1.self_attn.k_proj.weight"
    folder.flip(name, byte=4 * 37 + 2, bit=6)
    (found,) = folder.differences()
    assert found.startswith(f"{name}: 1 of 512 values are not the mean of `e0`, `e1`, `e2`, first at [1, 5], which is ")
    assert " and should be " in found


def test_the_last_bit_of_a_merged_tensor(tampered: Tamper) -> None:
    """One unit in the last place is within the recomputation's tolerance, and the digest still sees it."""
    folder = tampered()
    folder.flip("model.norm.weight", byte=0)
    assert folder.differences() == ["model.norm.weight: its bytes changed after the build"]


def test_one_bit_of_the_gate(tampered: Tamper) -> None:
    """A fitted tensor has no source: its digest tells."""
    folder = tampered()
    folder.flip(f"{MIXTRAL}.gate.weight", byte=5)
    assert folder.differences() == [f"{MIXTRAL}.gate.weight: its bytes changed after the build"]


@pytest.mark.parametrize(
    ("host", "name", "said"),
    [
        ("gemma4_text", "router.scale", "values are not"),
        ("gemma4_text", "pre_feedforward_layernorm_2.weight", "values are not the mean of"),
        ("gemma4_text", "post_feedforward_layernorm_2.weight", "values are not 4.096"),
        ("gemma4_text", "router.per_expert_scale", "values are not 1"),
        ("gemma4_text", "mlp.down_proj.weight", "values are not 0"),
        ("gemma4_text", "experts.down_proj", "times 0.000244141"),
        ("beam", "self_attn.gate_bias", "values are not 30"),
        ("beam", "self_attn.q_norm.weight", ", plus 1, times 0.632456"),
    ],
)
def test_what_a_host_has_of_its_own(host: str, name: str, said: str, tampered: Tamper) -> None:
    """A byte of what is made of the base's tensors, or filled, is seen whatever the record says."""
    folder = tampered(host)
    tensor = f"model.layers.1.{name}"
    folder.flip(tensor, byte=2, bit=5)
    digest = xxhash.xxh3_128_hexdigest(folder.read(tensor))
    folder.record(lambda record: record["tensors"].update({tensor: digest}))
    assert [line for line in folder.differences() if line.startswith(f"{tensor}: ") and said in line]


@pytest.mark.parametrize("names", [("w1", "w3", "w2"), None], ids=["mixtral", "qwen2_moe"])
def test_two_experts_swapped(names: tuple[str, ...] | None, tampered: Tamper) -> None:
    """Each matrix is named with the one whose bytes lie in its place."""
    folder = tampered("mixtral" if names else "qwen2_moe")
    block, names = (MIXTRAL, names) if names else (QWEN, ("gate_proj", "up_proj", "down_proj"))
    layer = block.split(".")[2]
    expected = []
    for name in names:
        folder.swap(f"{block}.experts.0.{name}.weight", f"{block}.experts.2.{name}.weight")
    for expert, other in ((0, 2), (2, 0)):
        for name, dense in zip(names, ("gate", "up", "down"), strict=True):
            source = f"model.layers.{layer}.mlp.{dense}_proj.weight"
            expected.append(
                (
                    f"{block}.experts.{expert}.{name}.weight: ",
                    f" of 6144 bytes differ from `{source}` of `e{expert}`, first at [0, 0]: "
                    f"they are those of `{block}.experts.{other}.{name}.weight`",
                )
            )
    found = folder.differences()
    assert len(found) == len(expected)
    for line, (start, end) in zip(found, expected, strict=True):
        assert line.startswith(start)
        assert line.endswith(end)


def test_gate_and_up_of_one_expert_swapped(tampered: Tamper) -> None:
    """The same shape, the same expert, the wrong role."""
    folder = tampered("qwen3_moe")
    gate, up = f"{QWEN}.experts.1.gate_proj.weight", f"{QWEN}.experts.1.up_proj.weight"
    folder.swap(gate, up)
    found = folder.differences()
    assert [line.split(": ")[0] for line in found] == [gate, up]
    assert found[0].endswith(f"of `e1`, first at [0, 0]: they are those of `{up}`")
    assert found[1].endswith(f"of `e1`, first at [0, 0]: they are those of `{gate}`")


def test_a_wrong_build_is_not_believed(tampered: Tamper) -> None:
    """A swap that the record agrees with, as a mistake in `families` would make it, is found in the sources."""
    import yaml

    folder = tampered()
    gate, up = (f"{MIXTRAL}.experts.0.{name}.weight" for name in ("w1", "w3"))
    folder.swap(gate, up)
    record = yaml.safe_load((folder.path / "moemerge.yaml").read_text())
    record["tensors"][gate], record["tensors"][up] = record["tensors"][up], record["tensors"][gate]
    (folder.path / "moemerge.yaml").write_text(yaml.safe_dump(record))
    assert folder.differences(sources=False) == []
    found = folder.differences(level="full")
    assert len(found) == 2
    assert found[0].startswith(f"{gate}: ")
    assert found[0].endswith(
        "of `e0`, first at [0, 0]; its digest is the recorded one, so the source changed or the build was wrong"
    )


@pytest.mark.parametrize("value", [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"], ids=["nan", "-inf"])
def test_nan_and_inf(value: bytes, tampered: Tamper) -> None:
    """Found even where nothing else is known of the value: in the gate."""
    folder = tampered()
    folder.write(f"{MIXTRAL}.gate.weight", value, at=4 * 40)
    assert folder.differences() == [f"{MIXTRAL}.gate.weight: holds NaN or Inf, first at [1, 8]"]


def test_nan_in_copied_and_merged_tensors(tampered: Tamper) -> None:
    """The comparison says what is wrong, the scan what is there."""
    folder = tampered()
    for name in ("model.norm.weight", f"{MIXTRAL}.experts.0.w2.weight"):
        folder.write(name, b"\x00\x00\xc0\x7f", at=4)
    found = folder.differences()
    assert found[1] == f"{MIXTRAL}.experts.0.w2.weight: holds NaN or Inf, first at [0, 1]"
    assert found[2].startswith(
        "model.norm.weight: 1 of 32 values are not the mean of `e0`, `e1`, `e2`, first at [1], which is nan "
    )
    assert found[3] == "model.norm.weight: holds NaN or Inf, first at [1]"


def test_the_silent_shared_expert_must_be_silent(tampered: Tamper) -> None:
    """qwen2_moe's shared expert adds nothing only where its down projection is exactly zero."""
    folder = tampered("qwen2_moe")
    name = f"{QWEN}.shared_expert.down_proj.weight"
    folder.write(name, b"\x01\x00\x00\x00", at=4 * 50)
    expected = f"{name}: 1 of 1536 values are not 0, first at [1, 2], which is 1.40129846e-45 and should be 0"
    assert folder.differences() == [expected]


# shards


SHARDED = {"output": {"shard_size": "50KB"}}


def test_a_missing_shard(tampered: Tamper) -> None:
    """Named with the number of tensors that are gone with it; the others are still compared."""
    folder = tampered(**SHARDED)
    weight_map = json.loads((folder.path / "model.safetensors.index.json").read_text())["weight_map"]
    shard = weight_map["model.norm.weight"]
    (folder.path / shard).unlink()
    first = f"{MIXTRAL}.experts.0.w1.weight"
    folder.flip(first, byte=0)
    found = folder.differences()
    assert found[0] == f"{shard}: is missing, and {list(weight_map.values()).count(shard)} tensors with it"
    assert found[1].startswith(f"{first}: 1 of 6144 bytes differ")
    assert len(found) == 2


def test_a_truncated_shard(tampered: Tamper) -> None:
    """Shorter than its header says."""
    folder = tampered()
    path = folder.path / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    assert folder.differences() == [
        f"model.safetensors: is truncated: its header promises {size} bytes, it has {size - 10}"
    ]


def test_a_shard_that_is_too_long(tampered: Tamper) -> None:
    """Bytes after the last tensor belong to nothing."""
    folder = tampered()
    path = folder.path / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"more")
    expected = f"model.safetensors: is too long: its header promises {size} bytes, it has {size + 4}"
    assert folder.differences() == [expected]


def test_a_stale_file_beside_the_index(tampered: Tamper) -> None:
    """`model.safetensors` beats an index in transformers."""
    folder = tampered(**SHARDED)
    (folder.path / "model.safetensors").write_bytes(b"old")
    (folder.path / "model-00001-of-00002.safetensors").write_bytes(b"older")
    assert folder.differences() == [
        "model-00001-of-00002.safetensors: is stale: the index does not name it",
        "model.safetensors: is stale: the index does not name it, and transformers would load it instead",
    ]


def test_a_stale_shard_beside_a_single_file(tampered: Tamper) -> None:
    """Left by an earlier build of another size."""
    folder = tampered()
    (folder.path / "model-00001-of-00002.safetensors").write_bytes(b"older")
    expected = "model-00001-of-00002.safetensors: is stale: `model.safetensors` holds the weights"
    assert folder.differences() == [expected]


def test_a_missing_index(tampered: Tamper) -> None:
    """Without it transformers finds no weights, though they are all there."""
    folder = tampered(**SHARDED)
    (folder.path / "model.safetensors.index.json").unlink()
    assert folder.differences() == ["model.safetensors.index.json: is missing"]


def test_no_weights_at_all(tampered: Tamper) -> None:
    """One line, and not one a tensor."""
    folder = tampered()
    (folder.path / "model.safetensors").unlink()
    assert folder.differences() == ["model.safetensors: is missing"]


def test_a_wrong_total(tampered: Tamper) -> None:
    """`total_size` is the bytes of the tensors."""
    folder = tampered(**SHARDED)
    folder.edit("model.safetensors.index.json", set_value("metadata", "total_size", value=7))
    assert folder.differences() == [
        "model.safetensors.index.json: metadata.total_size is 7, the tensors have 169344 bytes"
    ]


def test_an_index_that_names_the_wrong_shard(tampered: Tamper) -> None:
    """Each tensor is in the shard where the index places it."""
    folder = tampered(**SHARDED)
    index = json.loads((folder.path / "model.safetensors.index.json").read_text())["weight_map"]
    right, wrong = index["model.norm.weight"], index["model.embed_tokens.weight"]
    folder.edit("model.safetensors.index.json", set_value("weight_map", "model.norm.weight", value=wrong))
    assert folder.differences() == [
        f"model.norm.weight: is in `{right}`, the index places it in `{wrong}`",
        "model.safetensors.index.json: changed after the build",
    ]


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", 7])
def test_an_index_that_leads_out_of_the_folder(name: Any, tampered: Tamper) -> None:
    """Nothing outside is opened."""
    folder = tampered(**SHARDED)
    folder.edit("model.safetensors.index.json", set_value("weight_map", "model.norm.weight", value=name))
    found = folder.differences()
    assert found[0] == (
        f"model.safetensors.index.json: places `model.norm.weight` in `{name}`, "
        "which is not the plain name of a safetensors file"
    )


def test_a_shard_that_is_a_link_out_of_the_folder(tampered: Tamper) -> None:
    """A link elsewhere is not followed."""
    folder = tampered()
    outside = folder.path.parent / "outside.safetensors"
    (folder.path / "model.safetensors").rename(outside)
    (folder.path / "model.safetensors").symlink_to(outside)
    assert folder.differences() == [f"model.safetensors: is a link out of the folder, to `{outside}`"]


def rewrite_header(folder: Folder, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the header of `model.safetensors`, its length kept by spaces."""
    path = folder.path / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_renamed_tensor(tampered: Tamper) -> None:
    """One is missing, one is over."""
    folder = tampered()
    name = f"{MIXTRAL}.experts.2.w2.weight"
    rewrite_header(folder, lambda header: header.update({"extra.weight": header.pop(name)}))
    assert folder.differences() == [f"{name}: is missing", "extra.weight: is not a tensor of this model"]


def test_a_transposed_tensor(tampered: Tamper) -> None:
    """As many bytes, another shape."""
    folder = tampered()
    name = f"{MIXTRAL}.experts.2.w2.weight"
    rewrite_header(folder, lambda header: header[name]["shape"].reverse())
    assert folder.differences() == [f"{name}: has the shape (48, 32), not (32, 48)"]


def test_a_header_without_its_format(tampered: Tamper) -> None:
    """transformers refuses a file whose metadata do not say `pt`."""
    folder = tampered()
    rewrite_header(folder, lambda header: header.pop("__metadata__"))
    assert folder.differences() == [
        'model.safetensors: lacks the metadata `{"format": "pt"}`, without which transformers does not load it'
    ]

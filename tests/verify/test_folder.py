"""Folders that the build made verify, whatever went into them, and the counts say what was looked at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from moemerge.errors import VerifyError
from moemerge.verify import Verification, verification_json, verify_folder
from tests.conftest import TinyMaker
from tests.hosts import HOSTS, every
from tests.moe import build_tiny
from tests.verify.conftest import Builder, Folder

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def good(folder: Path) -> Verification:
    found = verify_folder(folder)
    assert found.differences == ()
    assert found.notes == ()
    assert found.ok
    return found


@pytest.mark.parametrize("layout", ["per_expert", "fused"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("host", every())
def test_every_host_verifies(host: str, tied: bool, layout: str, built: Builder) -> None:
    """The three hosts, with and without a head of their own, in both layouts."""
    if tied and not HOSTS[host].tied:
        pytest.skip("its class ties nothing")
    good(built(host, {"tie_word_embeddings": tied}, output={"layout": layout, "shard_size": "40KB"}))


CASES: dict[str, dict[str, Any]] = {
    "mean of one": {"experts": (1,), "experts_per_token": 1},
    "base": {"merge": {"shared": "base"}},
    "weighted": {"merge": {"shared": "weighted"}, "expert_1": {"weight": 0.3}},
    "task_arithmetic": {"merge": {"shared": "task_arithmetic"}, "expert_1": {"weight": 0.3}},
    "task_arithmetic scaled": {"merge": {"shared": "task_arithmetic", "scaling": 0.25}},
    "slerp": {"merge": {"shared": "slerp", "slerp_t": 0.3}, "experts": (1, 2)},
    "ties": {"merge": {"shared": "ties", "density": 0.3, "scaling": 0.7}},
    "ties weighted": {"merge": {"shared": "ties"}, "expert_1": {"weight": 0.3}},
    "dare_ties": {"merge": {"shared": "dare_ties", "density": 0.7}, "seed": 5},
    "by group": {"merge": {"attention": "ties", "norms": "base", "embeddings": "task_arithmetic", "lm_head": "mean"}},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16", "merge": {"shared": "ties"}},
    "noise": {"expert_0": {"noise_scale": 0.01}, "seed": 3},
    "noise and scale": {"expert_0": {"noise_scale": 0.01, "residual_scale": 0.7}, "output": {"layout": "fused"}},
    "scale": {"expert_2": {"residual_scale": 0.7}},
    "in qwen2_moe": {"architecture": "qwen2_moe"},
    "all experts": {"experts_per_token": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_every_computation_is_repeated(case: str, built: Builder) -> None:
    """Merges, conversions, noise and factors are worked out again to one unit in the last place."""
    good(built("mixtral", {"scale": 4.0}, **CASES[case]))


@pytest.mark.parametrize(
    ("host", "config"),
    [
        ("mixtral", {"head_dim": 12, "rope_parameters": LLAMA3}),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
        ("qwen3_moe", {"attention_bias": True, "head_dim": 16}),
        ("glm4_moe", {"partial_rotary_factor": 0.75, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("mellum", {"attention_bias": True, "rope_parameters": LLAMA3}),
    ],
)
def test_configs_with_traps_verify(host: str, config: dict[str, Any], built: Builder) -> None:
    """Rope of another kind, head_dim of its own, windows on some layers, biases."""
    good(built(host, config))


@pytest.mark.parametrize("host", ["qwen2_moe", "glm4_moe", pytest.param("hunyuan_v1_moe", marks=pytest.mark.families)])
def test_a_shared_expert_verifies(host: str, built: Builder) -> None:
    """Behind a gate of one half its down projection is twice the source's, and without a gate the source's."""
    good(built(host, shared_experts=[{"model": "base", "residual_scale": 0.5}], experts=(1, 2)))


@pytest.mark.parametrize("host", ["glm4_moe", pytest.param("ernie4_5_moe", marks=pytest.mark.families)])
def test_what_is_added_for_the_choice_keeps_its_dtype(host: str, built: Builder) -> None:
    """Zeros in fp32 in a folder of bf16, with the sources at hand and without."""
    out = built(host, dtype="bfloat16")
    good(out)
    assert verify_folder(out, sources=False).ok


def test_padded_experts_and_the_base_as_an_expert_verify(tiny: TinyMaker, tmp_path: Path) -> None:
    """Zeros at the end of narrower experts; a model listed twice counts once in the mean."""
    base, narrow = tiny("qwen3", 0), tiny("qwen3", 1, intermediate_size=40)
    out = build_tiny(tmp_path / "out", base, ["base", narrow, narrow], expert_1={"pad": True}, expert_2={"pad": True})
    assert good(out).checked["copied"] == 6


def test_counts_say_what_was_read(built: Builder) -> None:
    """35 tensors: 18 of the experts copied, 15 merged, 2 routers; every byte of them read, five files digested."""
    found = good(built())
    assert found.checked == {"tensors": 35, "bytes": 169344, "files": 5, "copied": 18, "recomputed": 15}
    assert verification_json(found) == {"ok": True, "checked": dict(found.checked), "differences": [], "notes": []}


def test_the_light_level_leaves_out_copies(built: Builder) -> None:
    """At the end of a build, copied tensors are not read again."""
    found = verify_folder(built(), level="built")
    assert found.ok
    read = 169344 - 18 * 48 * 32 * 4
    assert found.checked == {"tensors": 35, "bytes": read, "files": 5, "copied": 0, "recomputed": 15}


def test_the_light_level_loads_neither_torch_nor_transformers(built: Builder) -> None:
    """Stored tensors are recomputed by numpy alone, so that the end of a build costs no imports."""
    program = (
        "import sys\nfrom moemerge.verify import verify_folder\n"
        f"found = verify_folder({str(built())!r}, level='built')\n"
        "print(found.ok, found.checked['recomputed'], sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("True 15 []\n", "")


def test_progress_ends_where_it_said(built: Builder) -> None:
    """The bytes that are announced are the bytes that are reported."""

    class Recorder:
        def __init__(self) -> None:
            self.stages: list[tuple[str, float, str]] = []
            self.done = 0.0

        def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
            self.stages.append((name, total, unit))

        def advance(self, amount: float = 1) -> None:
            self.done += amount

        def note(self, text: str) -> None:
            raise AssertionError(text)

    recorder = Recorder()
    verify_folder(built(), progress=recorder)
    assert recorder.stages == [("verify", 169344, "bytes")]
    assert recorder.done == 169344


@pytest.fixture
def adapters(tiny: TinyMaker, tmp_path: Path) -> list[Path]:
    """Two adapters of bf16 models."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        lora = LoraConfig(r=4, target_modules=["q_proj", "gate_proj", "down_proj"], init_lora_weights=False)
        base = AutoModelForCausalLM.from_pretrained(tiny("llama", 0, dtype="bfloat16"), dtype=torch.bfloat16)
        found.append(tmp_path / f"adapter-{seed}")
        get_peft_model(base, lora).save_pretrained(str(found[-1]))
    return found


def test_folded_adapters_verify(tiny: TinyMaker, adapters: list[Path], tmp_path: Path) -> None:
    """LoRA specialists: folded matrices are folded again, untouched ones are the base's bytes."""
    base = tiny("llama", 0, dtype="bfloat16")
    for method in ("mean", "ties", "slerp"):
        found = good(build_tiny(tmp_path / method, base, adapters, merge={"shared": method}))
        # computed: gate and down of 2 experts and q, in 2 layers; the rest is the base's own bytes
        assert found.checked["recomputed"] == 10
        assert found.checked["copied"] == 35 - 6 - 2 - 10
    good(build_tiny(tmp_path / "converted", base, adapters, dtype="float32"))


@pytest.mark.parametrize(("bit", "believed"), [(0, True), (2, False)])
def test_a_folded_value_may_be_off_by_its_last_bit(
    bit: int, believed: bool, tiny: TinyMaker, adapters: list[Path], tmp_path: Path
) -> None:
    """As another machine's product of matrices may make it; by more than that it is wrong, whatever the record says."""
    folder = Folder(build_tiny(tmp_path / "out", tiny("llama", 0, dtype="bfloat16"), adapters))
    name = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    before = xxhash.xxh3_128_hexdigest(folder.read(name))
    folder.flip(name, byte=1234, bit=bit)  # of element 617, which is [19, 9]
    text = (folder.path / "moemerge.yaml").read_text(encoding="utf-8")
    after = xxhash.xxh3_128_hexdigest(folder.read(name))
    (folder.path / "moemerge.yaml").write_text(text.replace(before, after), encoding="utf-8")
    found = folder.differences()
    if believed:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(f"{name}: 1 of 1536 values are not `model.layers.0.mlp.gate_proj.weight` of `e1`")
        assert "first at [19, 9], which is" in found[0]


# sources that are not there


def test_a_source_that_is_gone_is_said(movable: Path) -> None:
    """What needs it is checked against its digest, the rest is compared as ever."""
    (movable.parent / "one").rename(movable.parent / "elsewhere")
    found = verify_folder(movable)
    assert found.ok
    assert found.notes == ("sources of `e0` not found: checked against the recorded digests",)
    assert found.checked["copied"] == 6  # those of `two`
    assert found.checked["recomputed"] == 0
    assert found.checked["bytes"] == sum(p.stat().st_size for p in movable.glob("*.safetensors")) - _header(movable)


def _header(folder: Path) -> int:
    return 8 + int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")


def test_a_changed_source_is_said(movable: Path, tiny: TinyMaker) -> None:
    """A source with other headers than the recorded ones is not compared with."""
    shutil.rmtree(movable.parent / "two")
    shutil.copytree(tiny("llama", 2, num_hidden_layers=3), movable.parent / "two")
    found = verify_folder(movable)
    assert found.ok
    assert found.notes == ("sources of `e1` changed since the build: checked against the recorded digests",)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "gpt2"}, "`gpt2` is not a family that is known here"),
        ({"num_hidden_layers": "two"}, "the config cannot be read (invalid literal for int() with base 10: 'two')"),
    ],
)
def test_a_base_whose_config_changed_is_said(change: dict[str, Any], why: str, movable: Path) -> None:
    """Headers as they were, and a config that is none of a base: a note and no traceback."""
    path = movable.parent / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf-8")
    found = verify_folder(movable)
    assert (found.differences, found.notes) == (
        (), (f"sources of `base` changed since the build: {why}: checked against the recorded digests",)
    )  # fmt: skip


def test_a_broken_source_is_said(movable: Path) -> None:
    """A source that is there and cannot be read is named with the reason."""
    (movable.parent / "two" / "model.safetensors").write_bytes(b"broken!")
    (note,) = verify_folder(movable).notes
    assert note.startswith("sources of `e1` cannot be read (`")
    assert note.endswith("it has 7 bytes): checked against the recorded digests")


def test_a_pickled_source_is_read_on_request_alone(movable: Path) -> None:
    """What the folder says counts for nothing: it may come from anybody."""
    import torch
    from safetensors.torch import load_file

    weights = movable.parent / "two" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    out = build_tiny(movable.parent / "pickled", Path("base"), ["one", "two"], allow_pickle=True)
    found = verify_folder(out)
    assert found.ok
    assert found.notes == (
        "sources of `e1` are pickled, and read only where `--allow-pickle` asks for it: "
        "checked against the recorded digests",
    )
    assert found.checked["recomputed"] == 0
    found = verify_folder(out, allow_pickle=True)
    assert (found.ok, found.notes) == (True, ())
    assert found.checked["recomputed"] > 0
    found = verify_folder(out, sources=True)
    assert [d.where for d in found.differences] == ["e1"]


def test_an_unasked_pickle_is_not_opened(movable: Path) -> None:
    """A forged folder that names a pickle beside it, where reading it would show."""
    (movable.parent / "one" / "model.safetensors").unlink()
    os.mkfifo(movable.parent / "one" / "pytorch_model.bin")  # opened, it would be refused in other words
    record = movable / "moemerge.yaml"
    assert "allow_pickle: false" in record.read_text()
    record.write_text(record.read_text().replace("allow_pickle: false", "allow_pickle: true"))
    (note,) = verify_folder(movable).notes
    assert note.startswith("sources of `e0` are pickled, and read only where")


def test_without_any_source_structure_and_digests_are_checked(movable: Path) -> None:
    """A folder that was moved away from its sources still verifies, with a note for each."""
    moved = movable.rename(movable.parent.parent / f"{movable.parent.name}-moved")
    found = verify_folder(moved)
    assert found.ok
    assert found.notes == tuple(
        f"sources of `{key}` not found: checked against the recorded digests" for key in ("base", "e0", "e1")
    )
    assert found.checked["tensors"] == 29
    assert found.checked["copied"] == found.checked["recomputed"] == 0
    moved.rename(movable)


def test_asked_for_sources_that_are_gone_are_differences(movable: Path) -> None:
    """`sources=True` does not accept what cannot be compared."""
    (movable.parent / "one").rename(movable.parent / "elsewhere")
    found = verify_folder(movable, sources=True)
    assert [(d.where, d.message) for d in found.differences] == [("e0", "its sources: not found")]


def test_sources_can_be_left_out(movable: Path) -> None:
    """`sources=False` looks at none."""
    found = verify_folder(movable, sources=False)
    assert found.ok
    assert found.notes == ("sources were not looked at: checked against the recorded digests",)
    assert found.checked["copied"] == 0


def test_a_snapshot_in_a_hub_cache_verifies(tampered: Callable[..., Folder], tmp_path: Path) -> None:
    """It is made of links into the model's own blobs, which leave the snapshot and not the model."""
    model = tmp_path / "cache" / "models--me--moe"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    for number, path in enumerate(sorted(tampered().path.iterdir())):
        path.rename(model / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert good(snapshot).checked["tensors"] == 35


# folders that are none


def test_another_folder_is_refused(tmp_path: Path) -> None:
    """A folder that moemerge did not make."""
    with pytest.raises(VerifyError, match=r"holds no `moemerge.yaml`$") as caught:
        verify_folder(tmp_path)
    assert caught.value.hint == "name a folder that `moemerge build` made"


@pytest.mark.parametrize("inside", [".", "router-adapter"])
def test_an_adapters_folder_is_refused_as_one(tmp_path: Path, inside: str) -> None:
    """As `train-router --adapter-only` writes them, or on its own: the model is elsewhere."""
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / inside / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(VerifyError) as caught:
        verify_folder(tmp_path)
    assert caught.value.hint == "it holds an adapter and no model: name the folder that the adapter is for"


def test_no_folder_is_refused(tmp_path: Path) -> None:
    """A path that does not exist."""
    with pytest.raises(VerifyError) as caught:
        verify_folder(tmp_path / "nothing")
    assert caught.value.message == f"`{tmp_path / 'nothing'}` is not a folder"

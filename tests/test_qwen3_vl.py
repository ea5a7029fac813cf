"""Qwen3-VL: what its mixture class has of its own, and the traps of its fused experts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

from moemerge.api import verify
from moemerge.families.dense_family import PROJECTIONS
from moemerge.mixture.baselines import Baselines
from moemerge.mixture.folder import BuiltFolder, open_moe
from moemerge.mixture.placement import Placement
from moemerge.plan import make_plan
from moemerge.train.options import TrainOptions
from moemerge.train.output import router_names
from moemerge.train.space import trainable
from tests import wrapped
from tests.conftest import TinyMaker
from tests.moe import build_tiny, recipe_of, relative_error
from tests.test_wrappers import BAR, logits
from tests.train.test_lora import stirred
from tests.verify.conftest import Folder
from tests.wrapped import CASES, load_wrapper, seen, tiny_wrapper

KIND = "qwen3_vl"
INSIDE = "model.language_model.layers.1.mlp"


@pytest.mark.parametrize("width", [16, 32])
def test_experts_that_look_the_same_transposed(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5 would take those of 2I = H (16) and I = H (32) for ones as in memory."""
    case = CASES[KIND]
    monkeypatch.setitem(wrapped.CASES, KIND, replace(case, inner={**case.inner, "intermediate_size": width}))
    base = tiny_wrapper(KIND, tmp_path / "base")
    (problem,) = make_plan(recipe_of(base, [base, base]), tmp_path).problems
    assert problem.message == (
        "transformers knows the experts of `qwen3_vl_moe` by their shape, and those of `hidden_size: 32` and "
        f"`intermediate_size: {width}` look the same transposed"
    )
    assert problem.hint == "no host of moemerge holds it otherwise"


def test_its_experts_lie_as_in_the_published_models(tmp_path: Path) -> None:
    """`[E, H, 2I]` with gates first and `[E, I, H]`: what every other program reads, where one is scaled too."""
    base, other = (tiny_wrapper(KIND, tmp_path / f"model-{seed}", seed=seed) for seed in range(2))
    out = build_tiny(tmp_path / "out", base, [base, other], expert_0={"residual_scale": 0.5})
    written = load_file(out / "model.safetensors")
    for number, (source, scale) in enumerate([(base, 0.5), (other, 1.0)]):
        stored = load_file(source / "model.safetensors")
        gate, up, down = (stored[f"{INSIDE}.{name}_proj.weight"] for name in PROJECTIONS)
        assert torch.equal(written[f"{INSIDE}.experts.gate_up_proj"][number], torch.cat([gate, up]).T)
        assert torch.equal(written[f"{INSIDE}.experts.down_proj"][number], scale * down.T)
    assert verify(out).differences == ()


@pytest.mark.parametrize(("which", "matrix", "place", "element"), [
    ("gate_up_proj", "up_proj", [1, 5, 90], (1 * 32 + 5) * 96 + 90),
    ("down_proj", "down_proj", [1, 47, 3], (1 * 48 + 47) * 32 + 3),
])  # fmt: skip
def test_one_bit_of_a_transposed_expert(
    which: str, matrix: str, place: list[int], element: int, tmp_path: Path
) -> None:
    """`verify` says whose it should be and where in the stored tensor, though its digest is the recorded one."""
    base, other = (tiny_wrapper(KIND, tmp_path / f"model-{seed}", seed=seed) for seed in range(2))
    folder = Folder(build_tiny(tmp_path / "out", base, [base, other]))
    name = f"{INSIDE}.experts.{which}"
    folder.flip(name, byte=4 * element)
    digest = xxhash.xxh3_128_hexdigest(folder.read(name))
    folder.record(lambda record: record["tensors"].update({name: digest}))
    (said,) = folder.differences()
    assert re.sub(r"is \S+ and should be \S+;", "is and should be;", said) == (
        f"{name}: 1 of 1536 values are not `model.layers.1.mlp.{matrix}.weight` of `e1`, transposed, first at "
        f"{place}, which is and should be; its digest is the recorded one, so the source changed or the build was wrong"
    )


def test_an_expert_that_is_not_transposed(tmp_path: Path) -> None:
    """As it would lie in memory: `verify` wants the published shape."""
    base = tiny_wrapper(KIND, tmp_path / "base")
    out = build_tiny(tmp_path / "out", base, [base, base])
    name = f"{INSIDE}.experts.down_proj"
    tensors = load_file(out / "model.safetensors")
    tensors[name] = tensors[name].mT.contiguous()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    said = [f"{one.where}: {one.message}" for one in verify(out).differences]
    assert f"{name}: has the shape (2, 32, 48), not (2, 48, 32)" in said


def test_experts_trained_beside_the_router(tmp_path: Path) -> None:
    """What is written of them, transposed, computes what was judged; their number is known before."""
    base, other = (tiny_wrapper(KIND, tmp_path / f"model-{seed}", seed=seed) for seed in range(2))
    folder = open_moe(build_tiny(tmp_path / "out", base, [base, other], experts_per_token=2))
    assert isinstance(folder, BuiltFolder)
    model = load_wrapper(folder.path)
    options = TrainOptions(method="full", also=("experts",), rank=3)
    lora = stirred(model, options.also, rank=3)
    routers = sum(prod(folder.checkpoint.tensors[name].shape) for name in router_names(folder, folder.moe_layers))
    assert trainable(folder, options) == routers + sum(parameter.numel() for parameter in lora.parameters)
    with lora.exported(torch.float32):
        judged = logits(model, **seen(KIND))
    written = load_file(folder.path / "model.safetensors")
    for name, change in lora.changes(folder.host, fused=True).items():
        written[name] = change(written[name])
    save_file(written, folder.path / "model.safetensors", {"format": "pt"})
    assert relative_error(logits(load_wrapper(folder.path), **seen(KIND)), judged) <= BAR


def test_an_expert_is_known_by_its_source(tmp_path: Path) -> None:
    """`eval` tells of a source that changed, by the transposed matrices, and of no other."""
    base, other = (tiny_wrapper(KIND, tmp_path / f"model-{seed}", seed=seed) for seed in range(2))
    out = build_tiny(tmp_path / "out", base, [base, other])
    placement = Placement(device="cpu", dtype="float32")
    assert Baselines(open_moe(out), placement).strangers() == []
    tiny_wrapper(KIND, other, seed=2)
    assert Baselines(open_moe(out), placement).strangers() == ["e1"]


def test_what_the_tower_adds_to_later_layers_is_seen(tmp_path: Path) -> None:
    """Without its deepstack the mixture says something else, so that the equal logits elsewhere have it."""
    base = tiny_wrapper(KIND, tmp_path / "base")
    sparse = load_wrapper(build_tiny(tmp_path / "out", base, [base, base]))
    whole = logits(sparse, **seen(KIND))
    with torch.no_grad():
        for parameter in sparse.model.visual.deepstack_merger_list.parameters():
            parameter.zero_()
    assert relative_error(logits(sparse, **seen(KIND)), whole) > 0.1


def test_a_config_as_it_lies_on_the_hub(tmp_path: Path) -> None:
    """Rope by its older names, and a tower that has the whole model's type."""
    base = tiny_wrapper(KIND, tmp_path / "base")
    path = base / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["vision_config"]["model_type"] = "qwen3_vl"
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    path.write_text(json.dumps(config), encoding="utf-8")
    out = build_tiny(tmp_path / "out", base, [base, base])
    assert verify(out).differences == ()
    assert relative_error(logits(load_wrapper(out), **seen(KIND)), logits(load_wrapper(base), **seen(KIND))) <= BAR


def test_its_language_model_is_no_model_by_itself(tiny: TinyMaker, tmp_path: Path) -> None:
    """A Qwen3 goes into `qwen3_moe`, also where the recipe asks for the other; Qwen3-VL goes nowhere else."""
    text = tiny("qwen3")
    (problem,) = make_plan(recipe_of(text, [text, text], architecture="qwen3_vl_moe_text"), tmp_path).problems
    assert problem.message == "`architecture: qwen3_vl_moe_text` cannot hold `qwen3`"
    assert problem.hint == "set `architecture: auto`, or one of `qwen3_moe`, `glm4_moe`, `mellum`"
    base = tiny_wrapper(KIND, tmp_path / "base")
    (problem,) = make_plan(recipe_of(base, [base, base], architecture="qwen3_moe"), tmp_path).problems
    assert problem.message == "`base_model`: a `qwen3_vl` around a `qwen3_moe` was never run"


def test_a_rope_that_differs_in_more_than_pictures(tiny: TinyMaker, tmp_path: Path) -> None:
    """A text model need not say how pictures are placed; another theta is refused, and so are other places."""
    base = tiny_wrapper(KIND, tmp_path / "base")
    other = tiny("qwen3", rope_parameters={"rope_type": "default", "rope_theta": 5e4})
    moved = tiny_wrapper(KIND, tmp_path / "moved")
    path = moved / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("true", "false"), encoding="utf-8")
    problems = make_plan(recipe_of(base, [base, other, moved]), tmp_path).problems
    assert [problem.code for problem in problems] == ["rope-differs", "rope-differs"]

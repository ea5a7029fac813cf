"""Mixtures in which some layers stay dense: planned, built, checked, measured, traced and trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from moemerge.console import Silent
from moemerge.errors import EvalError
from moemerge.evaluate.explain import explain
from moemerge.evaluate.trace import trace_text
from moemerge.mixture.folder import BuiltFolder, open_moe
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers
from moemerge.plan import Plan, make_plan
from moemerge.plan.cost import groups, plan_json
from moemerge.record.read import read_fields
from moemerge.train.options import TrainOptions
from moemerge.train.run import train_folder
from moemerge.train.space import trainable
from moemerge.verify import verify_folder
from tests.conftest import TinyMaker
from tests.evaluate.conftest import Trio, measure, trio
from tests.moe import build_tiny, load, recipe_of
from tests.train.conftest import texts
from tests.verify.conftest import Folder, set_value

__all__ = ["texts", "trio"]  # fixtures of the neighbours
MORE = pytest.mark.families
FFNS = ("gate_proj", "up_proj", "down_proj")
Maker = Callable[..., list[Path]]


@pytest.fixture
def models(tiny: TinyMaker) -> Maker:
    """Makes a base and specialists of four layers."""
    return lambda family="qwen2", count=2: [tiny(family, seed, num_hidden_layers=4) for seed in range(count + 1)]


@pytest.fixture
def sharing(tiny: TinyMaker, tmp_path: Path) -> list[Path]:
    """A base and two specialists that have one FFN in layers 0 and 2, which is not the base's."""
    base, first, second = (tiny("qwen2", seed, num_hidden_layers=4) for seed in range(3))
    folder = Path(shutil.copytree(second, tmp_path / "shares"))
    theirs, ours = (load_file(path / "model.safetensors") for path in (first, second))
    alike = {name: value for name, value in theirs.items() if ".mlp." in name and ("s.0." in name or "s.2." in name)}
    save_file({**ours, **alike}, folder / "model.safetensors", {"format": "pt"})
    return [base, first, folder]


def planned(paths: list[Path], **fields: Any) -> Plan:
    """A plan without problems."""
    made = make_plan(recipe_of(paths[0], paths[1:], **fields), Path.cwd())
    assert isinstance(made, Plan), made.problems
    return made


def problems(paths: list[Path], **fields: Any) -> list[tuple[str, str, str | None]]:
    """Code, message and hint of everything that is wrong."""
    found = make_plan(recipe_of(paths[0], paths[1:], **fields), Path.cwd()).problems
    return [(problem.code, problem.message, problem.hint) for problem in found]


def open_built(path: Path) -> BuiltFolder:
    """A folder with its record."""
    folder = open_moe(path)
    assert isinstance(folder, BuiltFolder)
    return folder


def ffns(layer: int) -> list[str]:
    """The names of a dense layer's FFN."""
    return [f"model.layers.{layer}.mlp.{matrix}.weight" for matrix in FFNS]


# planned


def test_a_plan_says_which_layers_are_dense_and_whose_their_ffns_are(models: Maker) -> None:
    """Merged as the shared weights are, in a group of their own; no router, and no silent expert, in these layers."""
    made = planned(models(), layers={"0": "dense", "2-3": "dense"})
    assert made.config["mlp_only_layers"] == [0, 2, 3]
    assert plan_json(made)["dense_layers"] == [0, 2, 3]
    rows = {group["group"]: (group["tensors"], group["from"]) for group in groups(made)}
    assert rows["ffn"] == (9, ["mean of e0, e1"])
    assert (rows["router"][0], rows["shared_expert"][0], rows["expert"][0]) == (1, 4, 6)
    assert [tensor.name for tensor in made.tensors if "layers.0.mlp" in tensor.name] == ffns(0)


@pytest.mark.parametrize(("merge", "way"), [
    ({"shared": "base"}, "copied from base"),
    ({"shared": "base", "ffn": "task_arithmetic"}, "task_arithmetic of e0, e1"),
    ({"ffn": "base"}, "copied from base"),
])  # fmt: skip
def test_the_ffns_of_dense_layers_have_a_method_of_their_own(merge: dict[str, str], way: str, models: Maker) -> None:
    """`merge.ffn`, and where that is not given `merge.shared`."""
    made = planned(models(), layers={"1": "dense"}, merge=merge)
    assert {group["group"]: group["from"] for group in groups(made)}["ffn"] == [way]


def test_auto_takes_a_host_that_can_keep_layers_dense(models: Maker) -> None:
    """Llama goes into mixtral, whose layers all route, and with dense layers into glm4_moe."""
    paths = models("llama")
    assert planned(paths).host.model_type == "mixtral"
    assert planned(paths, layers={"0": "dense"}).host.model_type == "glm4_moe"


def test_a_host_that_routes_in_every_layer_is_refused(models: Maker) -> None:
    """With the hosts of this family that do not, where there are any."""
    assert problems(models("llama"), layers={"0": "dense"}, architecture="mixtral") == [(
        "dense-layers", "`layers`: every layer of `mixtral` routes, so none can stay dense",
        "set `architecture: auto`, which takes `glm4_moe`",
    )]  # fmt: skip
    assert problems(models("granite"), layers={"0": "dense"}) == [(
        "dense-layers", "`layers`: every layer of `granitemoe` routes, so none can stay dense",
        "leave it out: no host of `granite` can keep them",
    )]  # fmt: skip


def test_layers_that_the_model_has_not(models: Maker) -> None:
    """Every key that leads out of it is named."""
    found = problems(models(), layers={"0": "dense", "3-4": "dense", "9": "dense"})
    hint = "they are counted from 0 to 3"
    assert found == [
        ("no-layer", "`layers`: `3-4` is out of the model, which has 4 layers", hint),
        ("no-layer", "`layers`: `9` is out of the model, which has 4 layers", hint),
    ]


def test_all_layers_dense_are_no_mixture(models: Maker) -> None:
    """By their numbers, and where all experts are one model."""
    message = "`layers` keeps all 4 layers dense, so nothing would be left to route"
    assert problems(models(), layers={"0-3": "dense"}) == [("all-dense", message, "leave some layers out")]
    base = models()[0]
    message = "`layers`: the experts' FFNs agree in all 4 layers, so nothing would be left to route"
    assert problems([base, base, base], layers={"agree": "dense"}) == [("all-dense", message, "leave some layers out")]


def test_one_ffn_is_not_merged_of_several_widths(tiny: TinyMaker) -> None:
    """Padding is exact for experts, and for no mean."""
    paths = [tiny("qwen2", 0), tiny("qwen2", 1), tiny("qwen2", 2, intermediate_size=40)]
    (found,) = problems(paths, layers={"0": "dense"}, expert_1={"pad": True})
    assert found[:2] == (
        "dense-width",
        "`layers`: a layer that stays dense has one FFN, and the models' have several widths "
        "(`base`: 48, `e0`: 48, `e1`: 40)",
    )


def test_layers_in_which_the_experts_agree_are_kept_where_that_is_asked(sharing: list[Path]) -> None:
    """They are told by their bytes; the FFN is the experts' own whatever the rest's method is; numbered ones merge."""
    made = planned(sharing, layers={"agree": "dense"}, merge={"shared": "base"})
    assert sorted(made.dense.kept) == [0, 2]
    assert made.notes == ("`layers`: the experts' FFNs agree in layers 0, 2, which stay dense",)
    rows = {group["group"]: group["from"] for group in groups(made)}
    assert rows["ffn"] == ["copied from e0"]
    both = planned(sharing, layers={"agree": "dense", "3": "dense"})
    assert sorted(both.dense.kept) == [0, 2, 3]
    assert {g["group"]: g["from"] for g in groups(both)}["ffn"] == ["copied from e0", "mean of e0, e1"]


def test_experts_that_the_recipe_changes_agree_nowhere(sharing: list[Path]) -> None:
    """Noise and a factor are an expert's own."""
    for change in ({"noise_scale": 0.1}, {"residual_scale": 0.5}):
        made = planned(sharing, layers={"agree": "dense"}, expert_1=change)
        assert not made.dense.kept
        assert "`layers`: the experts' FFNs differ in every layer, so `agree: dense` keeps none" in made.notes


def test_a_plan_says_where_adapters_agree(tiny: TinyMaker, tmp_path: Path) -> None:
    """Adapters that leave some layers alone have the base's FFN there, which is seen without reading a weight."""
    from peft import LoraConfig, get_peft_model

    base = tiny("qwen2", 0, num_hidden_layers=4)
    adapters = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=list(FFNS), layers_to_transform=[1, 3], init_lora_weights=False)
        get_peft_model(load(base), config).save_pretrained(tmp_path / f"adapter-{seed}")
        adapters.append(tmp_path / f"adapter-{seed}")
    note = (
        "the experts' FFNs agree in layers 0, 2: `layers: {agree: dense}` would keep one each, which computes the same"
    )
    made = planned([base, *adapters])
    assert made.notes == (note,)
    assert not made.dense.kept
    out = build_tiny(tmp_path / "out", base, adapters, layers={"agree": "dense"})
    assert verify_folder(out, strict=True).differences == ()
    assert load(out).config.mlp_only_layers == [0, 2]
    assert note not in planned([tiny("granite"), *[tiny("granite")] * 2]).notes


# checked


def test_the_record_and_the_card_say_which_layers_are_dense(sharing: list[Path], tmp_path: Path) -> None:
    """As the plan had them."""
    out = build_tiny(tmp_path / "out", sharing[0], sharing[1:], layers={"agree": "dense", "3": "dense"})
    record = read_fields(out)
    assert record is not None
    assert record["dense_layers"] == [0, 2, 3]
    assert record["merge"]["ffn"] == "mean"
    assert " Layers 0, 2-3 are dense: they have one FFN and no router." in (out / "README.md").read_text("utf-8")


@pytest.fixture
def folder(sharing: list[Path], tmp_path: Path) -> Folder:
    """A sound folder with dense layers of both kinds: 0 and 2 by agreement, 3 by its number."""
    fields = {"layers": {"agree": "dense", "3": "dense"}}
    found = Folder(build_tiny(tmp_path / "out", sharing[0], sharing[1:], **fields))
    assert found.differences(strict=True) == []
    return found


def test_a_changed_tensor_of_a_dense_layer_is_found(folder: Folder) -> None:
    """Merged ones are computed again, agreed ones compared."""
    folder.flip(ffns(3)[0], byte=4 * 37 + 2, bit=6)
    folder.flip(ffns(0)[2], byte=5)
    copied, merged = folder.differences()
    assert copied.startswith(f"{ffns(0)[2]}: 1 of 6144 bytes differ from `{ffns(0)[2]}` of `e0`, first at ")
    assert merged.startswith(
        f"{ffns(3)[0]}: 1 of 1536 values are not the mean of `e0`, `e1`, first at [1, 5], which is "
    )


def test_a_changed_config_is_found(folder: Folder) -> None:
    """The key that says which layers are dense follows from the record."""
    folder.edit("config.json", set_value("mlp_only_layers", value=[0, 2]))
    assert folder.differences() == ["config.json: mlp_only_layers is [0, 2], the record says [0, 2, 3]"]


def test_a_changed_record_is_found(folder: Folder) -> None:
    """With the sources the layers are told anew; without them the recipe's numbers still hold."""
    folder.record(set_value("dense_layers", value=[0, 3]))
    found = folder.differences()
    assert "moemerge.yaml: `dense_layers` is [0, 3], by the recipe and its sources [0, 2, 3]" in found
    assert f"{ffns(2)[0]}: is in the record, and no tensor of this model" in found
    folder.record(lambda record: record["recipe"].update({"layers": {"0-1": "dense"}}))
    wanted = "moemerge.yaml: `dense_layers` is [0, 3], the recipe's `layers` {'0-1': 'dense'}"
    assert wanted in folder.differences(sources=False)


def test_a_host_without_dense_layers_has_none(tiny: TinyMaker, tmp_path: Path) -> None:
    """A record that claims them is not believed."""
    found = Folder(build_tiny(tmp_path / "out", tiny("llama"), [tiny("llama", 1), tiny("llama", 2)]))
    found.record(set_value("dense_layers", value=[0]))
    found.record(lambda record: record["recipe"].update({"layers": {"0": "dense"}}))
    assert "moemerge.yaml: `dense_layers` is [0], and every layer of a `mixtral` routes" in found.differences()


# measured, traced and trained


@pytest.fixture(scope="module")
def half(trio: Trio) -> Path:
    """The trio's mixture with a dense first layer, its gate fitted on texts."""
    return trio.build(trio.root / "half", layers={"0": "dense"})


def test_a_fitted_gate_is_measured_in_the_layers_that_route(half: Path, trio: Trio) -> None:
    """Whose numbers are the model's own; the oracle, the baselines and the comparison with the sources run too."""
    report = measure(half)
    assert (report["architecture"], report["layers"], report["routing"]["layers"]) == ("glm4_moe", 1, [1])
    assert report["routing"]["accuracy"] > 0.8
    assert (report["missing"], report["notes"]) == ({}, [])
    assert None not in report["mean"].values()
    record = read_fields(half)
    assert record is not None
    assert len(record["gate"]["separation"]) == 1
    mean = f"over the layers: {record['gate']['separation'][0]:.3f} on average. `moemerge.yaml`"
    assert mean in (half / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("init", ["mergekit_hidden", *(pytest.param(i, marks=MORE) for i in ("cheap_embed", "lda"))])
def test_every_kind_of_gate_is_written_where_there_is_a_router(init: str, trio: Trio, tmp_path: Path) -> None:
    """One row set a router."""
    out = trio.build(tmp_path / "out", layers={"1": "dense"}, gate={"init": init})
    gates = [name for name in load_file(out / "model.safetensors") if name.endswith("mlp.gate.weight")]
    assert gates == ["model.layers.0.mlp.gate.weight"]
    assert verify_folder(out, strict=True).differences == ()


def test_a_trace_numbers_the_layers_as_the_model_does(half: Path) -> None:
    """In the whole and for one token."""
    model, tokenizer = load(half), AutoTokenizer.from_pretrained(half)
    routers, names = find_routers(model), ("code", "math", "french")
    text = "def return if else"
    assert trace_text(model, tokenizer, routers, text, names).layers == (1,)
    told = explain(model, tokenizer, routers, text, -1, 1, names)
    assert told.layer == 1
    with pytest.raises(EvalError, match=r"^the model has no MoE layer 0: they are 1 to 1, or -1 to -1 from the end$"):
        explain(model, tokenizer, routers, text, -1, 0, names)


ALL = ("attention", "experts")
GATE = "model.layers.1.mlp.gate.weight"


@pytest.mark.parametrize(("options", "layout"), [
    ({"method": "full"}, "per_expert"),
    pytest.param({"start": "centroid"}, "per_expert", marks=MORE),
    ({"also": ALL, "also_rate": 1e-2}, "per_expert"),
    pytest.param({"also": ALL, "also_rate": 1e-2, "checkpointing": True}, "fused", marks=MORE),
], ids=["router", "lora, centroid", "all", "all, fused"])  # fmt: skip
def test_training_leaves_dense_ffns_as_they_are(
    options: dict[str, Any], layout: str, trio: Trio, texts: Path, tmp_path: Path
) -> None:
    """Routers, attention and experts train around them; what is needed is known; the folder verifies and loads."""
    fields: dict[str, Any] = {"layers": {"0": "dense"}, "output": {"layout": layout}, "gate": {"init": "random"}}
    out = trio.build(tmp_path / "moe", **fields)
    common = {"data": texts, "steps": 9, "judge_every": 3, "context": 64, "rows": 4, "rate": 2e-2, "domain_weight": 1.0}
    asked = TrainOptions(**common | options)
    result = train_folder(out, tmp_path / "out", asked, Silent(), Processes())
    assert result.improved
    assert verify_folder(result.path).differences == ()
    load(result.path)
    before, after = (load_file(path / "model.safetensors") for path in (out, result.path))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    wanted = {f"{layer}.self_attn.{one}_proj" for layer in range(2) for one in "qkvo"} | {"1.mlp.experts"}
    assert {".".join(name.split(".")[2:5]) for name in changed - {GATE}} == (wanted if asked.also else set())
    assert GATE in changed
    count = before[GATE].numel() if asked.method == "full" else None
    assert count in (None, trainable(open_built(out), asked))


def test_an_adapter_of_the_router_has_the_layers_that_route(models: Maker, texts: Path, tmp_path: Path) -> None:
    """Its tensors have the model's own numbers of layers."""
    base, *experts = models("qwen3", 3)
    names: dict[str, Any] = {f"expert_{n}": {"name": name} for n, name in enumerate(("code", "math", "french"))}
    out = build_tiny(tmp_path / "moe", base, experts, layers={"1": "dense"}, **names)
    options = TrainOptions(data=texts, steps=2, judge_every=2, context=32, rows=2, also=ALL[1:], adapter_only=True)
    result = train_folder(out, tmp_path / "out", options, Silent(), Processes())
    tensors = load_file(result.path / "router-adapter" / "adapter_model.safetensors")
    assert {name.split(".layers.")[1].split(".")[0] for name in tensors} == {"0", "2", "3"}

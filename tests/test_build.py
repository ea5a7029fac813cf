"""Building: bytes, files, determinism, staging, and what survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from moemerge import device
from moemerge.api import build, plan
from moemerge.console import Lines
from moemerge.errors import WriteError
from moemerge.families import DENSE_FAMILIES
from moemerge.mixture.folder import open_moe
from moemerge.plan import Plan, make_plan, plan_json
from moemerge.recipe import load_recipe
from moemerge.record.read import read_fields
from moemerge.sources.store import StoredCheckpoint
from moemerge.verify import verify_folder
from tests.conftest import TinyMaker
from tests.moe import PROMPTS, build_tiny, load, logits, recipe_of, some_tokens
from tests.tiny import write_tokenizer


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def weights_bytes(folder: Path) -> dict[str, bytes]:
    """The weight files and the config, as bytes."""
    names = [*folder.glob("*.safetensors"), folder / "config.json"]
    return {path.name: path.read_bytes() for path in sorted(names)}


def test_no_unconverted_expert_tensor_is_read_through_torch(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From bf16 safetensors, every expert tensor goes from file to file: `read`, which gives torch's, sees none."""
    read: list[str] = []
    original = StoredCheckpoint.read

    def counting(self: Any, name: str, rows: slice | None = None) -> torch.Tensor:
        read.append(name)
        return original(self, name, rows)

    models = [tiny("llama", seed, dtype="bfloat16") for seed in range(4)]
    monkeypatch.setattr(StoredCheckpoint, "read", counting)
    out = build_tiny(tmp_path / "out", models[0], models[1:], merge={"attention": "task_arithmetic"})
    assert read, "the merge of the attention is computed by torch"
    assert not [name for name in read if ".mlp." in name]
    moe = tensors_of(out)
    for index, model in enumerate(models[1:]):
        for name, value in load_file(model / "model.safetensors").items():
            if ".mlp." in name:
                layer = name.split(".")[2]
                short = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}[name.split(".")[4]]
                assert torch.equal(moe[f"model.layers.{layer}.block_sparse_moe.experts.{index}.{short}.weight"], value)


@pytest.mark.parametrize("shared", ["base", "mean"])
def test_a_build_from_stored_tensors_loads_no_torch(shared: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """With a gate that looks at no text; the check at the end, and another dtype, included."""
    recipe = recipe_of(tiny("llama"), [tiny("llama", 1), tiny("llama", 2)], merge={"shared": shared}, dtype="bfloat16")
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from moemerge.api import build\nfrom moemerge.recipe import Recipe\n"
        "build(Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]), root=Path.cwd())\n"
        "print(*sorted({'torch', 'transformers', 'safetensors.torch', 'peft'} & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", program, recipe.model_dump_json(), str(tmp_path / "out")]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "\n", "")


@pytest.mark.parametrize("family", DENSE_FAMILIES)
@pytest.mark.parametrize("layout", ["per_expert", "fused"])
def test_a_folder_tells_its_parameters(family: str, layout: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """Total and active by the names in its files are those of the plan, in every family and layout."""
    models = [tiny(family, 1), tiny(family, 2)]
    recipe = recipe_of(tiny(family), models, experts_per_token=1, output={"layout": layout})
    planned = make_plan(recipe, tmp_path).parameters
    folder = open_moe(build(recipe, tmp_path / "out", root=tmp_path).path)
    assert folder.parameters() == (planned.total, planned.active)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "olmo2"])
def test_fused_and_per_expert_layouts_are_one_model(family: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """Both layouts load to the same logits, bit for bit."""
    models = [tiny(family, seed) for seed in range(3)]
    outs = [
        build_tiny(tmp_path / layout, models[0], models, output={"layout": layout})
        for layout in ("per_expert", "fused")
    ]
    one, other = (logits(load(out), some_tokens()) for out in outs)
    assert torch.equal(one, other)


def test_shards_are_in_layer_order_with_an_index(tiny: TinyMaker, tmp_path: Path) -> None:
    """Small shards: the index names every tensor, and reading shard by shard goes layer by layer."""
    models = [tiny("llama", seed) for seed in range(3)]
    out = build_tiny(tmp_path / "out", models[0], models, output={"shard_size": "20KB"})
    index = json.loads((out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    shards = sorted({*index["weight_map"].values()})
    assert len(shards) > 2
    layers = []
    for shard in shards:
        with safe_open(out / shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            names = sorted(file.keys(), key=lambda name: file.get_slice(name) is None)
            assert {index["weight_map"][name] for name in names} == {shard}
            layers.append({int(name.split(".")[2]) for name in names if ".layers." in name})
    flat = [layer for found in layers for layer in sorted(found)]
    assert flat == sorted(flat)
    whole = build_tiny(tmp_path / "whole", models[0], models)
    assert torch.equal(logits(load(out), some_tokens()), logits(load(whole), some_tokens()))


def test_the_base_files_are_copied_byte_for_byte(tiny: TinyMaker, tmp_path: Path) -> None:
    """Tokenizer and generation config are the base's very bytes."""
    base = tiny("llama")
    out = build_tiny(tmp_path / "out", base, [base, tiny("llama", 1)])
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()


def test_the_same_recipe_gives_the_same_bytes(tiny: TinyMaker, tmp_path: Path) -> None:
    """Builds into folders of one name are equal in every file, whether the specialists write or have written."""
    models = [tiny("llama", seed) for seed in range(3)]
    recipe = recipe_of(models[0], models, gate={"init": "discriminant", "expand": 64})
    one, other, written, kept = (
        {
            p.name: p.read_bytes()
            for p in build(recipe, tmp_path / where / "out", root=tmp_path, cache=cache).path.iterdir()
        }
        for where, cache in (("a", False), ("b", False), ("c", True), ("d", True))
    )
    assert one == other == written == kept


def test_with_more_experts_per_token_no_specialist_writes_again(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next build of the same experts reads what they wrote for the last one."""
    monkeypatch.setenv("MOEMERGE_CACHE", str(tmp_path / "cache"))
    models, samples, said = [tiny("llama", seed) for seed in range(3)], [], []
    for number in (1, 2):
        recipe = recipe_of(models[0], models, gate={"expand": 64}, experts_per_token=number)
        out = build(recipe, tmp_path / f"out{number}", root=tmp_path, progress=Lines()).path
        samples.append((out / "gate_samples.jsonl").read_bytes())
        said.append([line for line in capsys.readouterr().err.splitlines() if "Expansion" in line])
    assert samples[0] == samples[1]
    assert said[0][0].startswith("Expansion: 3 specialists write about 64 tokens each, about ")
    assert said[1] == [
        "Expansion: what `e0`, `e1`, `e2` wrote in an earlier build is used again; `--no-cache` has it written anew"
    ]


@pytest.mark.parametrize(
    "gate",
    [
        "discriminant", "advantage", "lda", "centroid", "centred", "random", "uniform",
        "mergekit_hidden", "hidden_avg", "cheap_embed",
    ],
)  # fmt: skip
def test_every_gate_builds_and_is_written(gate: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """The router's rows reach the file, finite and different."""
    models = [tiny("llama", seed) for seed in range(3)]
    out = build_tiny(tmp_path / "out", models[0], models, gate={"init": gate, "expand": "off"})
    for name, value in tensors_of(out).items():
        if name.endswith("block_sparse_moe.gate.weight"):
            assert value.shape == (3, 32)
            assert torch.isfinite(value).all()
            assert (value[0] != value[1]).any()


def test_the_record_says_what_a_gate_was_computed_with(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dtype, the threads and the processor; a slow CPU takes float32, `gate.dtype` decides, written is bf16."""
    models = [tiny("llama", seed, dtype="bfloat16") for seed in range(3)]
    monkeypatch.setattr("moemerge.device.fast_dtypes", lambda: frozenset({"float32"}))
    for number, (gate, dtype) in enumerate([({}, "float32"), ({"dtype": "bfloat16"}, "bfloat16")]):
        gate |= {"init": "discriminant", "expand": "off"}
        record = read_fields(build_tiny(tmp_path / f"out{number}", models[0], models, gate=gate))
        assert record is not None
        assert record["gate"]["computed"] == {
            "dtype": dtype, "device": "cpu", "threads": torch.get_num_threads(), "processor": device.processor()
        }  # fmt: skip
        assert record["dtype"] == "BF16"
    record = read_fields(build_tiny(tmp_path / "random", models[0], models))
    assert record is not None
    assert "computed" not in record["gate"], "no model ran"


def test_the_plan_knows_the_memory_of_a_slow_cpu(
    tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A specialist that writes in float32 takes twice the memory; where that is not there, the dtype stays."""
    base = tiny("llama", dtype="bfloat16", num_hidden_layers=4, hidden_size=64, intermediate_size=2048)
    recipe, peaks, dtypes = recipe_of(base, ["base", "base"], gate={"expand": 64}), [], []
    for fast, free in ((True, 10**12), (False, 10**12), (False, 1)):
        monkeypatch.setattr(
            "moemerge.device.fast_dtypes", lambda fast=fast: frozenset({"float32", "bfloat16"[: 8 * fast]})
        )
        monkeypatch.setattr("moemerge.device.available_memory", lambda free=free: free)
        report = plan_json(make_plan(recipe, tmp_path))
        peaks.append(report["memory"]["peak"])
        dtypes.append(report["computing"])
    assert dtypes == ["bfloat16", "float32", "bfloat16"]
    assert peaks[1] - peaks[0] >= 2 * 4 * 3 * 64 * 2048
    assert peaks[2] == peaks[0]


def test_samples_and_statistics_are_kept_beside_the_card(tiny: TinyMaker, tmp_path: Path) -> None:
    """What the specialists wrote, and on request the sufficient statistics, are in the folder and its record."""
    models = [tiny("llama", seed) for seed in range(3)]
    out = build_tiny(tmp_path / "out", models[0], models, gate={"expand": 64, "keep_statistics": True})
    samples = [json.loads(line) for line in (out / "gate_samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {sample["expert"] for sample in samples} == {"e0", "e1", "e2"}
    statistics = load_file(out / "gate_statistics.safetensors")
    assert statistics["second"].shape == (2, 32, 32)
    record = read_fields(out)
    assert record is not None
    assert {"gate_samples.jsonl", "gate_statistics.safetensors"} <= record["files"].keys()
    assert "gate_statistics.safetensors" not in json.dumps(record["tensors"])
    load(out)


def test_a_mergekit_recipe_and_its_native_form_build_the_same_bytes(tiny: TinyMaker, tmp_path: Path) -> None:
    """The dialect changes how a recipe is written and nothing else: every file is equal, the record and card too."""
    base, code, math = (tiny("llama", seed) for seed in range(3))
    (tmp_path / "mergekit.yaml").write_text(
        f"""base_model: {base}
gate_mode: hidden
dtype: float32
experts_per_token: 2
experts:
  - source_model: {code}
    positive_prompts: ["{PROMPTS[0][0]}", "{PROMPTS[0][1]}"]
    negative_prompts: ["bonjour monde merci"]
  - source_model: {math}
    positive_prompts: "{PROMPTS[1][0]}"
    residual_scale: 0.5
""",
        encoding="utf-8",
    )
    (tmp_path / "native.yaml").write_text(
        f"""base_model: {base}
dtype: float32
merge: {{shared: base}}
gate: {{init: discriminant}}
experts:
  - {{name: code, model: {code}, prompts: ["{PROMPTS[0][0]}", "{PROMPTS[0][1]}"],
      negative_prompts: ["bonjour monde merci"]}}
  - {{name: math, model: {math}, prompts: ["{PROMPTS[1][0]}"], residual_scale: 0.5}}
""",
        encoding="utf-8",
    )
    names = [expert.name for expert in load_recipe(tmp_path / "mergekit.yaml").recipe.experts]
    native = tmp_path / "native.yaml"
    text = native.read_text(encoding="utf-8").replace("name: code", f"name: {names[0]}")
    native.write_text(text.replace("name: math", f"name: {names[1]}"), encoding="utf-8")
    outs = [build(tmp_path / f"{form}.yaml", tmp_path / form / "out").path for form in ("mergekit", "native")]
    one, other = ({path.name: path.read_bytes() for path in out.iterdir()} for out in outs)
    assert one.keys() >= {"config.json", "model.safetensors", "moemerge.yaml", "README.md", "tokenizer.json"}
    assert one == other


def test_a_specialists_own_chat_template_wraps_its_prompts(tiny: TinyMaker, tmp_path: Path) -> None:
    """From `chat_template.jinja` or `tokenizer_config.json`; an expert without one gets the base's."""
    from moemerge.build.texts import read_gate_texts
    from moemerge.plan import make_plan

    folders = []
    for seed in range(3):
        folders.append(tmp_path / f"m{seed}")
        shutil.copytree(tiny("llama", seed), folders[-1])
    write_tokenizer(folders[0], chat=True)
    config = json.loads((folders[1] / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folders[1] / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<pad>"}), encoding="utf-8")
    (folders[1] / "chat_template.jinja").write_text("{{ messages[0]['content'] }} {{ eos_token }}", encoding="utf-8")
    recipe = recipe_of(folders[0], folders[1:], template="chat", gate={"init": "centroid", "expand": "off"})
    texts = read_gate_texts(make_plan(recipe, tmp_path), tmp_path).experts
    assert texts[0].chat is not None
    assert texts[0].chat.template == "{{ messages[0]['content'] }} {{ eos_token }}"
    assert texts[0].chat.special["eos_token"] == "<pad>"
    assert texts[1].chat is None
    build(recipe, tmp_path / "out", root=tmp_path)


def test_data_stand_beside_prompts(tiny: TinyMaker, tmp_path: Path) -> None:
    """A recipe's file names both, the gate is fitted to both, and the specialist writes although the data are many."""
    words = " ".join(PROMPTS[0])
    (tmp_path / "texts.jsonl").write_text(f"{json.dumps({'text': words})}\n" * 20, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(
        f"base_model: {tiny('llama')}\nexperts:\n"
        f"  - {{name: a, model: {tiny('llama', 1)}, prompts: [{PROMPTS[0][0]}], data: {{path: texts.jsonl}}}}\n"
        f"  - {{name: b, model: {tiny('llama', 2)}, prompts: [{PROMPTS[1][0]}]}}\n",
        encoding="utf-8",
    )
    counted = {}
    for expand in (40, "auto", "off"):
        recipe = load_recipe(tmp_path / "r.yaml", [f"gate.expand={expand}"]).recipe
        built = build(recipe, tmp_path / str(expand), root=tmp_path)
        samples = built.path / "gate_samples.jsonl"
        assert samples.exists() is (expand != "off")
        if samples.exists():
            writers = {json.loads(line)["expert"] for line in samples.read_text(encoding="utf-8").splitlines()}
            assert writers == {"a", "b"}
        counted[expand] = built.gate.tokens
    assert counted["off"][0] > 20 * len(PROMPTS[0])
    assert counted["off"][1] < counted[40][1]


def test_a_gate_from_one_pool_of_texts(tiny: TinyMaker, tmp_path: Path) -> None:
    """The experts have no texts. A row of the pool that is left out is said; the record names the pool, and the folder
    verifies. The same once more is the same bytes."""
    rows = [{"text": text} for text in (*PROMPTS[0], *PROMPTS[1]) * 4]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"text": 3}])), encoding="utf-8")
    bare: dict[str, Any] = {f"expert_{number}": {"prompts": ()} for number in range(2)}
    recipe = recipe_of(
        tiny("llama", 0), [tiny("llama", 1), tiny("llama", 2)],
        gate={"init": "advantage", "data": {"path": "pool.jsonl"}}, **bare,
    )  # fmt: skip
    assert isinstance(plan(recipe, root=tmp_path), Plan)
    built = build(recipe, tmp_path / "out", root=tmp_path)
    assert [problem.message for problem in built.found if problem.code == "rows-left-out"] == [
        "`gate.data`: `pool.jsonl`: one of 17 rows is left out: field `text` is no text (line 17)"
    ]
    record = read_fields(built.path)
    assert record is not None
    assert record["recipe"]["gate"]["data"]["path"] == "pool.jsonl"
    assert set(record["gate"]["tokens"]) == {"e0", "e1"}
    assert sum(record["gate"]["tokens"].values()) > 50
    assert verify_folder(built.path).ok
    again = build(recipe, tmp_path / "again" / "out", root=tmp_path)
    assert weights_bytes(built.path) == weights_bytes(again.path)


def test_chats_as_data_are_read_through_the_bases_template(
    tiny: TinyMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gate counts what was said and nothing of the template; a null row is a warning of the build. Reading, which
    may take long, is a stage."""
    base = tmp_path / "base"
    shutil.copytree(tiny("llama", 0), base)
    write_tokenizer(base, chat=True)
    for name, words in (("e0", "def return print"), ("e1", "le la un")):
        chat = {"conversations": [{"from": "human", "value": words}, {"from": "gpt", "value": words * 2}]}
        rows = [chat] * 6 + [{"conversations": None}]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    recipe = recipe_of(
        base, [tiny("llama", 1), tiny("llama", 2)], gate={"init": "centroid", "expand": "off"},
        expert_0={"prompts": (), "data": {"path": "e0.json"}}, expert_1={"prompts": (), "data": {"path": "e1.json"}},
    )  # fmt: skip
    lines = Lines()
    capsys.readouterr()  # what transformers says where the models were made only now
    built = build(recipe, tmp_path / "out", root=tmp_path, progress=lines)
    lines.close()
    assert capsys.readouterr().err.startswith("Reading texts: 2 experts\nReading texts: done in ")
    assert [w.message for w in built.warnings if w.code == "rows-left-out"] == [
        f"expert `e{number}`: `e{number}.json`: one of 7 rows is left out: field `conversations` is null (row 7)"
        for number in range(2)
    ]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    said = [len(tokenizer(words + " " + words * 2)["input_ids"]) for words in ("def return print", "le la un")]
    assert built.gate.tokens == tuple(6 * count for count in said)


def test_a_model_in_two_spellings_builds_and_verifies(tiny: TinyMaker, tmp_path: Path) -> None:
    """The mean is that of two models, for the build, the record and a check of the folder alone."""
    from moemerge.verify import verify_folder

    shutil.copytree(tiny("llama", 1), tmp_path / "code")
    base = tiny("llama")
    twice = build_tiny(tmp_path / "twice", base, ["code", "./code", "base"])
    other = build_tiny(tmp_path / "other", base, ["code", "code", "base"])
    assert weights_bytes(twice) == weights_bytes(other)
    assert verify_folder(twice).ok
    record = read_fields(twice)
    assert record is not None
    assert list(record["sources"]) == ["base", "e0"]


def test_experts_may_mix_full_checkpoints_and_the_base(tiny: TinyMaker, tmp_path: Path) -> None:
    """`base` as an expert takes the base's own FFN, and counts in the mean because it is listed."""
    base, other = tiny("llama"), tiny("llama", 1)
    out = build_tiny(tmp_path / "out", base, ["base", other])
    moe, models = tensors_of(out), [load_file(path / "model.safetensors") for path in (base, other)]
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = (models[0][name].double() + models[1][name].double()) / 2
    assert torch.equal(moe[name], expected.float())
    down = models[0]["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(moe["model.layers.1.block_sparse_moe.experts.0.w2.weight"], down)


def test_an_existing_output_is_not_touched(tiny: TinyMaker, tmp_path: Path) -> None:
    """Whatever lies there stays, unless moemerge made it and `overwrite` is asked for."""
    base = tiny("llama")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(WriteError, match="exists"):
        build_tiny(out, base, [base, base])
    with pytest.raises(WriteError, match="was not made by moemerge"):
        build(recipe_of(base, [base, base]), out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_what_moemerge_made_and_nothing_else(tiny: TinyMaker, tmp_path: Path) -> None:
    """A stranger's file in the folder stops it; without one the new build takes its place."""
    base = tiny("llama")
    out = build_tiny(tmp_path / "out", base, [base, base])
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(WriteError, match=r"holds files that moemerge did not write: `notes.txt`"):
        build(recipe_of(base, [base, base]), out, overwrite=True)
    (out / "notes.txt").unlink()
    build(recipe_of(base, [base] * 3), out, overwrite=True)
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["num_local_experts"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


SLOW_BUILD = """
import sys, time
from pathlib import Path
import moemerge.write.weights as weights
from moemerge.api import build
original = weights._Writer.write
def slowly(self, *arguments):
    Path(sys.argv[3]).touch()
    time.sleep(0.05)
    return original(self, *arguments)
weights._Writer.write = slowly
build(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_build_leaves_no_output_and_the_next_one_cleans_up(
    number: int, tiny: TinyMaker, tmp_path: Path
) -> None:
    """Killed while it writes: OUT is absent; the next run removes the orphan and builds."""
    base, other = tiny("llama"), tiny("llama", 1)
    recipe = tmp_path / "recipe.yaml"
    experts = f"[{{name: a, model: {base}}}, {{name: b, model: {other}}}]"
    recipe.write_text(f"base_model: {base}\ngate: {{init: random}}\nexperts: {experts}\n", encoding="utf-8")
    folder = tmp_path / "folder"
    started = tmp_path / "started"
    command = [sys.executable, "-c", SLOW_BUILD, str(recipe), str(folder / "out"), str(started)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not started.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert started.exists()
    process.send_signal(number)
    process.wait()
    assert not (folder / "out").exists()
    build(recipe, folder / "out")
    assert [path.name for path in folder.iterdir()] == ["out"]
    load(folder / "out")


def test_a_staged_folder_in_use_is_left_alone(tiny: TinyMaker, tmp_path: Path) -> None:
    """Another build into the same place, still running, does not lose its work."""
    from moemerge.write import check_output, staged

    with staged(tmp_path / "out", overwrite=False, warn=pytest.fail) as folder:
        assert check_output(tmp_path / "out", overwrite=False, needed=0) == []
        assert folder.exists()
        (folder / "x").touch()
    assert (tmp_path / "out" / "x").exists()


def test_permissions_follow_the_umask(tiny: TinyMaker, tmp_path: Path) -> None:
    """The folder is as readable as any other that the user makes."""
    base = tiny("llama")
    out = build_tiny(tmp_path / "out", base, [base, base])
    (tmp_path / "other").mkdir()
    assert out.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert os.access(out / "model.safetensors", os.R_OK)

"""Models that hold one layer at a time give the gate what whole models give it, in less memory than one source."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moemerge.dense import layerwise
from moemerge.dense.layerwise import LayerwiseModels
from moemerge.dense.models import PlannedModels
from moemerge.families import anatomy_of
from moemerge.gate.packed import packed_attention
from moemerge.gate.walk import Batch, Walk
from moemerge.plan import Plan, make_plan
from tests.conftest import TinyMaker
from tests.moe import recipe_of, some_tokens

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, llama3 rope": ("llama", {"tie_word_embeddings": True, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}}),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2, every other layer in a window": ("qwen2", {
        "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "num_hidden_layers": 4,
        "layer_types": ["full_attention", "sliding_attention"] * 2}),
    "qwen3": ("qwen3", {}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {}),
    "cohere2": ("cohere2", {}),
    "granite_swa": ("granite_swa", {}),
    "smollm3": ("smollm3", {}),
    "qwen3_5_text": ("qwen3_5_text", {}),
    "granitemoehybrid": ("granitemoehybrid", {}),
    "deepseek_v3": ("deepseek_v3", {}),
    "nemotron_h": ("nemotron_h", {}),
    "gemma3_text": ("gemma3_text", {}),
    "lfm2": ("lfm2", {}),
    "gemma4_text": ("gemma4_text", {
        "num_hidden_layers": 4, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}),
    "phi3": ("phi3", {}),
    "glm4_moe": ("glm4_moe", {}),
    "ernie4_5": ("ernie4_5", {}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {"rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 8.0}}),
}  # fmt: skip


@pytest.fixture(params=FAMILIES.values(), ids=list(FAMILIES))
def plan(request: pytest.FixtureRequest, tiny: TinyMaker, tmp_path: Path) -> Plan:
    """A base and two specialists of a family, in fp32."""
    family, settings = request.param
    base, one, other = (tiny(family, seed, **settings) for seed in range(3))
    return make_plan(recipe_of(base, [one, other]), tmp_path)


def whole(model: Any, batch: Batch, layers: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """What enters each of the MoE blocks and each layer, by transformers' own forward of the whole model and hooks."""
    entered: list[Tensor] = []
    states: list[Tensor] = []
    places = [anatomy_of(model).block_of(layer) for layer in (model.model.layers[number] for number in layers)]
    hooks = [block.register_forward_pre_hook(lambda _, args: entered.append(args[0])) for block in places]
    hooks += [layer.register_forward_pre_hook(lambda _, args: states.append(args[0])) for layer in model.model.layers]
    with torch.inference_mode():
        model.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    for hook in hooks:
        hook.remove()
    return entered, states


def note(found: dict[tuple[int, int], Tensor], number: int, place: int, entered: Tensor) -> None:
    """What a walk tells, by model and batch."""
    found[number, place] = entered


def padded_on_the_left() -> Batch:
    """Texts of 12, 9 and 4 tokens."""
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[1, :3] = mask[2, :8] = 0
    return Batch(some_tokens(3, 12), mask)


@pytest.mark.parametrize("large", [layerwise.LARGE, 1], ids=["in turn", "side by side"])
def test_a_walk_is_the_whole_forward_bit_for_bit(plan: Plan, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches brought through one layer at a time, each with its expert, masks of padding and windows too."""
    monkeypatch.setattr(layerwise, "LARGE", large)
    own = [[Batch(some_tokens(2, 11)), padded_on_the_left()], [Batch(some_tokens(3, 20) % 90)]]
    partly, models = LayerwiseModels(plan), PlannedModels(plan)
    partly.expect(torch.cat([batch.ids.flatten() for batches in own for batch in batches]))
    walk = Walk(partly.merged, own)
    assert plan.dense is not None
    found: list[dict[tuple[int, int], Tensor]] = []
    streams: list[list[list[Tensor]]] = []
    for layer in range(plan.dense.layers):
        streams.append([list(walk.states(number)) for number in range(2)])
        found.append({})
        keep = partial(note, found[-1])
        walk.advance(layer, keep if layer in plan.dense.ffn_layers else None)
    for number, batches in enumerate(own):
        for place, batch in enumerate(batches):
            entered, states = whole(models.merged(number), batch, plan.dense.ffn_layers)
            for layer, own_input in zip(plan.dense.ffn_layers, entered, strict=True):
                assert torch.equal(found[layer][number, place], own_input)
            for layer in range(plan.dense.layers):
                assert torch.equal(streams[layer][number][place], states[layer])


def test_texts_in_a_packed_row_see_themselves_alone(plan: Plan) -> None:
    """Texts of several lengths, some longer than a window, in one row are what each is alone."""
    texts = [some_tokens(2, 3), some_tokens(3, 12), some_tokens(1, 9)]
    runs = tuple((len(run), run.shape[1]) for run in texts)
    partly, models = LayerwiseModels(plan), PlannedModels(plan)
    assert plan.dense is not None
    with packed_attention() as packed:
        row = Batch(torch.cat([run.flatten() for run in texts])[None], runs=runs)
        walk = Walk(lambda number: packed(partly.merged(number)), [[], [row]])
        for layer in range(plan.dense.layers):
            walk.advance(layer)
    alone = [state for run in texts for text in run for state in final(models.merged(1), text)]
    torch.testing.assert_close(walk.states(1)[0][0], torch.stack(alone), rtol=1e-4, atol=1e-5)


def final(model: Any, text: Tensor) -> Tensor:
    """What leaves the last layer for one text alone, `[S, d]`."""
    kept: list[Tensor] = []
    hook = anatomy_of(model).norm_of(model).register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.inference_mode():
        model.model(input_ids=text[None], use_cache=False)
    hook.remove()
    return kept[0][0]


def test_the_base_layer_by_layer(plan: Plan) -> None:
    """mergekit's gates read the base so; asking for another model in between changes nothing."""
    layerwise = LayerwiseModels(plan)
    layerwise.merged(1)
    batch = padded_on_the_left()
    walk = Walk(lambda _: layerwise.base(), [[batch]])
    walk.advance(0)
    layerwise.merged(0)
    _, states = whole(PlannedModels(plan).base(), batch, ())
    assert torch.equal(walk.states(0)[0], states[1])


@pytest.mark.parametrize("settings", [
    {"merge": {"shared": "base"}}, {"merge": {"shared": "task_arithmetic"}}, {"merge": {"shared": "slerp"}},
    {"merge": {"shared": "ties"}}, {"merge": {"shared": "dare_ties"}}, {"output": {"layout": "fused"}},
], ids=str)  # fmt: skip
def test_what_is_read_is_what_is_written(settings: dict[str, Any], tiny: TinyMaker, tmp_path: Path) -> None:
    """Whatever merges the shared weights, the rows in use are the whole embedding's, and layers are the whole's."""
    base, one, other = (tiny("llama", seed) for seed in range(3))
    plan = make_plan(recipe_of(base, [one, other], **settings), tmp_path)
    batch = Batch(some_tokens(2, 9))
    layerwise = LayerwiseModels(plan)
    layerwise.expect(batch.ids.flatten())
    walk = Walk(layerwise.merged, [[], [batch]])
    walk.advance(0)
    _, states = whole(PlannedModels(plan).merged(1), batch, ())
    assert torch.equal(walk.states(1)[0], states[1])


def test_one_layer_is_held_and_only_the_rows_in_use(tiny: TinyMaker, tmp_path: Path) -> None:
    """The other layers have no weights, nor has the head; the same layer of another expert replaces its FFN alone."""
    base, one, other = (tiny("llama", seed, num_hidden_layers=3) for seed in range(3))
    plan = make_plan(recipe_of(base, [one, other]), tmp_path)
    layerwise = LayerwiseModels(plan)
    ids = torch.tensor([[5, 9, 9, 70]])
    layerwise.expect(ids)
    walk = Walk(layerwise.merged, [[Batch(ids)], [Batch(ids)]])
    model: Any = layerwise.merged(0)
    assert model.model.embed_tokens.weight.shape == (3, 32)
    assert model.lm_head.weight.is_meta
    walk.advance(0)
    walk.advance(1)
    held = [sum(p.numel() for p in layer.parameters() if not p.is_meta) for layer in model.model.layers]
    assert held[0] == held[2] == 0
    assert held[1] == sum(p.numel() for p in model.model.layers[1].parameters()) > 0
    attention = model.model.layers[1].self_attn.q_proj.weight
    layerwise.merged(0)
    model.model.layers[1](torch.randn(1, 4, 32), position_embeddings=(torch.ones(1, 4, 8), torch.zeros(1, 4, 8)))
    assert model.model.layers[1].self_attn.q_proj.weight is attention


# Memory

WIDE = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 16, "vocab_size": 32000,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
"""257 M parameters: 515 MB in bf16, of which a layer is 24 MB and the embedding and the head 131 MB."""

PROGRAM = """
import json, resource, sys
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from moemerge.build.run import fit_router
from moemerge.build.texts import read_expert_texts
from moemerge.plan import make_plan
from moemerge.recipe import Recipe

def data():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))

recipe, allowance, out = Recipe.model_validate(json.loads(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
torch.ones(64, 64).bfloat16() @ torch.ones(64, 64).bfloat16()  # what the libraries take for themselves
plan = make_plan(recipe, Path.cwd())
resource.setrlimit(resource.RLIMIT_DATA, (data() + allowance,) * 2)
fit = fit_router(plan, read_expert_texts(plan, Path.cwd()))
torch.save(fit.weights, out)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two specialists of half a gigabyte each, with a tokenizer."""
    from safetensors.torch import save_file

    from moemerge.families import DenseConfig
    from tests.tiny import write_tokenizer

    folders = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("large")
        (folder / "config.json").write_text(json.dumps(WIDE), encoding="utf-8")
        write_tokenizer(folder)
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if "norm" in name
            else torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.03, generator=generator)
            for name, shape in DenseConfig.resolve(WIDE).tensors()
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        folders.append(folder)
    return folders


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA limits anonymous memory on Linux")
def test_a_gate_is_fitted_in_less_memory_than_one_source(large: list[Path], tmp_path: Path) -> None:
    """Under a limit of data memory of half a source's bytes beyond the imports, the gate is that of whole models."""
    source = (large[0] / "model.safetensors").stat().st_size
    recipe = recipe_of(large[0], large[1:], gate={"expand": "off"})
    command = [sys.executable, "-c", PROGRAM, recipe.model_dump_json(), str(source // 2), str(tmp_path / "gate.pt")]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr

    from moemerge.build.texts import read_expert_texts
    from moemerge.dense.models import load_tokenizer
    from moemerge.gate import GateRequest, fit_gate

    plan = make_plan(recipe, Path.cwd())
    request = GateRequest("discriminant", read_expert_texts(plan, Path.cwd()), range(16), 1024, expand="off")
    reference = fit_gate(request, Whole(plan), load_tokenizer(plan))
    torch.testing.assert_close(torch.load(tmp_path / "gate.pt"), reference.weights, rtol=1e-4, atol=1e-6)


class Whole:
    """`DenseModels` of which each merged model is held whole, both of them."""

    def __init__(self, plan: Plan) -> None:
        self._models = [PlannedModels(plan) for _ in plan.experts]

    def merged(self, expert: int) -> Any:
        """See `DenseModels`."""
        return self._models[expert].merged(expert)

    def specialist(self, expert: int) -> Any:
        """See `DenseModels`."""
        return self._models[expert].specialist(expert)

    def base(self) -> Any:
        """See `DenseModels`."""
        return self._models[0].base()

"""LoRA on attention and experts beside the router."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moemerge.console import Silent
from moemerge.errors import TrainError
from moemerge.families import anatomy_of
from moemerge.mixture.processes import Processes
from moemerge.train.lora import Lora
from moemerge.train.options import TrainOptions
from moemerge.train.run import train_folder
from moemerge.verify import verify_folder
from tests.evaluate.conftest import Trio, measure, mixture
from tests.hosts import DIVIDED, every, host_config
from tests.moe import build_tiny, load, logits, some_tokens
from tests.train.conftest import Trainer
from tests.train.test_run import LUCK, contents, pairs
from tests.train.test_step import gradients, some_rows

__all__ = ["mixture", "pairs"]
BOTH = ("attention", "experts")


def stirred(model: Any, also: Any, **given: Any) -> Lora:
    """A LoRA whose second halves are not zero."""
    lora = Lora(model, TrainOptions(also=also, **given))
    draw = torch.Generator().manual_seed(1)
    for parameter in lora.parameters:
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return lora


@pytest.mark.parametrize("host", every())
@pytest.mark.parametrize("also", [BOTH, ("attention",), ("experts",)])
def test_three_ways_of_one_change(host: str, also: Any, tmp_path: Path) -> None:
    """The pass that trains, the one that judges, and peft's own merge of the adapter give the same logits."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    def fresh() -> Any:
        torch.manual_seed(0)
        config = AutoConfig.for_model(host, **host_config(host, 4, 2))
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)

    model, tokens = fresh(), some_tokens()
    plain = logits(model, tokens)
    lora = stirred(model, also, rank=3, alpha=5)
    trained = logits(model, tokens)
    with lora.exported(torch.float32):
        judged = logits(model, tokens)
    theirs = fresh()
    config: Any = LoraConfig(
        r=3, lora_alpha=5, target_modules=lora.config.target_modules,
        target_parameters=list(lora.config.target_parameters),
    )  # fmt: skip
    inject_adapter_in_model(config, theirs, "default")
    tensors = {name.removeprefix("base_model.model."): value for name, value in lora.adapter().items()}
    set_peft_model_state_dict(theirs, tensors)
    wanted = logits(theirs, tokens)
    assert float((plain - wanted).abs().max()) > 1e-2
    torch.testing.assert_close(trained, wanted)
    torch.testing.assert_close(judged, wanted)


@pytest.mark.parametrize("host", every())
@pytest.mark.parametrize("layout", ["fused", "per_expert"])
def test_what_is_judged_is_what_is_written(host: str, layout: str, pairs: Any, texts: Path, tmp_path: Path) -> None:
    """In bf16, each host and layout: only what is named differs, it verifies, and it loses what the best look lost."""
    base, experts = pairs(host)
    given = {
        "output": {"layout": layout},
        "experts_per_token": 1,
        "dtype": "bfloat16",
        "near": True,
        "seed": LUCK.get(host, 0),
    }
    given["gate"] = {"init": "random"}
    moe = build_tiny(tmp_path / "moe", base, experts, **given)
    before = contents(moe)
    rows = [f"e{n}: {texts.parent}/train-{domain}.jsonl" for n, domain in enumerate(("code", "french"))]
    (tmp_path / "data.yaml").write_text("\n".join(rows), encoding="utf-8")
    common = {"data": tmp_path / "data.yaml", "context": 64, "rows": 4, "judge_every": 5}
    options = TrainOptions(also=BOTH, rate=0.03, also_rate=3e-3, steps=20, **common)  # type: ignore[arg-type]
    result = train_folder(moe, tmp_path / "out", options, Silent(), Processes())
    assert result.improved
    assert contents(moe) == before
    found = verify_folder(result.path)
    assert found.differences == ()
    assert found.notes == (
        "attention and experts were trained beside the router: checked against the recorded digests",
    )
    ours, theirs = load(result.path), load(moe)
    anatomy = anatomy_of(ours)
    changed = (anatomy.router_weight, *anatomy.expert_weights)
    linears = rf"model\.layers\.\d\.{anatomy.attention}\.({'|'.join(anatomy.projections)})\.weight"
    for name, parameter in ours.named_parameters():
        named = re.fullmatch(linears, name) is not None or name.endswith(changed)
        assert torch.equal(parameter, theirs.get_parameter(name)) != named, name
    again = TrainOptions(rate=1e-9, steps=1, **common)  # type: ignore[arg-type]
    assert train_folder(result.path, tmp_path / "again", again, Silent(), Processes()).start.by_domain == (
        result.best.by_domain
    )


def test_it_lowers_what_the_router_alone_cannot(trained: Trainer, trio: Trio, tmp_path: Path) -> None:
    """From a fitted gate: attention and experts bring the held-out loss further down, and `eval` reads the folder."""
    folder = trio.build(tmp_path / "fitted")
    given = {"steps": 40, "judge_every": 10, "rate": 1e-3}
    alone = trained(folder, tmp_path / "alone", **given)
    with_both = trained(folder, tmp_path / "both", also=BOTH, also_rate=3e-3, **given)
    assert with_both.improved
    assert with_both.best.mean < alone.best.mean - 0.02
    report = measure(with_both.path)
    assert report["domains"]["code"]["moe"] < measure(folder)["domains"]["code"]["moe"]
    assert not [note for note in report["notes"] if "is not that of its source" in note]
    card = (with_both.path / "README.md").read_text(encoding="utf-8")
    assert "The routers (LoRA of rank 8) and, by LoRA of rank 8, attention and experts were trained" in card


@pytest.mark.parametrize("also", [("attention",), ("experts",)])
def test_only_what_is_named_changes(also: Any, trained: Trainer, unrouted: Path) -> None:
    """Everything else stays bit for bit, in the files."""
    result = trained(also=also, rate=2e-2, steps=12)
    assert result.improved
    ours, theirs = load_file(result.path / "model.safetensors"), load_file(unrouted / "model.safetensors")
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    named = {"attention": ".self_attn.", "experts": ".experts."}[also[0]]
    assert changed == {name for name in ours if named in name or ".gate.weight" in name}
    assert verify_folder(result.path).ok


def test_an_adapter_holds_all_of_it(trained: Trainer, unrouted: Path, tmp_path: Path) -> None:
    """`PeftModel` applies router, attention and experts from one folder, and gives the merged folder's logits."""
    from peft import PeftModel

    given = {"rate": 2e-2, "also": BOTH, "also_rate": 1e-2}
    merged = trained(**given)
    adapter = trained(output=tmp_path / "adapter", adapter_only=True, **given)
    assert merged.improved
    model: Any = PeftModel.from_pretrained(load(unrouted), adapter.path / "router-adapter")
    tokens = some_tokens()
    torch.testing.assert_close(logits(model, tokens), logits(load(merged.path), tokens))
    names = {name.split(".lora_")[0] for name in load_file(adapter.path / "router-adapter/adapter_model.safetensors")}
    assert {name.split("layers.0.")[1] for name in names if "layers.0." in name} == {
        "mlp.gate", "mlp.experts", "mlp.experts.base_layer", "self_attn.q_proj", "self_attn.k_proj",
        "self_attn.v_proj", "self_attn.o_proj",
    }  # fmt: skip


def test_nothing_better_leaves_all_as_it_was(trained: Trainer, unrouted: Path) -> None:
    """Where no step helps, attention and experts are the source's, bit for bit, and the record says so."""
    result = trained(also=BOTH, rate=1e-9, also_rate=1e-12)
    assert not result.improved
    assert result.training["changed"] == ["router"]
    assert (result.path / "model.safetensors").read_bytes() == (unrouted / "model.safetensors").read_bytes()
    assert verify_folder(result.path).notes == ()


def test_a_change_that_the_record_does_not_name_is_seen(trained: Trainer, trio: Trio, tmp_path: Path) -> None:
    """Without the record's word on it, trained attention is not a copy of its source."""
    result = trained(output=trio.root / "unnamed", also=("attention",), rate=2e-2, steps=12)
    record = result.path / "moemerge.yaml"
    text = record.read_text(encoding="utf-8")
    assert "  - attention\n" in text
    record.write_text(re.sub(r"(?s)(  changed:\n  - router\n)  - attention\n", r"\1", text), encoding="utf-8")
    found = verify_folder(result.path)
    assert {d.where for d in found.differences} == {
        f"model.layers.{layer}.self_attn.{letter}_proj.weight" for layer in range(2) for letter in "qkvo"
    }


def test_the_frozen_model_is_never_written_to(mixture: Any) -> None:
    """No parameter of the model's own changes in training passes or looks; only the LoRA gets gradients, in fp32."""
    model = copy.deepcopy(mixture("mixtral", dtype=torch.bfloat16)).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lora = stirred(model, BOTH)
    model.model(input_ids=some_tokens()).last_hidden_state.float().sum().backward()
    with lora.exported(torch.bfloat16), torch.inference_mode():
        model.model(input_ids=some_tokens())
    own = {n.replace(".base_layer", ""): p for n, p in model.named_parameters() if ".lora_" not in n}
    assert own.keys() == before.keys() - {"lm_head.weight"} | (own.keys() & {"lm_head.weight"})
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in own.items())
    assert {p.dtype for p in lora.parameters} == {p.grad.dtype for p in lora.parameters if p.grad is not None}
    assert lora.parameters[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"also": ("atention",)}, "`--also atention` is not known"),
        ({"also_rate": 0.0}, "`--also-rate 0.0` must be more than 0"),
    ],
)
def test_options_that_make_no_sense(given: Any, message: str) -> None:
    """Said in the words that the user typed."""
    with pytest.raises(TrainError) as caught:
        TrainOptions(**given)
    assert caught.value.message == message


@pytest.mark.parametrize("host", every())
@pytest.mark.parametrize("also", [("attention",), ("experts",), BOTH])
def test_the_gates_learn_as_they_do_alone(host: str, also: Any, mixture: Any) -> None:
    """A LoRA that changes nothing yet leaves the gates' gradient as it is, straight through at top-1 too."""
    model, rows = mixture(host, k=1, **DIVIDED[host]), some_rows(4)
    alone = {"balance_weight": 0.0, "z_weight": 0.0, "domain_weight": 0.0, "first_weight": 0.0}
    plain, _ = gradients(copy.deepcopy(model), [rows], "straight-through", **alone)
    wrapped = copy.deepcopy(model).requires_grad_(False)
    lora = Lora(wrapped, TrainOptions(also=also))
    ours, _ = gradients(wrapped, [rows], "straight-through", frozen=False, **alone)
    assert min(float(gradient.abs().max()) for gradient in plain) > 1e-4
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in lora.parameters)

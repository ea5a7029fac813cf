"""A mixture that accelerate spreads over devices, memory and disk trains as one that is whole does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from moemerge.console import Silent
from moemerge.errors import EvalError, MoemergeError, TrainError
from moemerge.mixture.placement import Placement
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers
from moemerge.train.checkpointing import checkpoint_layers
from moemerge.train.gates import Gates
from moemerge.train.loop import Loop
from moemerge.train.options import TrainOptions
from moemerge.train.routing import TrainedRouting
from moemerge.train.run import train_folder
from moemerge.train.state import state_path
from moemerge.train.step import Losses, step_gradients
from moemerge.verify import verify_folder
from tests.evaluate.conftest import mixture
from tests.hosts import DIVIDED, every
from tests.train.conftest import Trainer
from tests.train.test_run import contents
from tests.train.test_step import some_rows

__all__ = ["mixture"]
ROOM = {"cpu": "60KB"}
"""What a part of the trio's mixture fits into."""


def placed(model: Any, where: str, folder: Path) -> Any:
    """A copy of a model: plain, or through accelerate with all of it in memory, or with layers on the disk."""
    if where == "plain":
        return copy.deepcopy(model).requires_grad_(False)
    model.save_pretrained(folder / "saved")
    last = len(model.model.layers) - 1
    spots = {f"model.{name}": "cpu" for name, _ in model.model.named_children() if name != "layers"}
    spots |= {f"model.layers.{layer}": "disk" if layer == last else "cpu" for layer in range(last + 1)}
    spots["lm_head"] = "disk"
    found: Any = AutoModelForCausalLM.from_pretrained(
        folder / "saved", device_map="cpu" if where == "memory" else spots, offload_folder=folder / "offload"
    )
    assert any(parameter.is_meta for parameter in found.parameters()) == (where == "disk")
    return found.eval().requires_grad_(False)


def gradients(model: Any, start: list[Tensor], how: Any, *, checkpointing: bool) -> tuple[list[Tensor], Losses]:
    """Those of the gates, and the terms."""
    routers = find_routers(model)
    options = TrainOptions(method="full", balance_weight=0.5, z_weight=0.01, domain_weight=0.2)
    gates = Gates(start, routers.layers, routers.anatomy, options)
    if checkpointing:
        checkpoint_layers(model)
    routing = TrainedRouting(routers, how, slopes=True)
    offloaded = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    found = step_gradients(model, gates, routing, [some_rows(3), some_rows(2, 1)], options, Processes())
    assert [name for name, parameter in model.named_parameters() if parameter.is_meta] == offloaded
    return found


@pytest.mark.parametrize("host", every())
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("how", "k"), [("straight-through", 1), ("top-k", 2)])
def test_the_gradients_are_the_same(
    host: str, where: str, checkpointing: bool, how: Any, k: int, mixture: Any, tmp_path: Path
) -> None:
    """Every term and gradient bit for bit; what was on the disk is there alone again afterwards."""
    model = mixture(host, k=k, **DIVIDED[host])
    start = [weight.detach() for weight in find_routers(model).matrices]
    plain, losses = gradients(placed(model, "plain", tmp_path), start, how, checkpointing=False)
    ours, others = gradients(placed(model, where, tmp_path), start, how, checkpointing=checkpointing)
    assert losses == others
    for one, other in zip(ours, plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("host", every())
def test_gates_are_looked_at_where_they_cannot_be_written(host: str, mixture: Any, tmp_path: Path) -> None:
    """Other gates give what a model that holds them gives, and the model's own come back, hooks and all."""
    model, tokens = placed(mixture(host), "plain", tmp_path), some_rows(2).ids
    offloaded = placed(mixture(host), "disk", tmp_path)
    own = offloaded(input_ids=tokens).logits
    gates = [torch.randn_like(weight) for weight in find_routers(model).matrices]
    with find_routers(offloaded).routed_by(gates):
        found = offloaded(input_ids=tokens).logits
    assert torch.equal(offloaded(input_ids=tokens).logits, own)
    assert torch.equal(model(input_ids=tokens).logits, own)
    for weight, gate in zip(find_routers(model).matrices, gates, strict=True):
        weight.copy_(gate)
    assert torch.equal(model(input_ids=tokens).logits, found)
    assert not torch.equal(found, own)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads round otherwise where weights lie elsewhere: with two, the last training differed in a byte."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def differing(one: Path, other: Path) -> dict[str, list[tuple[float, float]]]:
    """Values that two folders do not share, by tensor; a difference of bytes alone would not tell which."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    unlike = {name: ours[name] != theirs[name] for name in ours}
    return {
        name: list(zip(ours[name][where].tolist(), theirs[name][where].tolist(), strict=True))
        for name, where in unlike.items()
        if where.any()
    }


@pytest.mark.parametrize("more", [{}, {"checkpointing": True}, {"start": "discriminant"}])
def test_a_training_is_the_same(more: Any, one_thread: None, trained: Trainer, tmp_path: Path) -> None:
    """To the bytes of the folder, with most of the model on the disk."""
    given = {"rate": 2e-2, **more}
    one = trained(output=tmp_path / "a", **given)
    where = Placement(device_map="auto", max_memory=ROOM, offload=tmp_path / "offload")
    other = trained(output=tmp_path / "b", placement=where, **given)
    assert list((tmp_path / "offload").iterdir()), "nothing was offloaded, so this shows nothing"
    assert differing(one.path, other.path) == {}
    assert contents(one.path)["model.safetensors"] == contents(other.path)["model.safetensors"]
    assert one.training["history"] == other.training["history"]
    assert verify_folder(other.path).differences == ()


def test_it_resumes(trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted at a look, it ends as it would have; another map is another training."""
    where = Placement(device_map="auto", max_memory=ROOM, offload=tmp_path / "offload")
    whole = trained(output=tmp_path / "a", placement=where, rate=2e-2)
    look, looks = Loop._look, 0

    def interrupted(loop: Loop, *arguments: Any, **more: Any) -> None:
        nonlocal looks
        look(loop, *arguments, **more)
        looks += 1
        if looks == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(output=tmp_path / "b", placement=where, rate=2e-2)
    assert state_path(tmp_path / "b").exists()
    with pytest.raises(TrainError, match="device: 'auto' then, 'cpu' now"):
        trained(output=tmp_path / "b", rate=2e-2, resume=True)
    rest = trained(output=tmp_path / "b", placement=where, rate=2e-2, resume=True)
    assert contents(whole.path)["model.safetensors"] == contents(rest.path)["model.safetensors"]


def test_a_model_that_does_not_fit_needs_a_folder(trained: Trainer) -> None:
    """Said with the option that is missing."""
    with pytest.raises(EvalError, match="there is no folder for the rest") as caught:
        trained(placement=Placement(device_map="auto", max_memory=ROOM))
    assert caught.value.hint == "add `--offload FOLDER`"


def test_what_a_map_is_not_for(unrouted: Path, texts: Path, tmp_path: Path) -> None:
    """Several processes, and LoRA beside the router."""
    where = Placement(device_map="auto")
    with pytest.raises(MoemergeError, match="`--also` cannot be trained with `--device-map`"):
        TrainOptions(also=("attention",), placement=where)
    options = TrainOptions(data=texts, placement=where)
    with pytest.raises(MoemergeError, match="`--device-map` is for one process alone"):
        train_folder(unrouted, tmp_path / "out", options, Silent(), Processes(0, 2))

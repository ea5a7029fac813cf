"""Activation checkpointing gives the same gradients and holds less."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from moemerge.families import anatomy_of
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers
from moemerge.train.checkpointing import checkpoint_layers
from moemerge.train.gates import Gates
from moemerge.train.options import TrainOptions
from moemerge.train.routing import TrainedRouting
from moemerge.train.step import Losses, step_gradients
from tests.evaluate.conftest import mixture
from tests.hosts import DIVIDED, every
from tests.train.conftest import Trainer
from tests.train.test_lora import BOTH, stirred
from tests.train.test_run import contents
from tests.train.test_step import some_rows

__all__ = ["mixture"]


def gradients(model: Any, how: Any, also: Any, *, checkpointing: bool) -> tuple[list[Tensor], Losses, int]:
    """Those of gates and LoRA, the terms, and how often a layer ran."""
    model = copy.deepcopy(model).requires_grad_(False)
    parameters = stirred(model, also).parameters if also else []
    routers = find_routers(model)
    options = TrainOptions(method="full", balance_weight=0.5, z_weight=0.01, domain_weight=0.2)
    gates = Gates(routers.matrices, routers.layers, routers.anatomy, options)
    if checkpointing:
        checkpoint_layers(model)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    block = anatomy_of(model).block_of(model.model.layers[routers.layers[0]])
    block.register_forward_pre_hook(count)  # a second run may end before the end of the layer
    routing = TrainedRouting(routers, how, slopes=True)
    batches = [some_rows(3), some_rows(2, seed=1)]
    found, losses = step_gradients(model, gates, routing, batches, options, Processes())
    children = [module for layer in model.model.layers for module in layer.children() if not hasattr(module, "lora_A")]
    assert not any(module.training for module in children)
    return [*found, *(parameter.grad for parameter in parameters)], losses, calls


@pytest.mark.parametrize("host", every())
@pytest.mark.parametrize("also", [(), BOTH])
@pytest.mark.parametrize(("how", "k"), [("straight-through", 1), ("top-k", 2), ("soft", 2)])
def test_the_gradients_are_the_same(host: str, also: Any, how: Any, k: int, mixture: Any) -> None:
    """Every term and every gradient, of gates and LoRA, though each layer runs twice a pass."""
    model = mixture(host, k=k, **DIVIDED[host])
    plain, losses, once = gradients(model, how, also, checkpointing=False)
    ours, others, twice = gradients(model, how, also, checkpointing=True)
    assert (once, twice) == (2, 4)
    assert losses == others
    for one, other in zip(ours, plain, strict=True):
        assert torch.equal(one, other)
    assert min(float(gradient.abs().max()) for gradient in ours) > 0


def test_less_is_held_for_the_backward_pass(mixture: Any) -> None:
    """Tensors saved by a pass, counted as autograd saves them."""
    sizes = []
    for checkpointing in (False, True):
        model = copy.deepcopy(mixture("mixtral")).requires_grad_(False)
        gates = [weight.clone().requires_grad_() for weight in find_routers(model).matrices]
        if checkpointing:
            checkpoint_layers(model)
        held = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal held
            held += tensor.numel()
            return tensor

        routing, rows = TrainedRouting(find_routers(model), "top-k", slopes=False), some_rows(4)
        routing.before(rows)
        with routing.using(gates), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.model(input_ids=rows.ids, position_ids=rows.positions, use_cache=False)
        sizes.append(held)
    assert sizes[1] < sizes[0] / 4


def test_a_training_is_the_same_with_it(trained: Trainer, tmp_path: Any) -> None:
    """Bit for bit, to the folder."""
    given = {"rate": 2e-2, "also": BOTH}
    one = trained(output=tmp_path / "a", **given)
    other = trained(output=tmp_path / "b", checkpointing=True, **given)
    assert contents(one.path)["model.safetensors"] == contents(other.path)["model.safetensors"]

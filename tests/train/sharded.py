"""What a test runs in two processes: `python -m torch.distributed.run --nproc_per_node 2 -m tests.train.sharded`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import distributed
from transformers import AutoConfig, AutoModelForCausalLM

from moemerge.families import anatomy_of
from moemerge.mixture.routers import find_routers
from moemerge.train.lora import Lora
from moemerge.train.options import TrainOptions
from moemerge.train.routing import TrainedRouting
from moemerge.train.rows import Rows
from moemerge.train.sharding import shard
from tests.hosts import USUAL, host_config
from tests.moe import some_tokens


def gradients(model: Any, also: Lora) -> list[torch.Tensor]:
    """Of the gates and a LoRA, by one pass."""
    also.clear()
    routers = find_routers(model)
    gates = [weight.detach().clone().requires_grad_() for weight in routers.matrices]
    routing, tokens = TrainedRouting(routers, "straight-through", slopes=False), some_tokens()
    every = torch.ones_like(tokens, dtype=torch.bool)
    routing.before(Rows(tokens, tokens, every, every, torch.zeros_like(tokens), every))
    with routing.using(gates):
        model.model(input_ids=tokens, use_cache=False).last_hidden_state.square().sum().backward()
    return [tensor.grad for tensor in (*gates, *also.parameters)]  # type: ignore[misc]


def _check_fsdp(model: Any) -> None:
    own = {type(parameter.data).__name__ for name, parameter in model.named_parameters() if ".experts." in name}
    assert own == {"DTensor", "Tensor"}, own  # the experts' own, and their LoRA
    router = anatomy_of(model).router_weight
    for name, parameter in model.model.layers[0].named_parameters():
        if ".lora_" in name or name == router:
            assert not isinstance(parameter, distributed.tensor.DTensor), name
        else:
            half = parameter.shape[0] // 2  # one row lies in one process
            assert parameter.to_local().shape[0] in {half, parameter.shape[0] - half}, name


def main() -> None:
    """Compares a model that is shared with one that is not."""
    distributed.init_process_group("gloo")
    for host in USUAL:
        torch.manual_seed(0)
        config = AutoConfig.for_model(host, **host_config(host, 4, 1, norm_topk_prob=True))
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        other = copy.deepcopy(model)
        also = [Lora(one, TrainOptions(also=("attention", "experts"))) for one in (model, other)]
        assert also[0].parameters
        shard(model)
        _check_fsdp(model)
        pairs = list(zip((model, other), also, strict=True))
        for _ in range(2):
            for ours, theirs in zip(*(gradients(*pair) for pair in pairs), strict=True):
                torch.testing.assert_close(ours, theirs)
            with torch.inference_mode(), also[0].exported(torch.bfloat16), also[1].exported(torch.bfloat16):
                ours, theirs = (one(input_ids=some_tokens()).logits for one in (model, other))
                torch.testing.assert_close(ours, theirs)
    print("as it should be")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()

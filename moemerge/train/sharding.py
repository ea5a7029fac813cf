"""FSDP2: the frozen model in parts over the processes, one unit a decoder layer, each put together while it runs.

What is trained is small and lies in every process: gates (which are outside the model) and LoRA. The routers' own
weights, embeddings and the head stay whole too: the first are small, and the losses ask for slices of the head. A unit
is put together by all processes at the same time, so all must make the same passes: batches are shared out evenly, and
every process looks at all of the held-out texts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from moemerge.errors import TrainError
from moemerge.evaluate.processes import Processes
from moemerge.evaluate.routers import find_routers


def wants_sharding(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `accelerate launch` was configured for FSDP2.

    Raises:
        TrainError: it was configured for something else that shards the model.
    """
    if environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise TrainError("DeepSpeed is not supported", hint="shard by FSDP2: `recipes/accelerate/fsdp2.yaml`")
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if environment.get("FSDP_VERSION", "1") != "2":
        raise TrainError("FSDP is supported in version 2 alone", hint="set `fsdp_version: 2` in accelerate's file")
    return True


def check_sharding(processes: Processes, accumulation: int) -> None:
    """Whether the passes of a step can be shared out evenly.

    Raises:
        TrainError: they cannot.
    """
    if accumulation % processes.count:
        raise TrainError(
            f"`--accumulation {accumulation}` is no multiple of the {processes.count} processes, which FSDP needs",
            hint=f"`--accumulation {processes.count}`",
        )


def shard(model: Any) -> None:
    """Spreads the decoder layers of a frozen model over the processes, where it is."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(model.device.type, (torch.distributed.get_world_size(),))
    whole = {p for p in model.parameters() if p.requires_grad} | {r.weight for r in find_routers(model).modules}
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    layers = {parameter for layer in model.model.layers for parameter in layer.parameters()}
    rest = {parameter for parameter in model.model.parameters() if parameter not in layers}
    fully_shard(model.model, mesh=mesh, ignored_params=whole | rest)
    # the first pass makes the tensors in which layers are put together; in inference mode they would serve no training
    with torch.no_grad():
        model.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)

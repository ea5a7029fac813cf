"""FSDP2: a frozen model in parts over the processes, each decoder layer put together as it runs.

What is trained is small and lies in every process: gates (which are outside the model), LoRA, and the routers' own
weights, which looks at held-out texts replace. Embeddings and the head stay whole too, as the losses ask for slices of
the head. A layer is put together by all processes at the same time, so all must make the same passes: batches are
shared out evenly, and every process looks at all of the held-out texts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from moemerge.errors import TrainError
from moemerge.families import anatomy_of
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers


def wants_sharding(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `accelerate launch` was configured for FSDP2.

    Raises:
        TrainError: it was configured for something else that shards the model.
    """
    fsdp, deepspeed = (
        environment.get(name, "false").lower() == "true" for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    )
    if deepspeed or (fsdp and environment.get("FSDP_VERSION", "1") != "2"):
        raise TrainError(
            f"{'DeepSpeed' if deepspeed else 'FSDP 1'} is not supported: the model is shared by FSDP 2",
            hint="start from `recipes/accelerate/fsdp2.yaml`",
        )
    return fsdp


def check_sharding(processes: Processes, accumulation: int) -> None:
    """Whether the passes of a step can be shared out evenly.

    Raises:
        TrainError: they cannot.
    """
    if accumulation % processes.count:
        raise TrainError(
            f"`--accumulation {accumulation}` is not a multiple of the {processes.count} processes, as parts need",
            hint=f"`--accumulation {processes.count}`",
        )


def shard(model: Any) -> None:
    """Spreads the decoder layers of a frozen model over the processes, where it is, as `wants_sharding` found."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    anatomy = anatomy_of(model)
    decoder = anatomy.decoder_of(model)
    layers = {parameter for layer in anatomy.layers_of(model) for parameter in layer.parameters()}
    whole = {p for p in model.parameters() if p.requires_grad} | set(find_routers(model).matrices)
    whole |= {parameter for parameter in decoder.parameters() if parameter not in layers}
    mesh = init_device_mesh(model.device.type, (torch.distributed.get_world_size(),))
    for part in (*anatomy.layers_of(model), decoder):
        fully_shard(part, mesh=mesh, ignored_params=whole)
    # the first pass makes the tensors in which layers are put together; in inference mode they would serve no training
    with torch.no_grad():
        decoder(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)

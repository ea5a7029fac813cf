"""FSDP2 or DeepSpeed ZeRO-3: a frozen model in parts over the processes, each decoder layer put together as it runs.

What is trained is small and lies in every process: gates (which are outside the model), LoRA, and the routers' own
weights, which looks at held-out texts replace. Embeddings and the head stay whole too, as the losses ask for slices of
the head. DeepSpeed gets no optimiser, as for inference: it parts the frozen weights and does nothing else. A layer is
put together by all processes at the same time, so all must make the same passes: batches are shared out evenly, and
every process looks at all of the held-out texts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import torch

from moemerge.errors import TrainError
from moemerge.families import anatomy_of
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers


def wants_sharding(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `accelerate launch` was configured for FSDP2 or DeepSpeed ZeRO-3.

    Raises:
        TrainError: it was configured for something else that shards the model, or DeepSpeed is not installed.
    """
    if _says(environment, "ACCELERATE_USE_DEEPSPEED"):
        if environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") != "3":
            raise TrainError(
                "DeepSpeed is supported in ZeRO stage 3 alone, and without a file of its own",
                hint="start from `recipes/accelerate/deepspeed-zero3.yaml`",
            )
        if find_spec("deepspeed") is None:
            raise TrainError("DeepSpeed is not installed", hint="`pip install deepspeed`")
        return True
    if not _says(environment, "ACCELERATE_USE_FSDP"):
        return False
    if environment.get("FSDP_VERSION", "1") != "2":
        raise TrainError("FSDP is supported in version 2 alone", hint="set `fsdp_version: 2` in accelerate's file")
    return True


def _says(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "false").lower() == "true"


def check_sharding(processes: Processes, accumulation: int) -> None:
    """Whether the passes of a step can be shared out evenly.

    Raises:
        TrainError: they cannot.
    """
    if accumulation % processes.count:
        raise TrainError(
            f"`--accumulation {accumulation}` is no multiple of the {processes.count} processes, as parts need",
            hint=f"`--accumulation {processes.count}`",
        )


def shard(model: Any) -> None:
    """Spreads the decoder layers of a frozen model over the processes, where it is, as `wants_sharding` found."""
    anatomy = anatomy_of(model)
    decoder = anatomy.decoder_of(model)
    layers = {parameter for layer in anatomy.layers_of(model) for parameter in layer.parameters()}
    whole = {p for p in model.parameters() if p.requires_grad} | {r.weight for r in find_routers(model).modules}
    whole |= {parameter for parameter in decoder.parameters() if parameter not in layers}
    if _says(os.environ, "ACCELERATE_USE_DEEPSPEED"):
        _by_deepspeed(model, whole)
    else:
        _by_fsdp(model, whole)
    # the first pass makes the tensors in which layers are put together; in inference mode they would serve no training
    with torch.no_grad():
        decoder(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)


def _by_fsdp(model: Any, whole: set[Any]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(model.device.type, (torch.distributed.get_world_size(),))
    anatomy = anatomy_of(model)
    for layer in anatomy.layers_of(model):
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(anatomy.decoder_of(model), mesh=mesh, ignored_params=whole)


def _by_deepspeed(model: Any, whole: set[Any]) -> None:
    # DeepSpeed takes every parameter of a model, so what stays whole is a plain attribute of its module from now on
    anatomy = anatomy_of(model)
    for module in anatomy.decoder_of(model).modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter in whole:
                delattr(module, name)
                module.__dict__[name] = parameter
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # asked for, and read by its own optimiser alone
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "bf16": {"enabled": model.dtype == torch.bfloat16},
    }
    with redirect_stdout(sys.stderr):  # where its log would go; the standard output is for the result
        import deepspeed
        from deepspeed.utils import set_z3_leaf_module

        for layer in anatomy.layers_of(model):  # one unit each: parts of it are called past their modules
            set_z3_leaf_module(layer, True)
        deepspeed.initialize(model=anatomy.decoder_of(model), config=settings)

"""What names, shapes and files tell of how a training saved its weights, and how to save them right."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

Shape = tuple[int, ...]

MOST_PROCESSES = 1024
"""More processes than anyone shards a model of this kind over."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why weights are not what they should be.

    Attributes:
        what: the rest of a sentence about them, as `are named as ...`.
        cure: how to save them right.
    """

    what: str
    cure: str


_INSIDE = "save the model inside the wrapper"
_PEFT = Cause(
    "as peft wraps them", "merge the adapter with `merge_and_unload()` and save that, or save the adapter alone"
)
_LANGUAGE = "language_model"
_WRAPPERS: Mapping[str, Cause] = {
    "_orig_mod": Cause("as `torch.compile` wraps them", f"{_INSIDE}: `model._orig_mod.save_pretrained(FOLDER)`"),
    "_fsdp_wrapped_module": Cause(
        "as FSDP wraps them",
        "save the whole model: `fsdp_state_dict_type: FULL_STATE_DICT` and `trainer.save_model()`, or "
        "`save_pretrained(FOLDER, state_dict=accelerator.get_state_dict(model))`",
    ),
    "_checkpoint_wrapped_module": Cause(
        "as activation checkpointing wraps them", f"{_INSIDE}, or remove `_checkpoint_wrapped_module.` from the names"
    ),
    "_forward_module": Cause("as Lightning wraps them", f"{_INSIDE}: `model._forward_module.save_pretrained(FOLDER)`"),
    "module": Cause(
        "as DataParallel, DDP and DeepSpeed wrap them", f"{_INSIDE}: `model.module.save_pretrained(FOLDER)`"
    ),
    "base_layer": _PEFT,
    "base_model.model": _PEFT,
    _LANGUAGE: Cause(
        "as a model of images and text holds them", f"{_INSIDE}: `model.language_model.save_pretrained(FOLDER)`"
    ),
}
"""What wrappers put into names, a part between dots, and whose it is."""

_FACTOR, _FLAT, _VALUE_HEAD = ".lora_", "flat_param", "v_head."
"""Within names of a LoRA's factors, at the end of those of FSDP's flat parameters, at the beginning of TRL's head."""
_WRAPPED = re.compile(rf"(?:^|(?<=\.))({'|'.join(map(re.escape, _WRAPPERS))})\.")


def wrapper_of(name: str, *, more_than_text: bool = False) -> Cause | None:
    """Whose wrapper a tensor's name tells of.

    Args:
        name: the tensor's name.
        more_than_text: the model is one in which a language model lies within.
    """
    parts = (found[1] for found in _WRAPPED.finditer(name))
    return next((_WRAPPERS[part] for part in parts if not (more_than_text and part == _LANGUAGE)), None)


def unwrapped(name: str) -> str:
    """The name without what wrappers put into it."""
    return _WRAPPED.sub("", name)


def held_as(name: str) -> Cause:
    """The cause of names that begin with an attribute of a class that nobody knows."""
    what = f"as a class wraps them that holds the model as `{name}`"
    return Cause(what, f"{_INSIDE}: `model.{name}.save_pretrained(FOLDER)`")


ZERO3 = Cause(
    "are empty, as DeepSpeed ZeRO-3 leaves them, whose processes each hold a part",
    "save with the parts gathered: `stage3_gather_16bit_weights_on_model_save: true`, or `zero_to_fp32.py` on the "
    "training's own checkpoint",
)
FSDP = Cause(
    "are parts, as one process of FSDP holds them",
    "save the whole: `fsdp_state_dict_type: FULL_STATE_DICT`, or `accelerate merge-weights` on the parts of all "
    "processes",
)


_PPO = Cause(
    "as TRL holds the value head of a PPO training beside the model",
    "save the model without it: `model.pretrained_model.save_pretrained(FOLDER)`",
)


def stranger(name: str) -> Cause | None:
    """Whose a tensor is that no model has: a LoRA's factor, FSDP's flat parameter, or a value head."""
    if name.startswith(_VALUE_HEAD):
        return _PPO
    return _PEFT if _FACTOR in name else FSDP if name.endswith(_FLAT) else None


def part_of(shapes: Iterable[tuple[Shape, Shape]]) -> Cause | None:
    """What shapes tell that are not as they should be.

    Args:
        shapes: each wrong tensor's shape, and what it should be.

    Returns:
        None where no one save explains them all.
    """
    pairs = list(shapes)
    if pairs and all(0 in held for held, _ in pairs):
        return ZERO3
    whole = [(held, wanted) for held, wanted in pairs if 0 not in held]
    if len(whole) < 2:
        return None
    flat = all(len(held) == 1 and held[0] < math.prod(wanted) for held, wanted in whole)
    if flat and any(len(wanted) > 1 for _, wanted in whole):
        return FSDP
    rows = all(held[1:] == wanted[1:] for held, wanted in whole)
    return FSDP if rows and any(_shares(whole, count) for count in range(2, MOST_PROCESSES + 1)) else None


def _shares(pairs: list[tuple[Shape, Shape]], count: int) -> bool:
    """Whether every tensor has the rows that the first of so many processes holds."""
    return all(held[0] == -(-wanted[0] // count) for held, wanted in pairs)


_FILES: tuple[tuple[str, Cause], ...] = (
    (
        r"zero_pp_rank_.*|.*_model_states\.pt|global_step\d+|zero_to_fp32\.py",
        Cause(
            "is DeepSpeed's own checkpoint",
            "`python zero_to_fp32.py . . --safe_serialization` in that folder writes `model.safetensors`",
        ),
    ),
    (
        r".*\.distcp|\.metadata|pytorch_model_fsdp_\d+",
        Cause("holds the parts of FSDP's processes", "`accelerate merge-weights PARTS FOLDER` puts them together"),
    ),
    (
        r"(?!.*optim).*rank[_-]?\d+.*\.(pt|pth|bin|safetensors)",
        Cause(
            "is what one process of a training held", "save the whole model: `fsdp_state_dict_type: FULL_STATE_DICT`"
        ),
    ),
    (
        r"(model|pytorch_model|adapter_model)-\d+-of-\d+\.(safetensors|bin)",
        Cause("is a shard, and the index that names them all is missing", "copy or download the index too"),
    ),
    (
        r"consolidated.*\.(pth|safetensors)",
        Cause("is in the form of its maker", "convert it with the script that transformers has for it"),
    ),
    (
        r"tf_model\.h5|flax_model\.msgpack|(tf|flax)_model.*\.index\.json",
        Cause(
            "is of TensorFlow or Flax",
            "transformers 4 reads it (`from_pretrained(FOLDER, from_tf=True)` or `from_flax=True`) and saves it as "
            "safetensors (`save_pretrained`)",
        ),
    ),
    (
        r"(?!.*(optim|scheduler|rng_state|training_args)|(adapter_)?model\.safetensors$|(adapter|pytorch)_model\.bin$)"
        r".*\.(safetensors|bin|pt|pth)",
        Cause("does not have the expected name", "load it where it was made and save it with `save_pretrained`"),
    ),
)
"""Files of weights that are not read, by what their whole name matches; the first that is there speaks."""


def other_weights(folder: Path) -> str | None:
    """A hint about weights that lie in a folder under other names than those that are read."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for pattern, cause in _FILES:
        for name in names:
            if re.fullmatch(pattern, name):
                return f"`{name}` {cause.what}: {cause.cure}"
    return None

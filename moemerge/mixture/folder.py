"""A mixture's folder as evaluation sees it: with moemerge's record, or without one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.device import BYTES, computing
from moemerge.errors import EvalError, SourceError
from moemerge.families import HOSTS, WRAPPED, Host, auto_class_of, host_of, language_config, routed_layers
from moemerge.families.host import ROUTED, expert_counts
from moemerge.mixture.placement import Placement
from moemerge.record.read import NAME as RECORD
from moemerge.record.read import hint_for, read_record
from moemerge.record.schema import Record
from moemerge.sources import Checkpoint
from moemerge.sources.folder import open_folder
from moemerge.sources.tokenizer import read_tokenizer
from moemerge.sources.weights import Folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NUMBER = re.compile(r"\.(\d+)\.")
"""A layer's number in a tensor's name: the first one."""


@dataclass(frozen=True)
class MoeFolder:
    """A folder with a mixture of experts that anybody made.

    Attributes:
        path: the folder.
        checkpoint: its config and tensors.
        experts: the experts' names, in order.
        experts_per_token: k.
    """

    path: Path
    checkpoint: Checkpoint
    experts: tuple[str, ...]
    experts_per_token: int

    @property
    def root(self) -> Path:
        """What relative paths of texts are relative to."""
        return Path.cwd()

    @property
    def config(self) -> Mapping[str, Any]:
        """The language model's config: all of it, but in a model of more than text."""
        return language_config(self.checkpoint.config)

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """The numbers of the layers that have a router, as far as the names of the tensors tell."""
        names, host = self.checkpoint.tensors, host_of(self.checkpoint.config)
        if host is not None:
            return routed_layers(names, self.config, host)
        found = (_NUMBER.search(name) for name in names if ROUTED.search(name))
        return tuple(sorted({int(number[1]) for number in found if number is not None}))

    def parameters(self) -> tuple[int, int]:
        """Total and active per token: k of E experts, and everything else."""
        sizes = {name: math.prod(info.shape) for name, info in self.checkpoint.tensors.items()}
        total = sum(sizes.values())
        host = host_of(self.checkpoint.config)
        endings = () if host is None else host.fused_endings
        routed = sum(size for name, size in sizes.items() if ROUTED.search(name) or name.endswith(endings))
        return total, total - routed + routed * self.experts_per_token // len(self.experts)

    def settled(self, placement: Placement, tell: Callable[[str], None], *, beside: int = 0) -> Placement:
        """The placement with a dtype in the place of `auto`: the stored one, or float32 on a CPU that is slow in it.

        Args:
            placement: what was asked for.
            tell: is told in one line where it is not the stored one, and why.
            beside: parameters of other models that are in memory at the same time.
        """
        config = self.checkpoint.config
        stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        parameters = self.parameters()[0] + beside
        where = placement.device_map or placement.device
        chosen = computing(stored, placement.dtype, where, lambda dtype: parameters * BYTES[dtype])
        if chosen.why is not None:
            tell(f"{chosen.why} (`--dtype {stored}` computes as it is stored)")
        return replace(placement, dtype=chosen.dtype)

    def load(self, placement: Placement) -> Any:
        """The model by plain transformers, in eval mode."""
        return load_pretrained(self.path, placement, auto_class_of(self.checkpoint.config))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The folder's tokenizer.

        Raises:
            EvalError: there is none that transformers can read.
        """
        rows = self.config.get("vocab_size")
        return load_tokenizer(self.path, rows if isinstance(rows, int) else None)


_LAYERS = "num_hidden_layers"
_SIZES = (
    "vocab_size", "hidden_size", _LAYERS, "num_attention_heads", "num_key_value_heads", "head_dim",
    "sliding_window", "max_position_embeddings",
)  # fmt: skip
"""Keys of a config that are numbers above 0 wherever a model has them."""


@dataclass(frozen=True)
class BuiltFolder(MoeFolder):
    """One that `moemerge build` made.

    Attributes:
        record: what it wrote down.
    """

    record: Record

    @property
    def root(self) -> Path:
        """What relative paths in the recipe are relative to."""
        return (self.path / self.record.root).resolve()

    @property
    def host(self) -> Host:
        """The mixture's class."""
        return host_of(self.checkpoint.config) or HOSTS[self.record.architecture]


def open_moe(path: Path, names: Sequence[str] = ()) -> MoeFolder:
    """Opens a mixture's folder; reads its config and headers.

    Args:
        path: the folder.
        names: the experts' names, in order, for a folder that moemerge did not make.

    Returns:
        A `BuiltFolder` where moemerge made it.

    Raises:
        EvalError: it is not a folder with a mixture of experts, its record is damaged, or `names` do not fit.
        SourceError: its files cannot be read.
    """
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        raise EvalError(f"`{path}` {state}", hint="name a folder that `moemerge build` made")
    if not (path / "config.json").exists():
        raise EvalError(f"`{path}` holds no model", hint=hint_for(path))
    record = _record(path)
    checkpoint = open_folder(Folder.at(path, str(path)))
    if not checkpoint.has_weights:
        raise EvalError(f"`{path}` has a config and no weights", hint="name a folder that `moemerge build` made")
    _check_sizes(language_config(checkpoint.config), path)
    count, experts_per_token = _experts(language_config(checkpoint.config), path)
    if record is not None:
        known = tuple(expert.name for expert in record.experts)
        if len(known) != count:
            raise EvalError(f"`{path}` has {count} experts in its config and {len(known)} in its `{RECORD}`")
        if names and tuple(names) != known:
            listed = ", ".join(f"`{name}`" for name in known)
            raise EvalError(f"`--experts`: the experts of `{path}` have names: {listed}", hint="leave the option out")
        return BuiltFolder(path, checkpoint, known, experts_per_token, record)
    known = tuple(names) or tuple(f"expert-{number}" for number in range(count))
    if len(known) != count or len(set(known)) != count:
        raise EvalError(f"`--experts` must give {count} different names, one an expert of `{path}`")
    return MoeFolder(path, checkpoint, known, experts_per_token)


def _record(path: Path) -> Record | None:
    if not (path / RECORD).is_file():
        return None
    record = read_record(path, HOSTS, WRAPPED)
    if isinstance(record, Record):
        return record
    listed = "\n  ".join(f"{difference.where}: {difference.message}" for difference in record[:8])
    raise EvalError(f"the record of `{path}` is damaged:\n  {listed}", hint="build the folder again")


def _check_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Refuses a config whose sizes are none: transformers loads some of them, and breaks at the first text."""
    hint = f"`moemerge verify {path}` says what changed after the build"
    if config.get(_LAYERS) is None and host_of(config) is not None:
        raise EvalError(f"`{path}`: its `config.json` has no `{_LAYERS}`", hint=hint)
    for key in _SIZES:
        size = config.get(key)
        if size is not None and (type(size) is not int or size < 1):
            raise EvalError(
                f"`{path}`: in its `config.json` `{key}` is `{str(size)[:80]}`, not a whole number above 0",
                hint=hint,
            )


def _experts(config: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """E and k, by the names that transformers' mixtures use."""
    count, top_k = expert_counts(config)
    if count is None or top_k is None or not 1 <= top_k <= count:
        kind = config.get("model_type")
        raise EvalError(
            f"`{path}` holds no mixture of experts: its `config.json` is that of `{kind}`",
            hint="name a folder that `moemerge build` made",
        )
    return count, top_k


def load_pretrained(path: Path, placement: Placement, auto_class: str = "AutoModelForCausalLM") -> Any:
    """A model's folder by that class of transformers, in eval mode, without remote code.

    Raises:
        EvalError: transformers cannot load it, it lacks weights, which transformers would draw at random, or the device
            has too little memory.
    """
    import torch
    import transformers

    from moemerge.dense.generation import refuse_unknown_ids

    where: dict[str, Any] = {}
    if placement.device_map is not None:
        limits = dict(placement.max_memory) if placement.max_memory else None
        where = {"device_map": placement.device_map, "offload_folder": placement.offload, "max_memory": limits}
    try:
        model: Any
        model, told = getattr(transformers, auto_class).from_pretrained(
            path,
            dtype=placement.dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **where,
        )
        if placement.device_map is None:
            model = model.to(placement.device)
    except torch.OutOfMemoryError as error:
        message = f"`--device {placement.device}` has too little memory for `{path}`"
        raise EvalError(message, hint="use `--device-map auto` (with `--offload FOLDER`), or the CPU") from error
    except Exception as error:  # whatever a broken config makes transformers raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if placement.device_map is not None and placement.offload is None and "offload" in first:
            message = f"`{path}` does not fit where `--device-map` puts it, and there is no folder for the rest"
            raise EvalError(message, hint="add `--offload FOLDER`") from error
        raise EvalError(f"transformers cannot load `{path}`: {first}", hint="`moemerge verify` looks closer") from error
    if lacks := sorted(told["missing_keys"]):
        message = f"`{path}` lacks {len(lacks)} of the tensors of its class, such as `{lacks[0]}`"
        raise EvalError(message, hint="copy the folder again, or build it again; `moemerge verify` looks closer")
    refuse_unknown_ids(model)
    return model.eval().requires_grad_(False)


def load_tokenizer(path: Path, rows: int | None = None) -> PreTrainedTokenizerBase:
    """A folder's tokenizer by plain transformers, without remote code; see `read_tokenizer`.

    Raises:
        EvalError: there is none that transformers can read.
    """
    try:
        return read_tokenizer(path, str(path), rows)
    except SourceError as error:
        raise EvalError(error.message, hint=error.hint) from error

"""Puts dense models together from a plan: base, specialists, and the merged model with one expert's FFNs.

The gate is fitted on what these compute, so they are made of the very values that the writer writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moemerge.dense.generation import refuse_unknown_ids
from moemerge.errors import SourceError
from moemerge.execute.stream import BLOCK_ELEMENTS, TORCH_DTYPES, Values
from moemerge.families import DenseConfig
from moemerge.plan.model import OutputTensor, Plan
from moemerge.plan.output_files import output_files
from moemerge.plan.tokens import SLOW_FILES
from moemerge.sources import Checkpoint
from moemerge.sources.tokenizer import FILE, TOKENIZERS, put_tokenizer, read_tokenizer
from moemerge.sources.wrapped import running_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class DenseModule:
    """One dense module of transformers, into which a model's tensors are put; nothing is loaded until then.

    Args:
        config: a raw dense `config.json`; its `auto_map` is never followed.
        dense: the same, resolved. Its FFN width is the module's; narrower ones are padded with zeros.
        dtype: of the parameters.
        device: a torch device, such as `cpu` or `cuda`.
    """

    def __init__(self, config: Mapping[str, Any], dense: DenseConfig, dtype: torch.dtype, device: str = "cpu") -> None:
        self._config, self._dense, self._dtype, self._device = config, dense, dtype, device
        self._shapes = dict(dense.tensors())
        self._module: PreTrainedModel | None = None
        self._parts: dict[str, Tensor] = {}  # the rows of the module's parameters that each tensor goes into

    def model(self) -> PreTrainedModel:
        """The module, in eval mode; its parameters are undefined until something is put into them."""
        if self._module is None:
            module = empty_module(self._config, self._dense, self._dtype, self._device)
            for parent in module.modules():
                for name, parameter in list(parent.named_parameters(recurse=False)):
                    empty = torch.empty_like(parameter, device=self._device)
                    setattr(parent, name, nn.Parameter(empty, requires_grad=False))
            module.tie_weights()
            refuse_unknown_ids(module)
            self._module = module
            tensors: dict[str, Tensor] = {**dict(module.named_buffers()), **dict(module.named_parameters())}
            for name, tensor in tensors.items():
                held, start = self._dense.held_by(name), 0
                if len(held) == 1:
                    self._parts[held[0]] = tensor
                    continue
                for part in held:
                    end = start + self._shapes[part][0]
                    self._parts[part] = tensor[start:end]
                    start = end
        return self._module

    def put(self, name: str, value: Tensor) -> None:
        """Puts one tensor in, rounded to the module's dtype."""
        self.model()
        with torch.no_grad():
            self._parts[name].copy_(value.to(self._dtype))

    def load(self, checkpoint: Checkpoint) -> PreTrainedModel:
        """Puts all tensors of one model in."""
        for name in self._shapes:
            self.put(name, padded(checkpoint.read(name), self._shapes[name]))
        return self.model()

    def load_mean(self, checkpoints: Sequence[Checkpoint]) -> PreTrainedModel:
        """Puts the mean of several models in, FFNs too."""
        from moemerge.execute.merge import mean

        for name in self._shapes:
            sources = [padded(checkpoint.read(name), self._shapes[name]).double() for checkpoint in checkpoints]
            self.put(name, mean(sources, (1.0,) * len(sources)))
        return self.model()


def padded(value: Tensor, target: tuple[int, ...]) -> Tensor:
    """A model's own tensor, zero-padded to a shape where it is narrower."""
    if tuple(value.shape) == target:
        return value
    padding = [extent for have, want in zip(reversed(value.shape), reversed(target), strict=True)
               for extent in (0, want - have)]  # fmt: skip
    return nn.functional.pad(value, padding)


class MergedTensors:
    """The tensors of a plan's merged dense models, by their dense names.

    Args:
        plan: a plan without problems.
    """

    def __init__(self, plan: Plan) -> None:
        self._host, dense = plan.host, plan.dense
        self._values = Values(plan, BLOCK_ELEMENTS)
        self._tensors: dict[str, OutputTensor] = {tensor.name: tensor for tensor in plan.tensors}
        self._fused = plan.host.layout(plan.recipe.output.layout) == "fused"
        *self._wide, _ = dense.projections
        self._ffn = {dense.ffn(layer, p): (layer, p) for layer in dense.routed_layers for p in dense.projections}
        self._stored = {
            name: plan.host.stored(plan.host.made(dense, name)[0].name) for name, _, _ in dense.shared_tensors()
        }
        self._shapes = dict(dense.tensors())
        self._experts = {projection: dense.ffn_shape(projection) for projection in dense.projections}
        self.shared = tuple(name for name, stored in self._stored.items() if stored in self._tensors)
        """Names of all that is not FFN."""
        self.ffn = tuple(self._ffn)
        """Names of the FFN matrices."""

    def read(self, name: str, expert: int) -> Tensor:
        """A tensor of the merged shared weights, or an FFN matrix of one expert, with the plan's padding, noise and
        scale."""
        if name not in self._ffn:
            return self._values.whole(self._shared(name))
        layer, projection = self._ffn[name]
        if not self._fused:
            value = self._values.whole(self._tensors[self._host.expert_name(layer, expert, projection)])
        else:
            owner = self._tensors[self._host.fused["down" if projection == "down" else "gate_up"].format(layer=layer)]
            place = expert if projection == "down" else len(self._wide) * expert + self._wide.index(projection)
            value = torch.cat(list(self._values.blocks(owner, list(owner.inner)[place])))
        rows, columns = self._shapes[name]
        value = value.reshape(self._experts[projection])[:rows, :columns]  # a host has one width for all layers
        return value if projection != "down" or self._host.down == 1.0 else value / self._host.down

    def rows(self, name: str, rows: Tensor) -> Tensor:
        """Some rows `[n]`, ascending, of a tensor of the merged shared weights."""
        return self._values.picked(self._shared(name), rows)

    def _shared(self, name: str) -> OutputTensor:
        """The dense model's tensor, out of which the host's is made."""
        tensor = self._tensors[self._stored[name]]
        return replace(tensor, parts=tuple(tensor.inner))


class PlannedModels:
    """The dense models of a plan, one in memory at a time.

    Each call puts other weights into one module and returns it, so a model is valid until the next call.

    Args:
        plan: a plan without problems.
        device: a torch device, such as `cpu` or `cuda`.
        dtype: that they run in; the plan's when None. Their values are the written ones all the same.
    """

    def __init__(self, plan: Plan, device: str = "cpu", dtype: torch.dtype | None = None) -> None:
        self._plan = plan
        self._tensors = MergedTensors(plan)
        base = plan.models["base"]
        config = running_config(base.config, base)
        self._module = DenseModule(config, plan.dense, dtype or TORCH_DTYPES[plan.dtype], device)
        self._loaded: dict[str, Any] = {}

    def merged(self, expert: int) -> PreTrainedModel:
        """The merged shared weights with one expert's FFNs: what the MoE is when it routes to that expert alone."""
        if self._loaded.get("shared") != "merged":
            for name in self._tensors.shared:
                self._module.put(name, self._tensors.read(name, expert))
            self._loaded["shared"] = "merged"
        if self._loaded.get("ffn") != expert:
            for name in self._tensors.ffn:
                self._module.put(name, self._tensors.read(name, expert))
            self._loaded["ffn"] = expert
        return self._module.model()

    def specialist(self, expert: int) -> PreTrainedModel:
        """The specialist itself, as its user would run it."""
        return self._dense_model(self._plan.experts[expert].model)

    def base(self) -> PreTrainedModel:
        """The base model."""
        return self._dense_model("base")

    def linear_merge(self) -> PreTrainedModel:
        """The dense mean of the distinct models listed as experts, FFNs too: the baseline that a MoE must beat."""
        models = dict.fromkeys(planned.model for planned in self._plan.experts)
        if self._loaded.get("ffn") != "linear":
            self._module.load_mean([self._plan.models[model] for model in models])
        self._loaded = {"shared": "linear", "ffn": "linear"}
        return self._module.model()

    def _dense_model(self, key: str) -> PreTrainedModel:
        if self._loaded.get("shared") != key or self._loaded.get("ffn") != f"of {key}":
            self._module.load(self._plan.models[key])
            self._loaded = {"shared": key, "ffn": f"of {key}"}
        return self._module.model()


def empty_module(
    config: Mapping[str, Any], dense: DenseConfig, dtype: torch.dtype, device: str = "cpu"
) -> PreTrainedModel:
    """A dense module of transformers in eval mode: parameters on the meta device, buffers computed on `device`.

    Args:
        config: a raw dense `config.json`; its `auto_map` is never followed.
        dense: the same, resolved; its FFN width is the module's.
        dtype: of the parameters.
        device: a torch device.
    """
    raw = {key: value for key, value in config.items() if key != "auto_map"}
    raw |= dict.fromkeys(dense.row.widths, dense.intermediate_size)
    if isinstance(raw.get("pad_token_id"), int) and raw["pad_token_id"] >= dense.vocab_size:
        raw["pad_token_id"] = None  # it makes a difference to gradients alone, and must lie within the rows
    return _empty(raw, dtype, device)


def empty_mixture(config: Mapping[str, Any], dtype: torch.dtype, device: str = "cpu") -> PreTrainedModel:
    """A mixture likewise, from its own config; its experts run one after the other."""
    module = _empty(dict(config), dtype, device)
    module.set_experts_implementation("eager")  # it reads one expert at a time, whatever all of them would take
    return module


def _empty(raw: dict[str, Any], dtype: torch.dtype, device: str) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**deepcopy(raw))  # whose class writes into the maps that it is given
    with torch.device("meta"):
        module: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for child in module.modules():
        buffers = list(child.named_buffers(recurse=False))
        for name, buffer in buffers:
            setattr(child, name, torch.empty_like(buffer, device=device))
        # what is not a parameter and not stored is computed again
        if hasattr(child, "compute_default_rope_parameters") and hasattr(child, "config"):
            fresh = type(child)(config=child.config)
            for name, buffer in fresh.named_buffers():
                child.get_buffer(name).copy_(buffer)
            for name, value in vars(fresh).items():
                if name.endswith("attention_scaling"):
                    setattr(child, name, value)
        elif child._non_persistent_buffers_set:
            module._init_weights(child)
    module.eval().requires_grad_(False)
    return module


def load_tokenizer(plan: Plan) -> PreTrainedTokenizerBase:
    """The output's tokenizer, from its files alone: the one that writes ids which every model of the plan reads.

    Raises:
        SourceError: there is none, or transformers cannot read it.
    """
    import tempfile

    anchor, files = plan.models[plan.vocabulary.anchor], output_files(plan)
    if not TOKENIZERS & files.keys():
        other = next((name for name in SLOW_FILES if name in files), None)
        held = "no tokenizer files" if other is None else f"its tokenizer in `{other}` alone, which is not read"
        named = (expert.name for expert in plan.experts if FILE in plan.opened[expert.model].files)
        other_way = "`--gate random` with a merge other than `auto` needs none"
        if (name := next(named, None)) is not None:
            other_way = f"`tokenizer.source: {name}` takes that expert's"
        hint = f"put `tokenizer.json` next to its config; {other_way}"
        raise SourceError(f"`{anchor.spec}` has {held}, and texts are to be read", hint=hint)
    with tempfile.TemporaryDirectory(prefix="moemerge-tokenizer-") as folder:
        put_tokenizer(files, Path(folder))
        return read_tokenizer(Path(folder), anchor.spec, plan.dense.vocab_size)

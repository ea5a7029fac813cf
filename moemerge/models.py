"""Puts dense models together from a plan: base, specialists, and the merged model with one expert's FFNs.

The gate is fitted on what these compute, so they are made of the very values that the writer writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moemerge.errors import SourceError
from moemerge.families import PROJECTIONS, DenseConfig
from moemerge.plan.model import OutputTensor, Plan
from moemerge.sources import Checkpoint
from moemerge.stream import TORCH_DTYPES, Values

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_VOCABULARY = (".jinja", ".model", "vocab.json", "merges.txt")
"""Endings of a tokenizer's files that do not say so in their name."""


class DenseModule:
    """One dense module of transformers, into which a model's tensors are put; nothing is loaded until then.

    Args:
        config: a raw dense `config.json`; its `auto_map` is never followed.
        dense: the same, resolved. Its FFN width is the module's; narrower ones are padded with zeros.
        dtype: of the parameters.
        device: a torch device, such as `cpu` or `cuda`.
    """

    def __init__(self, config: Mapping[str, Any], dense: DenseConfig, dtype: torch.dtype, device: str = "cpu") -> None:
        self._config = {key: value for key, value in config.items() if key != "auto_map"}
        self._config["intermediate_size"] = dense.intermediate_size
        self._dtype, self._device = dtype, device
        self._shapes = dict(dense.tensors())
        self._module: PreTrainedModel | None = None
        self._parameters: dict[str, nn.Parameter] = {}

    def model(self) -> PreTrainedModel:
        """The module, in eval mode; its parameters are undefined until something is put into them."""
        if self._module is None:
            from transformers import AutoConfig, AutoModelForCausalLM

            with torch.device("meta"):
                module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**self._config), dtype=self._dtype)
            module = module.to_empty(device=self._device)
            module.tie_weights()
            _reset_buffers(module)
            module.eval().requires_grad_(False)
            self._module, self._parameters = module, dict(module.named_parameters())
        return self._module

    def put(self, name: str, value: Tensor) -> None:
        """Puts one tensor in, rounded to the module's dtype."""
        self.model()
        with torch.no_grad():
            self._parameters[name].copy_(value.to(self._dtype))

    def load(self, checkpoint: Checkpoint) -> PreTrainedModel:
        """Puts all tensors of one model in."""
        for name in self._shapes:
            self.put(name, self._padded(checkpoint, name))
        return self.model()

    def load_mean(self, checkpoints: Sequence[Checkpoint]) -> PreTrainedModel:
        """Puts the mean of several models in, FFNs too."""
        from moemerge.merge import mean

        for name in self._shapes:
            sources = [self._padded(checkpoint, name).double() for checkpoint in checkpoints]
            self.put(name, mean(sources, (1.0,) * len(sources)))
        return self.model()

    def _padded(self, checkpoint: Checkpoint, name: str) -> Tensor:
        """A model's own tensor, zero-padded to the module's shape where it is narrower."""
        value = checkpoint.read(name)
        target = self._shapes[name]
        if tuple(value.shape) == target:
            return value
        padding = [extent for have, want in zip(reversed(value.shape), reversed(target), strict=True)
                   for extent in (0, want - have)]  # fmt: skip
        return nn.functional.pad(value, padding)


class PlannedModels:
    """The dense models of a plan, one in memory at a time.

    Each call puts other weights into one module and returns it, so a model is valid until the next call.

    Args:
        plan: a plan without problems.
        device: a torch device, such as `cpu` or `cuda`.
    """

    def __init__(self, plan: Plan, device: str = "cpu") -> None:
        if plan.dense is None:
            raise ValueError("the plan has problems")
        self._plan = plan
        self._dense: DenseConfig = plan.dense
        self._values = Values(plan)
        self._module = DenseModule(plan.models["base"].config, plan.dense, TORCH_DTYPES[plan.dtype], device)
        self._loaded: dict[str, Any] = {}

    def merged(self, expert: int) -> PreTrainedModel:
        """The merged shared weights with one expert's FFNs: what the MoE is when it routes to that expert alone."""
        if self._loaded.get("shared") != "merged":
            shared = {name for name, _, _ in self._dense.shared_tensors()}
            for tensor in self._plan.tensors:
                if tensor.name in shared:
                    self._module.put(tensor.name, self._values.whole(tensor))
            self._loaded["shared"] = "merged"
        if self._loaded.get("ffn") != expert:
            for name, value in self._expert(expert):
                self._module.put(name, value)
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

    def _expert(self, expert: int) -> list[tuple[str, Tensor]]:
        """One expert's FFN matrices by their dense names, with the plan's padding, noise and scale."""
        host = self._plan.host
        assert host is not None
        if self._plan.recipe.output.layout == "fused":
            return self._expert_of_fused(expert)
        tensors = {tensor.name: tensor for tensor in self._plan.of_group("expert")}
        return [
            (
                self._dense.ffn(layer, projection),
                self._values.whole(tensors[host.expert[projection].format(layer=layer, expert=expert)]),
            )
            for layer in range(self._dense.layers)
            for projection in PROJECTIONS
        ]

    def _expert_of_fused(self, expert: int) -> list[tuple[str, Tensor]]:
        host = self._plan.host
        assert host is not None
        tensors: dict[str, OutputTensor] = {tensor.name: tensor for tensor in self._plan.of_group("expert")}
        result = []
        for layer in range(self._dense.layers):
            gate_up = tensors[host.fused["gate_up"].format(layer=layer)]
            down = tensors[host.fused["down"].format(layer=layer)]
            parts = (gate_up.parts[2 * expert], gate_up.parts[2 * expert + 1], down.parts[expert])
            for projection, owner, part in zip(PROJECTIONS, (gate_up, gate_up, down), parts, strict=True):
                value = torch.cat(list(self._values.blocks(owner, part)))
                result.append((self._dense.ffn(layer, projection), value))
        return result


def _reset_buffers(module: nn.Module) -> None:
    """Computes the rotary frequencies again: they are no parameters, and `to_empty` left them undefined."""
    for child in module.modules():
        if hasattr(child, "compute_default_rope_parameters") and hasattr(child, "config"):
            fresh = type(child)(config=child.config)
            for name, buffer in fresh.named_buffers():
                child.get_buffer(name).copy_(buffer)
            child.attention_scaling = fresh.attention_scaling


def load_tokenizer(plan: Plan) -> PreTrainedTokenizerBase:
    """The base's tokenizer, from its files alone.

    Raises:
        SourceError: the base has no tokenizer, or transformers cannot read it.
    """
    import tempfile

    from transformers import AutoTokenizer

    base = plan.models["base"]
    names = [name for name in base.files if "token" in name or name.endswith(_VOCABULARY)]
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & set(names):
        raise SourceError(f"`{base.spec}` has no tokenizer files", hint="put `tokenizer.json` beside its config")
    with tempfile.TemporaryDirectory(prefix="moemerge-tokenizer-") as folder:
        for name in names:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(base.files[name].read_bytes())
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (ValueError, OSError, KeyError) as error:
            raise SourceError(f"the tokenizer of `{base.spec}` cannot be read: {error}") from error
        return tokenizer

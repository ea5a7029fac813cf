"""Puts dense models together from a plan: base, specialists, and the merged model with one expert's FFNs.

The gate is fitted on what these compute, so they are made of the very values that the writer writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moemerge.errors import SourceError
from moemerge.families import PROJECTIONS, DenseConfig
from moemerge.plan.model import OutputTensor, Plan
from moemerge.stream import TORCH_DTYPES, Values

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_VOCABULARY = (".jinja", ".model", "vocab.json", "merges.txt")
"""Endings of a tokenizer's files that do not say so in their name."""


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
        self._device = device
        self._dtype = TORCH_DTYPES[plan.dtype]
        self._module: PreTrainedModel | None = None
        self._loaded: dict[str, Any] = {}
        self._shapes = dict(self._dense.tensors())

    def merged(self, expert: int) -> PreTrainedModel:
        """The merged shared weights with one expert's FFNs: what the MoE is when it routes to that expert alone."""
        module = self._empty()
        if self._loaded.get("shared") != "merged":
            shared = {name for name, _, _ in self._dense.shared_tensors()}
            for tensor in self._plan.tensors:
                if tensor.name in shared:
                    self._put(tensor.name, self._values.whole(tensor))
            self._loaded["shared"] = "merged"
        if self._loaded.get("ffn") != expert:
            for name, value in self._expert(expert):
                self._put(name, value)
            self._loaded["ffn"] = expert
        return module

    def specialist(self, expert: int) -> PreTrainedModel:
        """The specialist itself, as its user would run it."""
        return self._dense_model(self._plan.experts[expert].model)

    def base(self) -> PreTrainedModel:
        """The base model."""
        return self._dense_model("base")

    def linear_merge(self) -> PreTrainedModel:
        """The dense mean of the distinct models listed as experts, FFNs too: the baseline that a MoE must beat."""
        from moemerge.merge import mean

        module = self._empty()
        models = list(dict.fromkeys(planned.model for planned in self._plan.experts))
        for name in self._names():
            sources = [self._padded(model, name).double() for model in models]
            self._put(name, mean(sources, (1.0,) * len(sources)))
        self._loaded = {"shared": "linear", "ffn": "linear"}
        return module

    def _dense_model(self, key: str) -> PreTrainedModel:
        module = self._empty()
        if self._loaded.get("shared") != key or self._loaded.get("ffn") != f"of {key}":
            for name in self._names():
                self._put(name, self._padded(key, name))
            self._loaded = {"shared": key, "ffn": f"of {key}"}
        return module

    def _names(self) -> list[str]:
        return list(self._shapes)

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

    def _padded(self, key: str, name: str) -> Tensor:
        """A model's own tensor, zero-padded to the plan's FFN width where it is narrower."""
        value = self._plan.models[key].read(name)
        target = self._shapes[name]
        if tuple(value.shape) == target:
            return value
        padding = [extent for have, want in zip(reversed(value.shape), reversed(target), strict=True)
                   for extent in (0, want - have)]  # fmt: skip
        return nn.functional.pad(value, padding)

    def _put(self, name: str, value: Tensor) -> None:
        parameter = self._parameters[name]
        with torch.no_grad():
            parameter.copy_(value.to(self._dtype))

    def _empty(self) -> PreTrainedModel:
        if self._module is None:
            from transformers import AutoConfig, AutoModelForCausalLM

            raw = {**self._plan.models["base"].config, "intermediate_size": self._dense.intermediate_size}
            config = AutoConfig.for_model(**{key: value for key, value in raw.items() if key != "auto_map"})
            with torch.device("meta"):
                module = AutoModelForCausalLM.from_config(config, dtype=self._dtype)
            module = module.to_empty(device=self._device)
            module.tie_weights()
            _reset_buffers(module)
            module.eval().requires_grad_(False)
            self._module = module
            self._parameters = dict(module.named_parameters())
        return self._module


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

"""The gates that are trained: fp32 master weights outside the model, whole or as LoRA by peft, and their gradients.

The model's own parameters stay as they were loaded, frozen, in their dtype. A forward pass reads `leaves`, one fp32
tensor a layer; after any number of passes `pull` hands the gradients that gathered there on to the parameters. So
accumulation, several processes and LoRA need nothing of their own. The parameters are in units of their inputs: each
channel of a gate is a parameter times its factor (`scales.Scales.inputs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moemerge.families import Anatomy
from moemerge.train.options import TrainOptions

_ADAPTER = "default"


class _Gate(nn.Module):
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight / scale)
        self.register_buffer("scale", scale)


class _Holder(nn.Module):
    """Modules that have the names of a mixture's routers and nothing else, so that peft's names are the model's."""

    def __init__(self, gates: Mapping[str, _Gate]) -> None:
        super().__init__()
        for path, gate in gates.items():
            *parents, leaf = path.split(".")
            inside: nn.Module = self
            for part in parents:
                if part not in inside._modules:
                    inside.add_module(part, nn.Module())
                inside = inside.get_submodule(part)
            inside.add_module(leaf, gate)


class Gates:
    """The gates of a mixture.

    Args:
        start: each layer's `[E, d]`.
        layers: the numbers of the decoder layers.
        anatomy: where the routers lie in the model.
        options: method, rank, alpha, and the seed of the LoRA's first half.
        inputs: each channel's factor, `[d]` a layer; 1 in all when empty.
    """

    def __init__(
        self,
        start: Sequence[Tensor],
        layers: Sequence[int],
        anatomy: Anatomy,
        options: TrainOptions,
        inputs: Sequence[Tensor] = (),
    ) -> None:
        weights = [weight.detach().float() for weight in start]
        inputs = inputs or [torch.ones_like(weight[0]) for weight in weights]
        self._gates = [_Gate(weight, scale.clone()) for weight, scale in zip(weights, inputs, strict=True)]
        inside, _, _ = anatomy.router_weight.rpartition(".")
        self._paths = [f"{anatomy.layers}.{layer}.{inside}" for layer in layers]
        self._holder = _Holder(dict(zip(self._paths, self._gates, strict=True)))
        self._config: Any = None
        if options.method == "lora":
            from peft import LoraConfig, inject_adapter_in_model

            self._config = LoraConfig(
                r=options.rank, lora_alpha=options.alpha, lora_dropout=0.0, target_modules=[],
                target_parameters=[anatomy.router_weight], task_type="CAUSAL_LM",
            )  # fmt: skip
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(options.seed)
                inject_adapter_in_model(self._config, self._holder, _ADAPTER)
        self._modules: list[Any] = [self._holder.get_submodule(path) for path in self._paths]
        self._leaves: list[Tensor] = []
        self.refresh()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser changes, fp32."""
        return [parameter for parameter in self._holder.parameters() if parameter.requires_grad]

    @property
    def leaves(self) -> list[Tensor]:
        """Each layer's gate `[E, d]`, fp32, as a tensor in which gradients gather."""
        return self._leaves

    @property
    def weights(self) -> list[Tensor]:
        """Each layer's gate as it is now, `[E, d]`, fp32, without gradient."""
        return [leaf.detach().clone() for leaf in self._leaves]

    def _effective(self) -> list[Tensor]:
        weights = [gate.weight for gate in self._gates]
        if self._config is not None:
            weights = [module.get_param() + module.get_delta_weight(_ADAPTER) for module in self._modules]
        return [weight * gate.scale for weight, gate in zip(weights, self._gates, strict=True)]

    def refresh(self) -> None:
        """Makes the leaves anew, after the parameters changed."""
        with torch.no_grad():
            self._leaves = [weight.detach().clone().requires_grad_() for weight in self._effective()]

    def pull(self, gradients: Sequence[Tensor]) -> None:
        """Sets the parameters' gradients from those of the gates."""
        for parameter in self.parameters:
            parameter.grad = None
        torch.autograd.backward(self._effective(), list(gradients))

    def state(self) -> dict[str, Tensor]:
        """Everything to continue from, by name."""
        return {name: value.detach().clone() for name, value in self._holder.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a state."""
        self._holder.load_state_dict(dict(state))
        self.refresh()

    def adapter(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """peft's adapter: tensors by the names that its files have, and its config; only with `method: lora`."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self._holder, adapter_name=_ADAPTER)
        found = {name: value.detach().clone() for name, value in state.items()}
        for path, gate in zip(self._paths, self._gates, strict=True):
            found[f"{path}.lora_A.weight"] *= gate.scale  # (B A) scale is B (A scale)
        config = self._config.to_dict()
        config["inference_mode"] = True
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        return {f"base_model.model.{name}": value for name, value in found.items()}, plain

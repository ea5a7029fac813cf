"""The routers of a mixture: found by what they are, watched, and replaced for the time of a measurement.

transformers 5 gives nearly every top-k router the same shape: a module with a weight `[E, d]`, `top_k` and
`num_experts`, whose output is (logits `[N, E]`, weights `[N, k]`, indices `[N, k]`) for N tokens in row-major order. So
little here depends on the family but where that weight lies, and a folder that moemerge did not build can be read too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moemerge.errors import EvalError
from moemerge.families import Anatomy, Routing, anatomy_of, routing_of
from moemerge.families.host import expert_counts

RouterOutput = tuple[Tensor, Tensor, Tensor]
"""Logits `[N, E]`, weights `[N, k]`, indices `[N, k]`."""
Watcher = Callable[[int, RouterOutput], None]
"""Is told the place of a router among the routers (from 0) and what it gave."""


class Offloaded(EvalError):
    """The routers' weights are not in memory, so none like them can be drawn."""


@dataclass(frozen=True)
class Routers:
    """The routers of one model, in layer order.

    Attributes:
        modules: the router of each MoE layer.
        layers: the number of each one's decoder layer.
        experts: E.
        experts_per_token: k.
        rule: how they make weights of their logits.
        anatomy: where the parts of the model lie.
        stacks: the module beside each router that applies its experts: called with the hidden states `[N, d]`, indices
            and weights `[N, k]`, it gives `[N, d]`.
    """

    modules: tuple[Any, ...]
    layers: tuple[int, ...]
    experts: int
    experts_per_token: int
    rule: Routing
    anatomy: Anatomy
    stacks: tuple[Any, ...]

    @property
    def matrices(self) -> list[Any]:
        """The weight `[E, d]` of each."""
        return [self.anatomy.router_matrix_of(module) for module in self.modules]

    def correction(self, place: int) -> Tensor | None:
        """What one of them adds to its scores for the choice, `[E]`, fp32; None where its class has no such thing."""
        if self.rule.correction is None:
            return None
        inside, _, _ = self.rule.correction.rpartition(".")
        with _present(self.modules[place].get_submodule(inside)):
            return self.rule.correction_of(self.modules[place])

    @contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """Tells `watcher` the output of every router while the model runs."""

        def hook(place: int) -> Callable[[nn.Module, Any, RouterOutput], None]:
            return lambda _module, _inputs, output: watcher(place, (self.rule.logits(output[0]), *output[1:]))

        with hooked(self.modules, [hook(place) for place in range(len(self.modules))]):
            yield

    @contextmanager
    def forced(self, expert: int) -> Iterator[None]:
        """Every token goes to `expert` alone, with weight 1, in every layer."""

        def replace(_module: nn.Module, _inputs: Any, output: RouterOutput) -> RouterOutput:
            logits, weights, indices = output
            return logits, torch.ones_like(weights[:, :1]), torch.full_like(indices[:, :1], expert)

        with hooked(self.modules, [replace] * len(self.modules)):
            yield

    @contextmanager
    def randomised(self, seed: int) -> Iterator[None]:
        """Normal rows of the mean norm of the layer's own, so that the logits have the spread that they had.

        What all rows have in common stays where the rule sees it.

        Raises:
            Offloaded: the routers' weights are not in memory.
        """
        if any(weight.is_meta for weight in self.matrices):
            raise Offloaded("a random gate cannot be put into a model whose routers are offloaded")
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for matrix in self.matrices:
            weight = matrix.detach().float().cpu()
            rows = torch.randn(weight.shape, generator=generator)
            common = weight.mean(dim=0) if self.rule.sees_shifts else torch.zeros_like(weight[0])
            size = (weight - common).norm(dim=1).mean()
            drawn.append(common + rows * (size / rows.norm(dim=1, keepdim=True)))
        with self.routed_by(drawn):
            yield

    @contextmanager
    def routed_by(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Each router computes as its class does, with another gate `[E, d]`, rounded to the model's dtype.

        The model is not written to, so its own gates may lie anywhere: on another device, in parts, or on the disk.
        """
        path = self.anatomy.router_matrix

        def forward(router: Any, weight: Tensor) -> Callable[[Tensor], RouterOutput]:
            def run(hidden: Tensor, *others: Any) -> RouterOutput:
                with _present(router):
                    twin = _moved(_twin(router, path, weight), path, hidden.device)
                    return type(twin).forward(twin, hidden, *others)  # type: ignore[no-any-return]

            return run

        with replaced(self.modules, list(map(forward, self.modules, weights))):
            yield

    def entering(self, router: Any, hidden: Tensor) -> Tensor:
        """What a router's gate multiplies, of what the router is given, `[..., d]`."""
        if not self.rule.before:
            return hidden
        with _present(router):
            return self.rule.entering(router, hidden)


def find_routers(model: nn.Module) -> Routers:
    """The routers of a model of transformers.

    Raises:
        EvalError: it has none that can be read, or its layers differ in the number of experts.
    """
    anatomy = anatomy_of(model)
    usual = not anatomy.beside
    found = list(_by_shape(model, anatomy) if usual else _by_place(model, anatomy))
    if not found:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise EvalError(
            f"the model (`{kind}`) has no router that can be read: it is not a mixture of experts, or its routers "
            "are of another kind",
            hint="name a folder that `moemerge build` made, or another top-k mixture of transformers",
        )
    sizes = {size for *_, size in found}
    if len(sizes) > 1:
        raise EvalError(f"the layers' routers differ in (experts, experts per token): {sorted(sizes)}")
    experts, experts_per_token = sizes.pop()
    layers, modules, stacks, _ = zip(*found, strict=True)
    return Routers(modules, layers, experts, experts_per_token, routing_of(model), anatomy, stacks)


_Found = tuple[int, Any, Any, tuple[int, int]]
"""The number of a layer, its router, the module that applies its experts, and (E, k)."""


def _by_shape(model: nn.Module, anatomy: Anatomy) -> Iterator[_Found]:
    for name, module in model.named_modules():
        if _is_router(module, anatomy):
            stack = getattr(model.get_submodule(name.rpartition(".")[0]), anatomy.experts, None)
            router: Any = module
            yield _layer(name), router, stack, (router.num_experts, router.top_k)


def _by_place(model: Any, anatomy: Anatomy) -> Iterator[_Found]:
    """Those of a class whose routers have another shape, which our own tables know."""
    _, k = expert_counts(model.config.get_text_config().to_dict())
    for number, layer in enumerate(anatomy.layers_of(model)):
        router = anatomy.router_of(layer)
        if router is not None and k is not None:
            yield number, router, anatomy.experts_of(layer), (len(anatomy.router_matrix_of(router)), k)


def _is_router(module: Any, anatomy: Anatomy) -> bool:
    weight = anatomy.router_matrix_of(module)
    if not isinstance(weight, Tensor) or not hasattr(module, "top_k") or not hasattr(module, "num_experts"):
        return False
    return weight.ndim == 2 and weight.shape[0] == module.num_experts


def _layer(name: str) -> int:
    """The number in a module's name, such as 3 in `model.layers.3.mlp.gate`."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def _twin(module: Any, path: str, weight: Tensor) -> Any:
    """A module of the same class and settings, without hooks of any kind, that holds another weight at `path`."""
    twin = copy.copy(module)
    twin.__dict__.pop("forward", None)  # accelerate's, which would bring the weight that is offloaded
    for own in ("_parameters", "_buffers", "_modules"):
        setattr(twin, own, dict(getattr(module, own)))
    name, _, below = path.partition(".")
    there = getattr(module, name)
    other = nn.Parameter(weight.detach().to(there.dtype), requires_grad=False) if not below else None
    setattr(twin, name, other if other is not None else _twin(there, below, weight))
    return twin


def _moved(twin: Any, path: str, device: torch.device) -> Any:
    """A twin with what is its own on a device. What accelerate keeps elsewhere it brings itself."""
    name, _, below = path.partition(".")
    for own in (twin._parameters, twin._buffers):
        own.update({key: value.to(device) for key, value in own.items() if value is not None and not value.is_meta})
    if below:
        _moved(getattr(twin, name), below, device)
    return twin


@contextmanager
def _present(module: nn.Module) -> Iterator[None]:
    """Brings a module's own tensors, where accelerate keeps them on the disk."""
    if not any(tensor.is_meta for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield


@contextmanager
def replaced(modules: Sequence[Any], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Puts other functions in the place of the modules' forward passes, and what was there back again."""
    kept = [module.__dict__.get("forward") for module in modules]
    try:
        for module, forward in zip(modules, forwards, strict=True):
            module.forward = forward
        yield
    finally:
        for module, forward in zip(modules, kept, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


@contextmanager
def hooked(modules: Sequence[Any], hooks: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Calls a hook with (module, inputs, output) after each module's forward pass; what it returns is the output."""
    handles = [module.register_forward_hook(hook) for module, hook in zip(modules, hooks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""The way of one token through one MoE layer, as it really ran.

Hooks keep what the block, its router and its shared expert were given and gave. Only the chosen experts' own outputs
cannot be seen, because transformers runs all experts in one module. They are computed from that module's parameters and
the very input, and checked: their weighted sum, with the shared expert's part, must be the block's real output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moemerge.dense.generation import context_of
from moemerge.errors import EvalError
from moemerge.evaluate.tokens import Tokens, read_tokens
from moemerge.evaluate.trace import by_weight, place_of, run, split
from moemerge.families import Anatomy, anatomy_of
from moemerge.mixture.routers import Routers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HEAD = 4
"""So many values of the input are shown."""


@dataclass(frozen=True)
class Explanation:
    """One token in one MoE layer of E experts, of which k were chosen. Norms are Euclidean.

    Attributes:
        experts: the names of the E experts.
        index: the token's number, from 0.
        token: its part of the text, or the special token's name.
        layer: the number of the decoder layer.
        input_norm: of the block's input.
        input_head: its first values.
        logits: the gate's, `[E]`.
        probabilities: the scores that the router's rule makes of them (a softmax, in most), fp32, `[E]`.
        chosen: the experts `[k]`, by falling weight.
        weights: what the model multiplied their outputs by, `[k]`.
        expert_norms: of their outputs, `[k]`.
        sum_norm: of the weighted sum of these outputs.
        shared_weight: what the shared expert's output was multiplied by; None where there is none.
        shared_norm: of the shared expert's output, multiplied; None where there is none.
        output_norm: of the block's real output.
        difference: max|weighted sum + shared part − real output|.
        tolerance: what rounding may make of it: max(1e-5, 2 ε of the dtype) times the sum of the parts' largest values.
        dtype: of the block's output.
    """

    experts: tuple[str, ...]
    index: int
    token: str
    layer: int
    input_norm: float
    input_head: tuple[float, ...]
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    chosen: tuple[int, ...]
    weights: tuple[float, ...]
    expert_norms: tuple[float, ...]
    sum_norm: float
    shared_weight: float | None
    shared_norm: float | None
    output_norm: float
    difference: float
    tolerance: float
    dtype: str

    @property
    def agrees(self) -> bool:
        """Whether the parts explain the block's real output."""
        return self.difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """The explanation as JSON has it; `format` is the version of this form."""
        return {"format": 1, **asdict(self), "agrees": self.agrees}


def explain(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    routers: Routers,
    text: str,
    token: int | str,
    layer: int,
    names: Sequence[str],
    *,
    context: int | None = None,
) -> Explanation:
    """Runs the model over a text and keeps what one MoE block did with one token.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        routers: the model's, from `find_routers`.
        text: of any length.
        token: its number, -1 for the last; or a text, of which the first token that contains it is taken.
        layer: the number of a decoder layer, -1 for the last MoE layer.
        names: the names of the E experts.
        context: the most tokens to read at a time; what the model was made for, where this is None.

    Raises:
        EvalError: there is no such token or layer, the layer is offloaded, or its experts are of a kind that cannot be
            read.
    """
    if len(names) != routers.experts:
        raise ValueError(f"{len(names)} names for {routers.experts} experts")
    tokens = read_tokens(tokenizer, text)
    index = _find(tokens, token)
    place = place_of(routers.layers, layer)
    router, number = routers.modules[place], routers.layers[place]
    anatomy = anatomy_of(model)
    block, experts = _block(model, router, number, anatomy)
    windows = split(len(tokens.ids), context or context_of(model) or len(tokens.ids))
    start, end, _ = next(window for window in windows if index < window[1])
    with _kept(block, router, anatomy) as kept:
        run(model, tokens.ids[start:end])
    row = index - start
    given, output = (kept[key].reshape(-1, kept[key].shape[-1])[row] for key in ("given", "output"))
    logits = routers.rule.logits(kept["router"][0][row].float()).cpu()
    chosen, weights = (part[0] for part in by_weight(tuple(part[row : row + 1] for part in kept["router"])))
    outputs = torch.stack([_expert(experts, anatomy, int(e), given) for e in chosen]).float().cpu()  # (k, H)
    parts = weights[:, None] * outputs
    total = parts.sum(dim=0)
    shared, shared_weight = _shared(kept, row)
    real = output.float().cpu()
    explained = total if shared is None else total + shared
    largest = parts.abs().amax(dim=1).sum() + (0.0 if shared is None else shared.abs().max())
    return Explanation(
        experts=tuple(names),
        index=index,
        token=tokens.texts[index] or tokens.special[index] or "",
        layer=number,
        input_norm=_norm(given),
        input_head=tuple(given[:_HEAD].float().tolist()),
        logits=tuple(logits.tolist()),
        probabilities=tuple(routers.rule.scores(logits).tolist()),
        chosen=tuple(chosen.tolist()),
        weights=tuple(weights.tolist()),
        expert_norms=tuple(map(_norm, outputs)),
        sum_norm=_norm(total),
        shared_weight=shared_weight,
        shared_norm=None if shared is None else _norm(shared),
        output_norm=_norm(real),
        difference=float((explained - real).abs().max()),
        tolerance=max(1e-5, 2 * torch.finfo(output.dtype).eps) * float(largest),
        dtype=str(output.dtype).removeprefix("torch."),
    )


def _find(tokens: Tokens, token: int | str) -> int:
    """The number of a token from 0, from its number or its text."""
    count = len(tokens.ids)
    if isinstance(token, int):
        if not -count <= token < count:
            raise EvalError(f"the text has no token {token}: they are 0 to {count - 1}, or -{count} to -1 from the end")
        return token % count
    for place, (text, special) in enumerate(zip(tokens.texts, tokens.special, strict=True)):
        if token and (token in text or token == special):
            return place
    at = "".join(tokens.texts).find(token)
    if not token or at < 0:
        raise EvalError(f"the text has no `{token}`", hint=f"name a token by its number, 0 to {count - 1}")
    ends = [len("".join(tokens.texts[: place + 1])) for place in range(count)]
    first = next(place for place in range(count) if ends[place] > at)
    last = next(place for place in range(count) if ends[place] >= at + len(token))
    parts = ", ".join(f"{place} `{tokens.texts[place]}`" for place in range(first, last + 1))
    raise EvalError(f"no single token contains `{token}`", hint=f"name one of its tokens by its number: {parts}")


def _block(model: nn.Module, router: nn.Module, layer: int, anatomy: Anatomy) -> tuple[Any, Any]:
    """The MoE block that a router stands in, or its experts where they lie in the layer itself; and the experts."""
    name = next(name for name, module in model.named_modules() if module is router)
    block: Any = model.get_submodule(name.rpartition(".")[0])
    experts = getattr(block, anatomy.experts, None)
    if anatomy.beside:
        block = experts
    gate_up, down = getattr(experts, anatomy.gate_up, None), getattr(experts, anatomy.down, None)
    if not isinstance(gate_up, Tensor) or not isinstance(down, Tensor) or not hasattr(experts, "act_fn"):
        raise EvalError(f"the experts of layer {layer} (`{type(experts).__name__}`) are of a kind that cannot be read")
    if any(parameter.is_meta for parameter in block.parameters()):
        raise EvalError(
            f"layer {layer} is offloaded, so that its experts cannot be read",
            hint="load the model whole, on a device with enough memory",
        )
    (_, rows, hidden), (_, out, width) = gate_up.shape, down.shape
    times = 2 if anatomy.gated else 1
    if not gate_up.is_floating_point() or (rows, hidden) != (times * width, out):
        shapes, wanted = f"{tuple(gate_up.shape)} and {tuple(down.shape)}", "2I" if anatomy.gated else "I"
        raise EvalError(
            f"the experts of layer {layer} have shapes {shapes}, which are not (E, {wanted}, H) and (E, H, I)"
        )
    return block, experts


@contextmanager
def _kept(block: Any, router: nn.Module, anatomy: Anatomy) -> Iterator[dict[str, Any]]:
    """Keeps what the block is given, and what it, its router and its shared expert give, while the model runs."""
    kept: dict[str, Any] = {}

    def keep(key: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: kept.__setitem__(key, output)

    def keep_given(_module: nn.Module, inputs: Sequence[Tensor], named: dict[str, Tensor]) -> None:
        kept["given"] = (inputs[0] if inputs else named["hidden_states"]).clone()

    handles = [
        block.register_forward_pre_hook(keep_given, with_kwargs=True),
        block.register_forward_hook(keep("output")),
        router.register_forward_hook(keep("router")),
    ]
    for key, name in (("shared", anatomy.shared), ("shared gate", anatomy.shared_gate)):
        if (part := getattr(block, name, None)) is not None:
            handles.append(part.register_forward_hook(keep(key)))
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def _expert(experts: Any, anatomy: Anatomy, expert: int, given: Tensor) -> Tensor:
    """One expert's output `[H]` for an input `[H]`: down(act(gate x) ⊙ up x), or down(act(up x))."""
    wide = nn.functional.linear(given, getattr(experts, anatomy.gate_up)[expert])
    return nn.functional.linear(anatomy.inner(experts, wide), getattr(experts, anatomy.down)[expert])


def _shared(kept: dict[str, Any], row: int) -> tuple[Tensor | None, float | None]:
    """The shared expert's part `[H]` of the block's output, and the weight in it; None twice where there is none."""
    if "shared" not in kept:
        return None, None
    output = kept["shared"].flatten(0, -2)[row].float().cpu()
    weight = 1.0
    if "shared gate" in kept:
        weight = float(kept["shared gate"].flatten(0, -2)[row].float().sigmoid())
    return weight * output, weight


def _norm(vector: Tensor) -> float:
    return float(vector.float().norm())

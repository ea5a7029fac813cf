"""What tests of built folders share: a recipe from folders, a forced router, logits of dense and sparse models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moemerge.api import build
from moemerge.families import host_of
from moemerge.mixture.routers import find_routers
from moemerge.recipe import Recipe

PROMPTS = (
    ("def reverse list return print number", "class function return one two three"),
    ("sum of two and three minus one equals four", "add six to seven equals eight"),
    ("le chat est dans la ville bonjour monde", "un chien et une classe avec merci"),
    ("hello world in general is it for the", "the world is a list of code"),
    ("general code math french one", "if else while for in is it"),
)


def recipe_of(base: Path, experts: Sequence[Path | str], **fields: Any) -> Recipe:
    """A recipe of tiny models; the gate is random unless `fields` say otherwise."""
    listed = [
        {"name": f"e{i}", "model": str(model), "prompts": PROMPTS[i % len(PROMPTS)], **fields.pop(f"expert_{i}", {})}
        for i, model in enumerate(experts)
    ]
    values = {"base_model": str(base), "experts": listed, "gate": {"init": "random"}, **fields}
    return Recipe.model_validate(values)


def build_tiny(folder: Path, base: Path, experts: Sequence[Path | str], **fields: Any) -> Path:
    """Builds `recipe_of(...)` into `folder`."""
    return build(recipe_of(base, experts, **fields), folder, root=folder.parent).path


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a folder by plain transformers, eager throughout, so that both sides compute alike."""
    from transformers import AutoModelForCausalLM

    kwargs: dict[str, Any] = {"dtype": dtype, "attn_implementation": "eager"}
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **kwargs)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    if host_of(model.config.to_dict()) is not None:
        model.set_experts_implementation("eager")
    return model.eval()


def some_tokens(batch: int = 3, length: int = 20, vocabulary: int = 128) -> Tensor:
    """Seeded token ids `[batch, length]`."""
    return torch.randint(4, vocabulary, (batch, length), generator=torch.Generator().manual_seed(7))


@torch.inference_mode()
def logits(model: Any, tokens: Tensor) -> Tensor:
    """`[batch, length, vocabulary]`."""
    return model(tokens).logits  # type: ignore[no-any-return]


@torch.inference_mode()
def greedy(model: Any, tokens: Tensor, count: int = 24) -> Tensor:
    """`count` greedy tokens with cache after `tokens`, ends of text ignored."""
    result: Tensor = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count, min_new_tokens=count, do_sample=False
    )
    return result[:, tokens.shape[1] :]


def relative_error(one: Tensor, other: Tensor) -> float:
    """The norm of the difference over the norm."""
    return float((one - other).norm() / other.norm())


def routers(model: Any) -> list[nn.Module]:
    """The router of every layer: the one module that gives weights and indices, whatever it is called."""
    return list(find_routers(model).modules)


@contextmanager
def forced(model: Any, expert: int) -> Iterator[None]:
    """Replaces every router's output by (`expert`, weight 1)."""

    def replace(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        router_logits, weights, indices = output
        count = router_logits.shape[-1]
        order = torch.tensor([expert, *(e for e in range(count) if e != expert)])[: indices.shape[-1]]
        forced_weights = torch.zeros_like(weights)
        forced_weights[:, 0] = 1.0
        return router_logits, forced_weights, order.expand_as(indices).contiguous()

    handles = [router.register_forward_hook(replace) for router in routers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

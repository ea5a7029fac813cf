"""A trace has what the routers gave, token by token."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from moemerge.errors import EvalError
from moemerge.evaluate.trace import Trace, place_of, split, trace_text
from moemerge.mixture.routers import find_routers
from tests.evaluate.conftest import Mixture
from tests.hosts import HOSTS, every

NAMES = ("code", "math", "french", "general")
TEXT = "def reverse list return list\nbonjour le monde"


def traced(model: Any, tokenizer: Any, text: str = TEXT, **arguments: Any) -> Trace:
    return trace_text(model, tokenizer, find_routers(model), text, NAMES, **arguments)


def expected(host: str, model: Any, ids: torch.Tensor, k: int, divided: bool) -> list[tuple[Any, Any]]:
    """Experts, by falling weight, and weights of every layer by transformers' `output_router_logits` and its rule."""
    with torch.inference_mode():
        layers = model(ids, output_router_logits=True).router_logits
    result = []
    for given, router in zip(layers, find_routers(model).modules, strict=True):
        logits = find_routers(model).rule.logits(given)
        weights, experts = HOSTS[host].chosen(logits, router, k, divided=divided)
        weights, order = weights.sort(dim=-1, descending=True)
        result.append((experts.gather(-1, order), weights))
    return result


@pytest.mark.parametrize("divided", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("host", every())
def test_experts_and_weights_are_those_of_the_router_logits(
    host: str, k: int, divided: bool, mixture: Mixture, words: Any
) -> None:
    """On all hosts, for one expert, two and all of them; hosts without a switch always divide by the sum."""
    always = not HOSTS[host].switch
    if always and not divided:
        return
    model = mixture(host, k=k, **({} if always else {"norm_topk_prob": divided}))
    trace = traced(model, words)
    ids = torch.tensor([words(TEXT)["input_ids"]])
    for place, (experts, weights) in enumerate(expected(host, model, ids, k, divided)):
        assert torch.equal(torch.tensor(trace.chosen[place]), experts)
        torch.testing.assert_close(torch.tensor(trace.weights[place]), weights)
    assert (trace.layers, trace.windows, trace.text) == (HOSTS[host].layers, 1, TEXT)


def test_only_moe_layers_are_traced(mixture: Mixture, words: Any) -> None:
    """Layers have the numbers of the decoder's; a dense one has no number here."""
    model = mixture("qwen3_moe", num_hidden_layers=4, mlp_only_layers=[0, 2])
    trace = traced(model, words)
    assert trace.layers == (1, 3)
    assert trace.top(1) == trace.top(-2)
    with pytest.raises(EvalError, match=r"^the model has no MoE layer 2: they are 1, 3, or -2 to -1 from the end$"):
        trace.top(2)


def test_a_long_text_is_read_in_windows(mixture: Mixture, words: Any) -> None:
    """Each token has what the first window that reaches it gives; what is short enough is read at once."""
    model = mixture("mixtral")
    text = "def reverse list return one two three four five six"
    ids = torch.tensor([words(text)["input_ids"]])
    trace = traced(model, words, text, context=4)
    assert (trace.context, trace.windows, trace.text) == (4, 4, text)
    for start, end, new in ((0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 10, 8)):
        for place, (experts, weights) in enumerate(expected("mixtral", model, ids[:, start:end], 2, True)):
            assert torch.equal(torch.tensor(trace.chosen[place][new:end]), experts[new - start :])
            torch.testing.assert_close(torch.tensor(trace.weights[place][new:end]), weights[new - start :])
    assert traced(model, words, "the " * 300).windows == 2  # the model's context is 256
    assert traced(model, words, "the " * 256).windows == 1


@pytest.mark.parametrize("context", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("tokens", [1, 2, 6, 7, 8, 49])
def test_windows_hold_every_token_once(tokens: int, context: int) -> None:
    """As new, and none is longer than the context."""
    windows = list(split(tokens, context))
    assert [token for _, end, new in windows for token in range(new, end)] == list(range(tokens))
    assert all(0 <= start <= new < end and end - start <= context for start, end, new in windows)


def test_votes_shares_and_the_top_expert(words: Any) -> None:
    """By weight, over layers; special tokens do not count in the shares."""
    trace = Trace(
        experts=("code", "math"),
        layers=(0, 1),
        tokens=("", "a", "b"),
        special=("<s>", None, None),
        chosen=(((0, 1), (0, 1), (1, 0)), ((0, 1), (1, 0), (1, 0))),
        weights=(((0.9, 0.1), (0.6, 0.4), (0.5, 0.5)), ((0.9, 0.1), (0.45, 0.05), (0.75, 0.25))),
        context=8,
        windows=1,
    )
    assert trace.votes() == (pytest.approx((0.9, 0.1)), pytest.approx((0.35, 0.65)), pytest.approx((0.375, 0.625)))
    assert (trace.top(), trace.top(0), trace.top(1)) == ((0, 1, 1), (0, 0, 0), (0, 1, 1))
    assert trace.shares() == pytest.approx((0.3625, 0.6375))
    assert trace.shares(0) == pytest.approx((0.55, 0.45))


def test_json(mixture: Mixture, byte_level: Any) -> None:
    """It has everything, and survives the way through text."""
    trace = traced(mixture("qwen2_moe", vocab_size=300), byte_level, "é\n")
    read = json.loads(json.dumps(trace.to_json()))
    assert list(read) == [
        "format", "experts", "layers", "tokens", "special", "chosen", "weights", "context", "windows",
    ]  # fmt: skip
    assert (read["experts"], read["tokens"], read["special"][0]) == (list(NAMES), ["", "é", "", "\n"], "<s>")
    assert read["chosen"] == [[list(experts) for experts in layer] for layer in trace.chosen]


def test_a_forced_router_is_seen(mixture: Mixture, words: Any) -> None:
    """What the trace shows is what the block was given, not what the logits would say."""
    model = mixture("mixtral")
    routers = find_routers(model)
    with routers.forced(2):
        trace = trace_text(model, words, routers, TEXT, NAMES)
    assert set(trace.chosen[0]) == {(2,)}
    assert set(trace.weights[1]) == {(1.0,)}


def test_an_offloaded_model_can_be_traced(mixture: Mixture, words: Any, tmp_path: Any) -> None:
    """Weights on disk come when they are needed: accelerate sees to that."""
    from accelerate import disk_offload

    model = mixture("mixtral", max_position_embeddings=128)
    before = traced(model, words)
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    assert traced(model, words) == before


def test_misuse(mixture: Mixture, words: Any) -> None:
    """No text is the user's mistake, the wrong number of names the program's."""
    model = mixture("mixtral")
    with pytest.raises(EvalError, match=r"^there is no text to trace$"):
        traced(model, words, "")
    with pytest.raises(ValueError, match=re.escape("2 names for 4 experts")):
        trace_text(model, words, find_routers(model), "the", ("a", "b"))


def test_layers_by_number() -> None:
    """From either end; a decoder layer without experts is none."""
    assert [place_of((0, 1, 2), layer) for layer in (0, 2, -1, -3)] == [0, 2, 2, 0]
    with pytest.raises(EvalError, match=r"^the model has no MoE layer 3: they are 0 to 2, or -3 to -1 from the end$"):
        place_of((0, 1, 2), 3)

"""The hooks read what the router reads, and the statistics are what their names say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from moemerge.errors import GateError
from moemerge.gate import capture as room
from moemerge.gate.capture import Captured, Domain, capture
from moemerge.gate.moments import Moments, together
from moemerge.gate.passages import Passage, prompt_passages
from moemerge.gate.request import ExpertTexts, GateRequest
from tests.gate.conftest import LAYERS, WIDTH, TinyModels, texts

REQUEST = GateRequest("discriminant", (), range(LAYERS), WIDTH)


def domain(name: str, tokenizer: Any, count: int = 4, negative: tuple[str, ...] = ()) -> Domain:
    """Texts of a domain, the i-th in fold i mod 2."""
    found = prompt_passages(texts(name, count), ExpertTexts(name), tokenizer, REQUEST)
    refused = prompt_passages(negative, ExpertTexts(name), tokenizer, REQUEST)
    return Domain(name, [replace(p, fold=p.group % 2) for p in found], refused)


def read(models: TinyModels, domains: list[Domain], folds: int = 2) -> list[Captured]:
    """Every layer."""
    return list(capture(models, domains, range(LAYERS), folds))


def total(captured: Captured, without: int | None = None) -> Moments:
    """The moments of all tokens but those of one fold."""
    return together([m for part, m in enumerate(captured.moments()) if part != without])


def inputs_of(model: Any, passage: Passage, layer: int) -> np.ndarray:
    """The counted inputs of a layer's MLP for one passage alone, by the naive way."""
    kept: list[torch.Tensor] = []
    handle = model.model.layers[layer].mlp.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        model(input_ids=torch.tensor([passage.ids]))
    handle.remove()
    return kept[0][0][torch.tensor(passage.counted)].double().numpy()


def test_the_hook_sees_what_the_router_sees(specialists: list[Any], tokenizer: Any) -> None:
    """A MixtralForCausalLM with the same weights in each expert gives its router the very tensor that is captured."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny import DEFAULTS

    dense = specialists[0]
    config = AutoConfig.for_model(
        "mixtral",
        **DEFAULTS,
        num_local_experts=2,
        num_experts_per_tok=2,
        head_dim=8,
        rms_norm_eps=dense.config.rms_norm_eps,
        rope_parameters=dense.config.rope_parameters,
    )
    moe = AutoModelForCausalLM.from_config(config).eval()
    state = dict(dense.state_dict())
    for layer in range(LAYERS):
        gate, up, down = (state.pop(f"model.layers.{layer}.mlp.{p}_proj.weight") for p in ("gate", "up", "down"))
        state[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.stack([torch.cat([gate, up])] * 2)
        state[f"model.layers.{layer}.mlp.experts.down_proj"] = torch.stack([down] * 2)
        state[f"model.layers.{layer}.mlp.gate.weight"] = torch.randn(2, WIDTH)
    moe.load_state_dict(state)
    (passage,) = prompt_passages(texts("code", 1), ExpertTexts("code"), tokenizer, REQUEST)
    for layer in range(LAYERS):
        seen: list[torch.Tensor] = []
        handle = moe.model.layers[layer].mlp.gate.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            moe(input_ids=torch.tensor([passage.ids]))
        handle.remove()
        router = seen[0].reshape(-1, WIDTH)[torch.tensor(passage.counted)].double().numpy()
        np.testing.assert_allclose(router, inputs_of(dense, passage, layer), atol=1e-5)


def test_statistics_by_definition(models: TinyModels, tokenizer: Any) -> None:
    """Second moment, means and mass equal sums over single passages on the expert's own merged model."""
    domains = [
        domain("code", tokenizer),
        domain("french", tokenizer, 6),
        domain("math", tokenizer, negative=("le la",)),
    ]
    captured = read(models, domains)
    for index in range(LAYERS):
        for fold in (None, 0, 1):
            second, first, mass = np.zeros((WIDTH, WIDTH)), np.zeros((3, WIDTH)), np.zeros(3)
            for expert, own in enumerate(domains):
                model = models.merged(expert)
                for passage in own.passages:
                    if passage.fold != fold:
                        tokens = inputs_of(model, passage, index)
                        second += tokens.T @ tokens / own.tokens
                        first[expert] += tokens.sum(0) / own.tokens
                        mass[expert] += len(tokens) / own.tokens
            refused = inputs_of(models.merged(2), domains[2].negative[0], index)
            second += refused.T @ refused / len(refused)
            moments = total(captured[index], without=fold)
            np.testing.assert_allclose(moments.second.numpy(), second, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(moments.first.numpy(), first, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(moments.mass.numpy(), mass)
            np.testing.assert_allclose(moments.negative[2].numpy(), refused.mean(0), rtol=1e-4, atol=1e-5)
            assert moments.negative_mass.tolist() == [0.0, 0.0, 1.0]
            assert moments.second.dtype == torch.float64


def test_packing_changes_nothing(models: TinyModels, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed row, padded runs in it too, gives the statistics of texts alone."""
    prompts = ("def print", "class list", "def return if else while print list", "class list def number")
    own = Domain("code", prompt_passages(prompts, ExpertTexts("code"), tokenizer, REQUEST), [])
    monkeypatch.setattr(room, "PADDING", 0.3)
    together = read(models, [own], 1)
    monkeypatch.setattr(room, "BATCH_TOKENS", 1)
    for one, other in zip(together, read(models, [own], 1), strict=True):
        torch.testing.assert_close(total(one).second, total(other).second, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(total(one).first, total(other).first, rtol=1e-4, atol=1e-4)


def test_attention_is_given_back_where_a_reader_stops(
    models: TinyModels, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when not all layers are read, and when a hidden state is not finite."""
    model = models.merged(0)
    monkeypatch.setattr(models, "merged", lambda _: model)
    attention = model.config._attn_implementation
    layers = capture(models, [domain("code", tokenizer)], range(LAYERS), 2)
    next(layers)
    assert model.config._attn_implementation != attention
    layers.close()
    assert model.config._attn_implementation == attention
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.fill_(float("inf"))
    with pytest.raises(GateError):
        read(models, [domain("code", tokenizer)])
    assert model.config._attn_implementation == attention


def test_layers_between_are_passed_through(models: TinyModels, tokenizer: Any) -> None:
    """Only those asked for are read."""
    code = domain("code", tokenizer)
    every = read(models, [code])
    (last,) = capture(models, [code], [LAYERS - 1], 2)
    assert torch.equal(last.tokens, every[-1].tokens)


def test_runs_hold_texts_of_similar_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a run's positions is padding at most; rows are filled, and have room for one long text at least."""
    lengths = (3, 3, 4, 9, 10, 10, 11, 30, 31, 31, 32)
    passages = [Passage((5,) * n, (True,) * n, 0, fold=n % 3) for n in lengths]
    (group,) = room._groups(passages, 0, None)
    assert group.batch.runs == ((2, 3), (1, 4), (4, 11), (4, 32))
    assert group.batch.ids.shape == group.counted.shape == (1, 182)
    assert group.batch.mask is None
    assert group.parts.tolist() == [n % 3 for n in lengths for _ in range(n)]
    assert group.counted.sum() == sum(lengths)
    assert (group.batch.ids[group.counted] == 5).all()
    assert (group.batch.ids[~group.counted] == 0).all()
    monkeypatch.setattr(room, "BATCH_TOKENS", 31)
    assert [g.batch.runs for g in room._groups(passages, 0, None)] == [
        ((2, 3), (1, 4)), ((3, 10),), ((1, 11),), ((1, 30),), ((1, 31),), ((1, 31),), ((1, 32),),
    ]  # fmt: skip


def test_every_token_of_a_text_counts(models: TinyModels, tokenizer: Any) -> None:
    """The first one too: later tokens read from it."""
    (passage,) = prompt_passages(("hello print list",), ExpertTexts("code"), tokenizer, REQUEST)
    captured = read(models, [Domain("code", [passage], [])], 1)[0]
    tokens = inputs_of(models.merged(0), passage, 0)
    assert len(tokens) == 3
    np.testing.assert_allclose(total(captured).first[0].numpy(), tokens.mean(0), rtol=1e-4, atol=1e-6)


def test_a_domains_texts_given_twice_weigh_no_more(models: TinyModels, tokenizer: Any) -> None:
    """The domains are balanced: G and the means stay as they are."""
    code, french = domain("code", tokenizer), domain("french", tokenizer)
    twice = Domain("code", [*code.passages, *code.passages], [])
    for once, more in zip(read(models, [code, french]), read(models, [twice, french]), strict=True):
        torch.testing.assert_close(total(once).second, total(more).second, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(total(once).first, total(more).first, rtol=1e-6, atol=1e-6)


def test_first_tokens_have_their_share_of_the_weight(models: TinyModels, tokenizer: Any) -> None:
    """The token that begins a passage weighs a share of its domain with the others that do; the rest weighs less."""
    code, french = domain("code", tokenizer, 3, negative=("a b c",)), domain("french", tokenizer)
    marked = replace(code, passages=[replace(code.passages[0], counted=(False, *code.passages[0].counted[1:]))])
    firsts = [len(code.passages), len(french.passages), len(code.negative), 0]
    for captured in read(models, [code, french]):
        assert captured.first is not None
        weights = captured.weights(0.5)
        for label in range(3):
            own = captured.labels == label
            assert int(captured.first[own].sum()) == firsts[label]
            assert float(weights[own].sum()) == pytest.approx(1)
            assert float(weights[own & captured.first].sum()) == pytest.approx(0.5)
        assert torch.equal(captured.weights(0.0), replace(captured, first=None).weights(0.5))
        mean = (weights[:, None] * captured.tokens.double())[captured.labels == 1].sum(0)
        found = together(captured.moments(0.5)).first[1]
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-6)
    for captured in read(models, [marked, french]):  # a beginning-of-sequence token does not count, so nothing is first
        assert captured.first is not None
        own = captured.labels == 0
        assert not captured.first[own].any()
        assert captured.weights(0.5)[own].tolist() == pytest.approx([1 / int(own.sum())] * int(own.sum()))


def test_first_tokens_that_have_more_than_their_share_keep_it() -> None:
    """Where texts are short, and where they are of one token each, all tokens weigh the same."""
    first = torch.tensor([True, False, True, False, True, True])
    captured = Captured(torch.randn(6, 4), torch.tensor([0, 0, 0, 0, 1, 1]), (6, 0), 2, first=first)
    assert captured.weights(0.1).tolist() == pytest.approx([1 / 4] * 4 + [1 / 2] * 2)


@pytest.mark.parametrize("common", [0.0, 30.0])
def test_moments_are_as_exact_as_fp32(common: float) -> None:
    """Products in fp32 lose no more than the tokens' own last bit, where a large common part hides the rest too."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(9000, 48, generator=generator) + common
    labels = torch.arange(9000) % 3
    captured = Captured(tokens, labels, (4000, 5000, 0), 3)
    exact = tokens.double().T @ tokens.double() / 3000
    error = (total(captured).second - exact).abs().max() / exact.diagonal().max()
    assert error < 3e-7
    means = torch.stack([tokens[labels == e].double().mean(0) for e in range(3)])
    torch.testing.assert_close(total(captured).first, means, rtol=1e-6, atol=1e-6)


def test_hidden_states_that_are_not_finite(models: TinyModels, tokenizer: Any) -> None:
    """A NaN in a model is refused by name, before it spoils the gate."""
    broken = models.merged(0)
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    models.merged = lambda expert: broken  # type: ignore[method-assign]  # a model that is broken on purpose
    with pytest.raises(GateError) as error:
        read(models, [domain("code", tokenizer)])
    assert error.value.message == "The hidden states at layer 1 are not finite on the texts of expert `code`"

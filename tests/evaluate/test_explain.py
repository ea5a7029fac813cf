"""What is said of one token in one layer is what the model did."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from moemerge.errors import EvalError
from moemerge.evaluate.explain import Explanation, explain
from moemerge.families import anatomy_of
from moemerge.mixture.routers import find_routers
from tests.evaluate.conftest import Mixture
from tests.hosts import HOSTS, every

NAMES = ("code", "math", "french", "general")
TEXT = "def reverse list return list\nbonjour le monde"


def explained(
    model: Any, tokenizer: Any, token: int | str = 3, layer: int = 1, text: str = TEXT, **arguments: Any
) -> Explanation:
    return explain(model, tokenizer, find_routers(model), text, token, layer, NAMES, **arguments)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("host", every())
def test_the_parts_give_the_blocks_real_output(
    host: str, k: int, implementation: str, mixture: Mixture, words: Any
) -> None:
    """Within rounding, whichever way transformers runs the experts; the norms are of what hooks of a test see."""
    model = mixture(host, k=k)
    model.set_experts_implementation(implementation)
    seen: dict[str, torch.Tensor] = {}
    block = anatomy_of(model).routed_of(model.model.layers[1])
    handle = block.register_forward_hook(lambda _, given, output: seen.update(given=given[0], output=output))
    found = explained(model, words)
    handle.remove()
    seen = {key: value.reshape(1, -1, value.shape[-1]) for key, value in seen.items()}
    assert found.agrees
    assert 0 <= found.difference < found.tolerance < 1e-3 * found.output_norm
    assert found.output_norm == pytest.approx(float(seen["output"][0, 3].norm()), rel=1e-6)
    assert found.input_norm == pytest.approx(float(seen["given"][0, 3].norm()), rel=1e-6)
    assert found.input_head == tuple(seen["given"][0, 3, :4].tolist())
    assert (found.index, found.token, found.layer, found.dtype) == (3, " return", 1, "float32")
    assert len(found.chosen) == len(found.weights) == len(found.expert_norms) == k
    assert (found.shared_norm is not None) == HOSTS[host].always_on


@pytest.mark.parametrize("host", every())
def test_logits_probabilities_and_experts_outputs(host: str, mixture: Mixture, words: Any) -> None:
    """Against transformers' router logits, and each expert's output by forcing the router to it alone."""
    model = mixture(host)
    model.set_experts_implementation("eager")
    first = HOSTS[host].layers[0]
    found = explained(model, words, layer=first)
    ids = torch.tensor([words(TEXT)["input_ids"]])
    with torch.inference_mode():
        logits = find_routers(model).rule.logits(model(ids, output_router_logits=True).router_logits[0][3])
    torch.testing.assert_close(torch.tensor(found.logits), logits)
    torch.testing.assert_close(torch.tensor(found.probabilities), HOSTS[host].scores(logits))
    _, chosen = HOSTS[host].chosen(logits, find_routers(model).modules[0], 2)
    assert set(found.chosen) == set(chosen.tolist())
    for expert, norm in zip(found.chosen, found.expert_norms, strict=True):
        outputs: list[torch.Tensor] = []
        experts = anatomy_of(model).experts_of(model.model.layers[first])
        handle = experts.register_forward_hook(lambda _, __, out, to=outputs: to.append(out))
        with find_routers(model).forced(expert), torch.inference_mode():
            model(ids)
        handle.remove()
        assert norm == pytest.approx(float(outputs[0][3].norm()), rel=1e-5)


@pytest.mark.parametrize("host", every())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(host: str, dtype: torch.dtype, mixture: Mixture, words: Any) -> None:
    """The tolerance follows the dtype, and still says something: a hundredth of the output or so."""
    found = explained(mixture(host, dtype=dtype), words)
    assert found.agrees
    assert found.tolerance < 0.05 * found.output_norm
    assert found.dtype == str(dtype).removeprefix("torch.")


def test_the_shared_expert_of_qwen2_moe(mixture: Mixture, words: Any) -> None:
    """Its weight is the sigmoid of its own gate."""
    model = mixture("qwen2_moe")
    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.shared_expert_gate.register_forward_hook(lambda _, __, out: seen.append(out))
    found = explained(model, words)
    handle.remove()
    assert found.shared_weight == pytest.approx(float(seen[0][3].sigmoid()))


def test_what_does_not_add_up_is_seen(mixture: Mixture, words: Any) -> None:
    """A hook that changes the block's output shows: the parts do not explain it."""
    model = mixture("mixtral")
    handle = model.model.layers[1].mlp.register_forward_hook(lambda _, __, output: output + 0.5)
    found = explained(model, words)
    handle.remove()
    assert not found.agrees
    assert found.difference == pytest.approx(0.5, abs=1e-3)
    assert found.to_json()["agrees"] is False


def test_a_token_of_a_later_window(mixture: Mixture, words: Any) -> None:
    """It is explained in the window that the trace takes it from."""
    model = mixture("mixtral")
    found = explained(model, words, token=-1, context=4)
    alone = explained(model, words, token=-1, text="list bonjour le monde")  # the last window has just these
    assert (found.index, found.token) == (7, " monde")
    assert (found.logits, found.output_norm) == (alone.logits, alone.output_norm)


def test_tokens_and_layers_by_name_and_from_the_end(mixture: Mixture, words: Any, byte_level: Any) -> None:
    """The first token that contains the text; a special token by its name."""
    model = mixture("mixtral", vocab_size=300)
    assert explained(model, words, token="list").index == 2
    assert explained(model, words, token=-1, layer=-2) == explained(model, words, token="monde", layer=0)
    assert explained(model, byte_level, token="<s>").index == 0
    assert explained(model, byte_level, token=0).token == "<s>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token": 8}, "the text has no token 8: they are 0 to 7, or -8 to -1 from the end"),
        ({"token": -9}, "the text has no token -9: they are 0 to 7, or -8 to -1 from the end"),
        ({"token": "chat"}, "the text has no `chat`"),
        ({"token": ""}, "the text has no ``"),
        ({"token": "le monde"}, "no single token contains `le monde`"),
        ({"layer": 2}, "the model has no MoE layer 2: they are 0 to 1, or -2 to -1 from the end"),
        ({"layer": -3}, "the model has no MoE layer -3: they are 0 to 1, or -2 to -1 from the end"),
        ({"text": ""}, "there is no text to trace"),
    ],
)
def test_out_of_range(arguments: dict[str, Any], message: str, mixture: Mixture, words: Any) -> None:
    """The range is said."""
    with pytest.raises(EvalError) as error:
        explained(mixture("mixtral"), words, **arguments)
    assert error.value.message == message


def test_a_text_of_several_tokens_names_them(mixture: Mixture, words: Any) -> None:
    """So that the user can pick one."""
    with pytest.raises(EvalError) as error:
        explained(mixture("mixtral"), words, token="le mon")
    assert error.value.hint == "name one of its tokens by its number: 6 ` le`, 7 ` monde`"


def test_what_cannot_be_read_is_said(mixture: Mixture, words: Any, tmp_path: Any) -> None:
    """Offloaded weights, and experts of another shape."""
    from accelerate import disk_offload

    model = mixture("mixtral", max_position_embeddings=64)
    experts = model.model.layers[0].mlp.experts
    kept = experts.down_proj
    experts.down_proj = torch.nn.Parameter(kept.transpose(1, 2).contiguous())
    with pytest.raises(EvalError) as error:
        explained(model, words, layer=0)
    shapes = "(4, 96, 32) and (4, 48, 32), which are not (E, 2I, H) and (E, H, I)"
    assert error.value.message == f"the experts of layer 0 have shapes {shapes}"
    experts.down_proj = kept
    experts.act_fn, act = None, experts.act_fn
    del experts.act_fn
    with pytest.raises(EvalError) as error:
        explained(model, words, layer=0)
    assert error.value.message == "the experts of layer 0 (`MixtralExperts`) are of a kind that cannot be read"
    experts.act_fn = act
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    with pytest.raises(EvalError) as error:
        explained(model, words)
    assert error.value.message == "layer 1 is offloaded, so that its experts cannot be read"


def test_json_and_misuse(mixture: Mixture, words: Any) -> None:
    """All of it as JSON; the wrong number of names is the program's mistake."""
    model = mixture("qwen3_moe")
    read = json.loads(json.dumps(explained(model, words).to_json()))
    assert (read["format"], read["experts"], read["agrees"]) == (1, list(NAMES), True)
    with pytest.raises(ValueError, match="1 names for 4 experts"):
        explain(model, words, find_routers(model), TEXT, 0, 0, ("a",))

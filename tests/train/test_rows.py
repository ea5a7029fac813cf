"""Packed rows: no attention across documents, domains balanced, the same stream each time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moemerge.texts import Chat
from moemerge.train.rows import Sampler, Tokens, _batch, tokenise
from tests.evaluate.conftest import mixture
from tests.hosts import HOSTS, every

__all__ = ["mixture"]


def documents(expert: int, lengths: tuple[int, ...]) -> list[Tokens]:
    """Documents of known lengths, their ids telling the expert; the first token is a special one."""
    return [
        Tokens((10 * expert + 4,) * n, (False,) + (True,) * (n - 1), (False,) + (True,) * (n - 1), expert)
        for n in lengths
    ]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("host", every(host for host, case in HOSTS.items() if not case.recurrent))
def test_packed_logits_are_those_of_the_documents_alone(host: str, attention: str, mixture: Any) -> None:
    """A document in a row gives what it gives by itself, padding and neighbours or not."""
    model = mixture(host)
    if HOSTS[host].sinks and attention == "sdpa":
        pytest.skip("torch's attention knows no sinks")
    model.set_attn_implementation(attention)
    draw = torch.Generator().manual_seed(0)
    texts = [tuple(torch.randint(4, 128, (n,), generator=draw).tolist()) for n in (5, 12, 7)]
    rows = _batch([[[Tokens(ids, (True,) * len(ids), (True,) * len(ids), 0)] for ids in texts]], 30)
    with torch.no_grad():
        packed = model(input_ids=rows.ids, position_ids=rows.positions, use_cache=False).logits[0]
        start = 0
        for ids in texts:
            alone = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            torch.testing.assert_close(packed[start : start + len(ids)], alone, rtol=1e-4, atol=1e-5)
            start += len(ids)


@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_a_state_that_runs_along_a_row_has_one_document_in_it(mixed: float) -> None:
    """Of one domain, or halves of two, which are one document; what is left of the row is padding."""
    domains = [documents(0, (9, 12, 30)), documents(1, (8, 11))]
    rows = Sampler(domains, 24, mixed, 0, alone=True).take(8)
    for begins, positions, counted in zip(rows.begins, rows.positions, rows.counted, strict=True):
        assert begins.nonzero().flatten().tolist() == [0]
        last = int(counted.nonzero()[-1])
        assert positions[: last + 1].tolist() == list(range(last + 1))
        assert positions[last + 1 :].sum() == 0


def test_what_is_scored_and_counted() -> None:
    """Own tokens count; each is predicted but the first of a document; padding is neither."""
    rows = _batch([[documents(1, (3,)), [*documents(0, (2,)), *documents(1, (2,))]]], 9)
    assert rows.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 0]]
    assert rows.counted.int().tolist() == [[0, 1, 1, 0, 1, 0, 1, 0, 0]]
    assert rows.scored.int().tolist() == [[0, 1, 1, 0, 1, 0, 1, 0, 0]]
    assert rows.labels.tolist() == [[-1, 1, 1, -1, 0, -1, 1, -1, -1]]


def test_of_a_conversation_the_replies_are_predicted(letters: Any) -> None:
    """What the user says is read and routed; the template's own is only read."""
    chat = Chat("<|user|>hi<|end|><|bot|>yo<|end|>", ((8, 10), (24, 26)), ((24, 33),), "hi")
    rows = _batch([[tokenise([chat, "<|user|>"], 0, letters)]], 10)
    assert rows.counted.int().tolist() == [[0, 1, 1, 0, 0, 1, 1, 0, 0, 0]]
    assert rows.scored.int().tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0, 0]]
    assert tokenise([Chat("<|user|>hi", ((8, 10),), (), "hi")], 0, letters) == [], "nothing of it is predicted"


def test_domains_are_balanced_whatever_their_sizes() -> None:
    """Unmixed rows come from the domains in turn, and a document longer than the row comes in pieces."""
    sampler = Sampler([documents(0, (5,)), documents(1, (200, 7, 9))], 32, 0.0, 0)
    rows = sampler.take(40)
    first = [int(row[row >= 0][0]) for row in rows.labels]
    assert first.count(0) == first.count(1) == 20
    assert all(set(row[row >= 0].tolist()) == {expert} for row, expert in zip(rows.labels, first, strict=True))


def test_some_rows_change_the_domain() -> None:
    """A share of the rows, in which a document holds two domains."""
    sampler = Sampler([documents(0, (20, 30)), documents(1, (20, 30))], 32, 0.25, 0)
    rows = sampler.take(40)
    assert sum(len(set(row[row >= 0].tolist())) == 2 for row in rows.labels) == 10


def test_a_stream_goes_on_where_another_stood() -> None:
    """Skipping rows gives the very rows that come after them."""
    domains = [documents(0, (5, 40, 9)), documents(1, (12, 7))]
    one, other = Sampler(domains, 32, 0.2, 3), Sampler(domains, 32, 0.2, 3)
    for _ in range(7):
        one.take(4)
    other.skip(28)
    assert torch.equal(one.take(5).ids, other.take(5).ids)
    assert not torch.equal(Sampler(domains, 32, 0.2, 4).take(5).ids, Sampler(domains, 32, 0.2, 3).take(5).ids)


def test_texts_of_which_nothing_can_be_predicted_are_left_out(words: Any) -> None:
    """One token predicts nothing."""
    assert [len(one.ids) for one in tokenise(["hello", "", "hello world"], 0, words)] == [2]

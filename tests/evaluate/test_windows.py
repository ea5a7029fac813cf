"""Every token is predicted once, with enough before it, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moemerge.mixture.windows import Window, batches, encode
from tests.conftest import TinyMaker
from tests.tiny import WORDS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyMaker) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny("llama"))


texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=0, max_size=40).map(" ".join), min_size=1, max_size=5)


@given(texts=texts, context=st.integers(2, 12), data=st.data())
def test_each_token_is_scored_once(tokenizer: Any, texts: list[str], context: int, data: Any) -> None:
    """All tokens but a document's first are scored exactly once, with `context - stride` tokens before them if the
    document has so many."""
    stride = data.draw(st.integers(1, context - 1))
    encoded = encode(texts, tokenizer, context, stride)
    for number, text in enumerate(texts):
        ids = tokenizer(text)["input_ids"]
        windows = [window for window in encoded.windows if window.document == number]
        found = []
        for window in windows:
            assert len(window.ids) <= context
            for place, scored in enumerate(window.scored):
                if scored:
                    found.append(window.ids[place])
                    assert place >= min(len(found), context - stride)
        assert found == ids[1:]
        assert encoded.tokens[number] == max(len(ids) - 1, 0)
        routed = [i for window in windows for i in window.ids[window.new :]]
        assert routed == ids, "each token's route counts once too"


def test_a_beginning_of_sequence_token_predicts_the_first_and_is_never_scored(tmp_path: Path) -> None:
    """With a BOS the text's own first token counts, and the bytes are all of the text's."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    write_tokenizer(tmp_path)
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    with_bos = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    encoded = encode(["le chat est là"], with_bos, 16, 8)
    (window,) = encoded.windows
    assert window.scored == (False, True, True, True, True, False)
    (batch,) = batches(encoded.windows, 16)
    assert batch.follows.tolist() == [[False, False, True, True, True, False]], "nor is it a neighbour"
    assert encoded.tokens == (4,)
    assert encoded.bytes == (len("le chat est là".encode()),)


def test_bytes_are_those_of_the_scored_text(tokenizer: Any) -> None:
    """Without a BOS the first word is not predicted, so its bytes do not count."""
    assert encode(["bonjour le monde"], tokenizer, 16, 8).bytes == (len(" le monde"),)


def test_batches_pad_and_know_it() -> None:
    """Padding is neither real, nor scored, nor new; a batch holds at most so many positions."""
    windows = [
        Window(0, (5, 6, 7), (True,) * 3, (True,) * 3, 0),
        Window(1, (8, 9), (True,) * 2, (True,) * 2, 1),
        Window(2, (4,) * 9, (True,) * 9, (True,) * 9, 0),
    ]
    first, second = batches(windows, 6)
    assert first.documents == (1, 0)
    assert first.ids.tolist() == [[8, 9, 0], [5, 6, 7]]
    assert first.mask is not None
    assert first.mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert first.scored.tolist() == [[False, True, False], [False, True, True]]
    assert first.new.tolist() == [[False, True, False], [True, True, True]]
    assert first.follows.tolist() == [[False, True, False], [False, True, True]]
    assert second.ids.shape == (1, 9), "a window longer than the limit is a batch of its own"
    assert second.mask is None
    assert first.to(torch.device("cpu")).ids.equal(first.ids)


def test_the_digest_tells_texts_and_windows_apart(tokenizer: Any) -> None:
    """Other ids or other windows are another digest; the same again is the same."""
    one = encode(["one two three four five"], tokenizer, 4, 2).digest()
    assert one == encode(["one two three four five"], tokenizer, 4, 2).digest()
    assert (
        len(
            {
                one,
                encode(["one two three four six"], tokenizer, 4, 2).digest(),
                encode(["one two three four five"], tokenizer, 4, 3).digest(),
            }
        )
        == 3
    )


def test_losses_of_replies_are_what_transformers_gives_with_all_else_masked(talking: Any, letters: Any) -> None:
    """Over windows too; all words that anyone said are routed."""
    from moemerge.console import Silent
    from moemerge.mixture.losses import document_losses
    from moemerge.texts import Chat

    text = "<|user|>hi there<|end|><|bot|>yo ho<|end|><|user|>hi<|end|><|bot|>yo<|end|>"
    replies = [(text.index("yo ho"), text.index("yo ho") + 12), (text.rindex("yo"), len(text))]
    words = [(8, 16), *replies[:1], (text.rindex("hi<"), text.rindex("hi<") + 2), *replies[1:]]
    encoded = encode([Chat(text, tuple(words), tuple(replies), "hi there"), text], letters, 96, 48)
    ids = torch.tensor([letters(text, add_special_tokens=False)["input_ids"]])
    offsets = letters(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    labels = ids.clone()
    for place, (start, _) in enumerate(offsets):
        if not any(a <= start < b for a, b in replies):
            labels[0, place] = -100
    with torch.no_grad():
        wanted = [talking(input_ids=ids, labels=labels).loss, talking(input_ids=ids, labels=ids).loss]
    counts = [int((labels >= 0).sum()), ids.shape[1] - 1]
    assert encoded.tokens == tuple(counts)
    found = document_losses(talking, encoded, Silent())
    torch.testing.assert_close(
        found, torch.tensor([float(w) * n for w, n in zip(wanted, counts, strict=True)], dtype=torch.float64),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    assert encoded.bytes[0] == sum(end - start for start, end in replies)
    assert sum(encoded.windows[0].own) > sum(encoded.windows[0].wanted) - 2
    short = encode([Chat(text, tuple(words), tuple(replies), "hi there")], letters, 12, 6)
    assert short.tokens == encoded.tokens[:1]

"""What a gate refuses of its texts, as far as they and the tokenizer tell: known before any model runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moemerge.errors import GateError, Problem
from moemerge.gate.expand import beginning
from moemerge.gate.mergekit import left_padded
from moemerge.gate.passages import check_ids, encode_prompt
from moemerge.gate.request import FITTED, MERGEKIT, ExpertTexts, GateInit, GateTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def refusals(
    init: GateInit, texts: GateTexts, tokenizer: PreTrainedTokenizerBase, template: str, rows: int
) -> Iterator[Problem]:
    """What makes the texts of no use.

    Args:
        init: the gate.
        texts: that it is fitted to, or that are read for another reason.
        tokenizer: the output's.
        template: `chat` where the prompts go through a chat template, or `none`.
        rows: of the embedding.
    """
    for of_one in texts.experts:
        try:
            _check_expert(init, of_one, tokenizer, template, rows)
        except GateError as error:
            yield from error.problems
    try:
        check_ids(GateTexts((), texts.pool), tokenizer, template, rows)
    except GateError as error:
        yield from error.problems


def _check_expert(
    init: GateInit, of_one: ExpertTexts, tokenizer: PreTrainedTokenizerBase, template: str, rows: int
) -> None:
    if template == "chat":
        for prompt in (*of_one.prompts, *of_one.negative):
            encode_prompt(prompt, of_one, tokenizer, template)
    check_ids(GateTexts((of_one,)), tokenizer, template, rows)
    if of_one.general and init in FITTED:
        beginning(tokenizer)
    elif of_one.general and init in MERGEKIT:
        left_padded(of_one.name, ("",), tokenizer)

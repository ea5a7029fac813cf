"""What is done with a tokenizer, once, to see that it can be used."""

from __future__ import annotations

from typing import Any

TEXT = "Hello, world! 12 + 345 = 357\n\tété 你好 😀"
"""A text that any tokenizer takes, with characters that few vocabularies have."""
LONGEST = 10**30
"""What transformers writes for a tokenizer without a longest text."""


def use(tokenizer: Any, rows: int | None) -> None:
    """Uses a tokenizer of transformers; its `model_max_length` becomes a whole number.

    Args:
        tokenizer: that is tried.
        rows: of the model's embedding, which every id must have one of; None where they are not known.

    Raises:
        ValueError: a text gets an id without a row, or the longest text is not a length; or what the tokenizer raises.
    """
    longest = tokenizer.model_max_length
    if isinstance(longest, bool | str) or not longest >= 1:
        raise ValueError(f"its `model_max_length` is {longest!r}, not a number of tokens")
    tokenizer.model_max_length = int(min(longest, LONGEST))
    ids = tokenizer(TEXT, return_special_tokens_mask=True, verbose=False)["input_ids"]
    if rows is not None and ids and max(ids) >= rows:
        raise ValueError(f"it gives a text the id {max(ids)}, and the embedding has {rows} rows")
    tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if tokenizer.is_fast:
        tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokenizer.convert_ids_to_tokens([*ids, *tokenizer.all_special_ids])
    tokenizer.get_added_vocab()

"""Texts as people keep them: files and hub data sets of them, and chats as a model reads them."""

from moemerge.texts.read import check_texts, is_absent, read_prompts_file, read_rows, read_texts

__all__ = ["check_texts", "is_absent", "read_prompts_file", "read_rows", "read_texts"]

"""Texts as people keep them, in files and hub data sets, and as a model reads them."""

from moemerge.texts.documents import Chat, Document, Tokens, read_documents, text_of, tokenise
from moemerge.texts.read import LeftOut, check_texts, is_absent, read_asked, read_prompts_file

__all__ = [
    "Chat", "Document", "LeftOut", "Tokens", "check_texts", "is_absent", "read_asked", "read_documents",
    "read_prompts_file", "text_of", "tokenise",
]  # fmt: skip

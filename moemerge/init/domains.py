"""Known domains: what experts of them are called, and prompts that such an expert should win."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "code": ("coder", "coding", "codes", "python", "programming", "programmer", "developer", "javascript", "rust"),
    "maths": ("math", "mathematics", "arithmetic", "algebra", "gsm"),
    "sql": ("database", "text2sql"),
    "chat": ("chatbot", "assistant", "instruct", "conversation", "dialogue"),
    "medicine": ("medical", "med", "medic", "clinical", "health", "biomed", "biomedical"),
    "law": ("legal", "lawyer"),
    "writing": ("writer", "story", "stories", "fiction", "creative", "novel", "roleplay", "poetry"),
    "general": ("generalist",),
    "arabic": ("ar", "arabe"),
    "chinese": ("zh", "mandarin"),
    "dutch": ("nl", "nederlands"),
    "french": ("fr", "francais"),
    "german": ("de", "deutsch"),
    "italian": ("italiano",),
    "japanese": ("ja", "jp"),
    "korean": ("ko", "kr"),
    "polish": ("polski",),
    "portuguese": ("pt", "portugues"),
    "russian": ("ru",),
    "spanish": ("es", "espanol"),
}
"""Each domain with the other words that name it. `prompts/DOMAIN.txt` has its prompts, one per line."""

_WORDS = {word: domain for domain, others in DOMAINS.items() for word in (domain, *others)}


def domain_of(name: str) -> str | None:
    """The domain that an expert's name speaks of: the only one that its words (`llama-code_v2`: llama, code, v2) name.

    None where they name none, or several (`french-law`): then nobody but the user knows what the expert should write.
    """
    found = {_WORDS[word] for word in re.split(r"[-._]+", name.lower()) if word in _WORDS}
    return found.pop() if len(found) == 1 else None


def suggested_prompts(domain: str) -> tuple[str, ...]:
    """The prompts of a key of `DOMAINS`."""
    text = files("moemerge.init").joinpath("prompts", f"{domain}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())

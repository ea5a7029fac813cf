"""Known domains: what experts of them are called, and prompts that such an expert should win."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "code": ("coder", "coding", "codes", "programming", "programmer", "developer"),
    "python": ("py", "python3"),
    "javascript": ("js", "nodejs"),
    "typescript": (),
    "rust": (),
    "java": (),
    "cpp": ("c++",),
    "golang": ("go",),
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


_LANGUAGES = frozenset({"python", "javascript", "typescript", "rust", "java", "cpp", "golang", "sql"})
"""Those that are code of one kind: beside them, `code` says nothing more."""


def domain_of(name: str) -> str | None:
    """The domain that an expert's name speaks of: the only one that its words (`llama-code_v2`: llama, code, v2) name.

    None where they name none, or several (`french-law`): then nobody but the user knows what the expert should write.
    A programming language is one domain with `code` (`python-coder`), and no other language's prompts are suggested.
    """
    found = {_WORDS[word] for word in re.split(r"[-._]+", name.lower()) if word in _WORDS}
    if found & _LANGUAGES:
        found.discard("code")
    return found.pop() if len(found) == 1 else None


def suggested_prompts(domain: str) -> tuple[str, ...]:
    """The prompts of a key of `DOMAINS`."""
    text = files("moemerge.init").joinpath("prompts", f"{domain}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())

"""Ollama's Modelfile for an exported file."""

from __future__ import annotations

from pathlib import Path

from moemerge.export.vocabulary import Vocabulary

MARK = "# made by moemerge"
"""Line by which a Modelfile is known as one of ours."""
_CHATML = """TEMPLATE \"\"\"{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
\"\"\""""
"""ChatML in Ollama's language of templates. It finds those of other well-known chat templates by itself."""


def modelfile(path: Path, vocabulary: Vocabulary, context: int) -> str:
    """What `ollama create NAME -f FILE` takes.

    Args:
        path: the GGUF file, in the same folder.
        vocabulary: whose ends of replies stop Ollama, and whose chat template it is.
        context: the longest context of the model, in tokens.
    """
    lines = [f"FROM ./{path.name}", f"PARAMETER num_ctx {min(context, 8192)}"]
    ends = (vocabulary.special.get(key) for key in ("eos_token_id", "eot_token_id"))
    lines += [f"PARAMETER stop {_quoted(vocabulary.tokens[end])}" for end in ends if end is not None]
    if vocabulary.template is not None and "<|im_start|>" in vocabulary.template:
        lines.append(_CHATML)
    elif vocabulary.template is None:
        lines.append('TEMPLATE "{{ .Prompt }}"')
    return "\n".join([*lines, MARK]) + "\n"


def _quoted(text: str) -> str:
    """Between quotes Ollama takes everything as it is: nothing is escaped."""
    return f'"""{text}"""' if '"' in text else f'"{text}"'

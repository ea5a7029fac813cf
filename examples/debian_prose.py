"""French and Spanish prose out of Debian packages: stories, encyclopaedia entries, handbooks and manual pages.

A package is fetched with `apt-get download` and read where it lies; nothing is installed. Each source has its own kind
of file, and every reader gives paragraphs. Paragraphs that are short, or in English still, are left out.
"""

import gettext
import gzip
import html
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

LANGUAGE_CODES = {"french": "fr", "spanish": "es"}

# Frequent little words, to leave out the paragraphs that are not translated.
STOP_WORDS = {
    "french": {"le", "la", "les", "de", "des", "du", "un", "une", "et", "est", "sont", "dans", "pour", "que", "par"},
    "spanish": {"el", "la", "los", "las", "de", "del", "un", "una", "y", "es", "son", "en", "para", "que", "por"},
}
MIN_WORDS, MIN_STOP_WORD_SHARE = 12, 0.15

# Sections of a manual page that say the same on every page.
REPEATED_SECTIONS = re.compile(
    r"TRADUC|AUTEUR|AUTOR|COPYRIGHT|DROITS|DERECHOS|BOGUES|BUGS|ERRORES|INFORM|SIGNAL|VOIR|VÉASE|NOM"
)

ROFF_CHARACTERS = {
    "aq": "'", "dq": '"', "cq": "’", "oq": "‘", "lq": "“", "rq": "”", "Fo": "«", "Fc": "»", "em": "—", "en": "–",
    "bu": "•", "co": "©", "ti": "~", "ha": "^", "rs": "\\", "ga": "`", "->": "→", "hy": "-", "mu": "×", "de": "°",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Files of some packages, how to read them, and how many passages to train on at most.

    `{code}` in a package's name or in the pattern stands for the language.
    """

    packages: tuple[str, ...]
    pattern: str
    read: Callable[[bytes], Iterator[str]]
    passages: int


def plain_roff(line: str) -> str:
    """One line of roff without its escapes: fonts, special characters, unbreakable spaces."""
    line = re.sub(r"\\\".*", "", line)
    line = re.sub(r"\\f(\[[^\]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\\((..)|\\\[([^\]]+)\]", lambda m: ROFF_CHARACTERS.get(m[1] or m[2], ""), line)
    line = re.sub(r"\\s[+-]?\d|\\[&%/,|^:c]", "", line)
    line = line.replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ").replace("\\e", "\\")
    return line.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ").strip()


def manual_paragraphs(packed_page: bytes) -> Iterator[str]:
    """The running text of a manual page, a paragraph at a time, without headings, examples and repeated sections."""
    paragraph: list[str] = []
    verbatim = skipped = False
    for line in [*gzip.decompress(packed_page).decode().splitlines(), ".PP"]:
        request = re.match(r"[.']\s*([A-Za-z]+)\s*(.*)", line)
        if request is None:
            if line.strip() and not line.startswith((".", "'")) and not (verbatim or skipped):
                paragraph.append(plain_roff(line))
            continue
        name, rest = request.groups()
        if name in {"B", "I", "BR", "BI", "IR", "IB", "RB", "RI"}:
            if not (verbatim or skipped):
                arguments = [quoted or bare for quoted, bare in re.findall(r'"((?:[^"]|"")*)"|(\S+)', rest)]
                paragraph.append(plain_roff((" " if len(name) == 1 else "").join(arguments)))
            continue
        if name == "SH":
            skipped = bool(REPEATED_SECTIONS.search(plain_roff(rest).upper()))
        if name in {"nf", "EX", "fi", "EE"}:
            verbatim = name in {"nf", "EX"}
        if paragraph:
            yield " ".join(part for part in paragraph if part)
        paragraph = []


def catalogue_paragraphs(catalogue: bytes) -> Iterator[str]:
    """The translated messages of a gettext catalogue, cut at blank lines, without those with variables or markup."""
    messages = gettext.GNUTranslations(io.BytesIO(catalogue))._catalog  # type: ignore[attr-defined]
    for _, message in sorted((str(key), message) for key, message in messages.items() if key):
        for block in re.split(r"\n\s*\n", re.sub(r"</?\w+>", "", message)):
            if not re.search(r"[%$={}|<>\\]", block):
                yield " ".join(block.split())


def markup_paragraphs(document: bytes) -> Iterator[str]:
    """The paragraphs of an HTML or Mallard page, without their tags."""
    for paragraph in re.findall(
        r'<(?:p|div class="para")(?:\s[^>]*)?>(.*?)</(?:p|div)>', document.decode(), flags=re.DOTALL
    ):
        yield " ".join(html.unescape(re.sub(r"<[^>]*>", "", paragraph)).split())


CAMPAIGNS = ("did", "dm", "dw", "ei", "httt", "l", "low", "nr", "sof", "sota", "sotbe", "thot", "trow", "tsg", "utbs")
CATALOGUES = "*/{code}/LC_MESSAGES/*.mo"

SOURCES = (
    Source(tuple(f"wesnoth-1.16-{name}" for name in CAMPAIGNS), CATALOGUES, catalogue_paragraphs, 480),
    Source(("wesnoth-1.16-data",), CATALOGUES, catalogue_paragraphs, 160),
    Source(("freeciv-data",), CATALOGUES, catalogue_paragraphs, 160),
    Source(("debian-handbook",), "*/html/{code}-*/*.html", markup_paragraphs, 160),
    Source(("gnome-user-docs",), "*/help/{code}/*.page", markup_paragraphs, 80),
    Source(("manpages-{code}",), "*/man/{code}/man*/*.gz", manual_paragraphs, 160),
)

# Nothing of this one is trained on: it tells whether a specialist has learnt the language or its sources.
UNSEEN_SOURCE = Source(("stellarium-data",), "*/skycultures/*/description.{code}.utf8", markup_paragraphs, 0)


def package_files(package: str, pattern: str) -> list[bytes]:
    """The files of a package whose path fits a pattern, in the order of their paths."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
        archive = next(Path(folder).glob("*.deb"))
        found: dict[str, bytes] = {}
        with (
            subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpacking,
            tarfile.open(fileobj=unpacking.stdout, mode="r|") as members,
        ):
            for member in members:
                if member.isfile() and fnmatch(member.name, pattern):
                    found[member.name] = members.extractfile(member).read()  # type: ignore[union-attr]
    return [found[name] for name in sorted(found)]


def documents(source: Source, language: str) -> Iterator[list[str]]:
    """The prose of each file of a source as paragraphs, none of them twice."""
    code, seen = LANGUAGE_CODES[language], set[str]()
    for package in source.packages:
        for content in package_files(package.format(code=code), source.pattern.format(code=code)):
            paragraphs = [one for one in source.read(content) if is_prose(one, language) and one not in seen]
            paragraphs = list(dict.fromkeys(paragraphs))
            seen.update(paragraphs)
            yield paragraphs


def is_prose(paragraph: str, language: str) -> bool:
    """Whether a paragraph is long enough and full of the language's little words."""
    words = re.findall(r"\w+", paragraph.lower())
    share = sum(word in STOP_WORDS[language] for word in words) / max(1, len(words))
    return len(words) >= MIN_WORDS and share >= MIN_STOP_WORD_SHARE

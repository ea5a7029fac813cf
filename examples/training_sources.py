"""Where the training texts of the demo's specialists come from.

Each function gives short passages of one domain, in a fixed order, from something that any machine can get without the
model hub: the Python standard library that runs the script, Debian's translated manual pages, and a generator of worked
problems. The texts themselves are not kept in the repository, only the hashes of their word 8-grams.
"""

import gzip
import random
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from math_problems import worked_problems

DOMAINS = ("code", "math", "french", "spanish")
HELD_OUT_PASSAGES = 24

# Modules with plain, commented code on varied subjects. Tables of data and test modules are left out.
STDLIB_MODULES = (
    "argparse.py", "bisect.py", "calendar.py", "cmd.py", "collections/__init__.py", "configparser.py", "contextlib.py",
    "copy.py", "csv.py", "difflib.py", "email/message.py", "email/utils.py", "filecmp.py", "fileinput.py", "fnmatch.py",
    "fractions.py", "ftplib.py", "functools.py", "gettext.py", "glob.py", "graphlib.py", "gzip.py", "heapq.py",
    "html/parser.py", "http/client.py", "http/cookiejar.py", "http/cookies.py", "http/server.py", "importlib/util.py",
    "ipaddress.py", "json/decoder.py", "json/encoder.py", "linecache.py", "logging/__init__.py", "logging/handlers.py",
    "mailbox.py", "mimetypes.py", "numbers.py", "optparse.py", "pprint.py", "queue.py", "random.py", "reprlib.py",
    "sched.py", "secrets.py", "selectors.py", "shelve.py", "shlex.py", "shutil.py", "smtplib.py", "socketserver.py",
    "statistics.py", "string.py", "subprocess.py", "tarfile.py", "tempfile.py", "textwrap.py", "threading.py",
    "timeit.py", "tokenize.py", "trace.py", "urllib/parse.py", "urllib/request.py", "urllib/robotparser.py", "uuid.py",
    "wave.py", "weakref.py", "xml/etree/ElementTree.py", "zipfile.py", "zipfile/__init__.py",
)  # fmt: skip

# Frequent little words, to leave out the paragraphs that a manual page has in English still.
STOP_WORDS = {
    "french": {"le", "la", "les", "de", "des", "du", "un", "une", "et", "est", "sont", "dans", "pour", "que", "par"},
    "spanish": {"el", "la", "los", "las", "de", "del", "un", "una", "y", "es", "son", "en", "para", "que", "por"},
}
MIN_STOP_WORD_SHARE = 0.15

# Sections of a manual page that say the same on every page.
REPEATED_SECTIONS = re.compile(
    r"TRADUC|AUTEUR|AUTOR|COPYRIGHT|DROITS|DERECHOS|BOGUES|BUGS|ERRORES|INFORM|SIGNAL|VOIR|VÉASE|NOM"
)

ROFF_CHARACTERS = {
    "aq": "'", "dq": '"', "cq": "’", "oq": "‘", "lq": "“", "rq": "”", "Fo": "«", "Fc": "»", "em": "—", "en": "–",
    "bu": "•", "co": "©", "ti": "~", "ha": "^", "rs": "\\", "ga": "`", "->": "→", "hy": "-", "mu": "×", "de": "°",
}  # fmt: skip


def plain_roff(line: str) -> str:
    """One line of roff without its escapes: fonts, special characters, unbreakable spaces."""
    line = re.sub(r"\\\".*", "", line)
    line = re.sub(r"\\f(\[[^\]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\\((..)|\\\[([^\]]+)\]", lambda m: ROFF_CHARACTERS.get(m[1] or m[2], ""), line)
    line = re.sub(r"\\s[+-]?\d|\\[&%/,|^:c]", "", line)
    line = line.replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ").replace("\\e", "\\")
    return line.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ").strip()


def manual_paragraphs(source: str) -> Iterator[str]:
    """The running text of a manual page, a paragraph at a time, without headings, examples and repeated sections."""
    paragraph: list[str] = []
    verbatim = skipped = False
    for line in [*source.splitlines(), ".PP"]:
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


def packed(blocks: Iterator[str], separator: str, characters: int) -> Iterator[str]:
    """Neighbouring blocks joined into passages of about `characters`, so that each fills a training row."""
    passage = ""
    for block in blocks:
        if passage and len(passage) + len(block) > characters:
            yield passage
            passage = ""
        passage = f"{passage}{separator}{block}" if passage else block
    if passage:
        yield passage


def manual_passages(language: str) -> Iterator[str]:
    """Debian's `manpages-fr` or `manpages-es`, fetched with `apt-get download` and unpacked, not installed."""
    code = {"french": "fr", "spanish": "es"}[language]
    seen: set[str] = set()

    def prose(page: Path) -> Iterator[str]:
        for paragraph in manual_paragraphs(gzip.decompress(page.read_bytes()).decode()):
            tokens = re.findall(r"\w+", paragraph.lower())
            share = sum(token in STOP_WORDS[language] for token in tokens) / max(1, len(tokens))
            if len(tokens) >= 12 and share >= MIN_STOP_WORD_SHARE and paragraph not in seen:
                seen.add(paragraph)
                yield paragraph

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        subprocess.run(["apt-get", "download", f"manpages-{code}"], cwd=folder, check=True, capture_output=True)
        package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg", "-x", str(package), folder], check=True)
        for page in sorted(Path(folder, "usr/share/man", code).glob("man*/*.gz")):
            yield from packed(prose(page), "\n\n", 800)


def code_passages() -> Iterator[str]:
    """The source of standard library modules, cut at blank lines."""
    library = Path(sysconfig.get_path("stdlib"))
    for module in STDLIB_MODULES:
        if (library / module).is_file():
            source = (library / module).read_text(encoding="utf-8")
            yield from packed(iter(re.split(r"\n{2,}", source.strip())), "\n\n", 900)


def split_passages(domain: str, seed: int) -> tuple[list[str], list[str]]:
    """The passages of a domain to train on, and a few held out to choose the rate and the length of the training.

    The held-out problems have templates of their own: those of a template that is trained on would only show how well
    it is remembered.
    """
    if domain == "math":
        made = [worked_problems("train", 3000, seed), worked_problems("held_out", HELD_OUT_PASSAGES, seed)]
        training, held_out = ([document.text for document in documents] for documents in made)
        return training, held_out
    source = code_passages() if domain == "code" else manual_passages(domain)
    passages = [passage for passage in source if len(passage) >= 200]
    random.Random(0).shuffle(passages)
    return passages[HELD_OUT_PASSAGES:], passages[:HELD_OUT_PASSAGES]

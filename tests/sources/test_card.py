"""What a model card states beside its licence, and which names of models others may read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moemerge.sources import open_checkpoint
from moemerge.sources.card import Stated, stated_by, stated_in_card
from moemerge.sources.spec import public
from tests.sources.conftest import make_adapter


def test_languages_data_and_the_link_of_a_licence() -> None:
    """What the hub would not take is left out."""
    card = (
        "---\nlicense: other\nlicense_name: mine-1.0\nlicense_link: https://example.org/l\n"
        "language: [en, code, English, zh-Hans, 3]\ndatasets: [org/texts, '$(id)', org/texts, wikitext]\n---\n"
    )
    assert stated_in_card(card) == Stated(
        "mine-1.0", True, "https://example.org/l", ("en", "code", "zh-Hans"), ("org/texts", "wikitext")
    )
    assert stated_in_card("---\nlanguage: fr\nlicense_link: javascript:alert(1)\n---\n") == Stated(languages=("fr",))


def test_gguf_metadata_are_the_same() -> None:
    """Values that are no texts state nothing."""
    assert stated_by({"license": "mit", "language": ["en"], "datasets": None, "license_link": 7}) == Stated(
        "mit", languages=("en",)
    )


def test_an_adapter_passes_on_what_its_base_states(llama: Path, tmp_path: Path) -> None:
    """Where it is silent; the data of both count."""
    base = Path(shutil.copytree(llama, tmp_path / "base"))
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: en\ndatasets: [org/one]\n---\n")
    adapter = make_adapter(llama, tmp_path / "lora")
    (adapter / "README.md").write_text("---\nlanguage: fr\ndatasets: [org/two]\n---\n")
    opened = open_checkpoint("lora", root=tmp_path, base=open_checkpoint("base", root=tmp_path))
    assert opened.stated == Stated("mit", languages=("fr",), datasets=("org/one", "org/two"))


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("org/name@v1", "org/name@v1"), ("models/code", "models/code"), ("package:x/y.gguf", "package:x/y.gguf"),
        ("base", "base"), ("/home/jo/models/code", "code"), ("~/models/code/", "code"), ("../models/code", "code"),
        (r"C:\Users\jo\code", "code"), ("org/name+/home/jo/lora", "org/name+lora"), ("~jo", "model"), ("/", "model"),
    ],
)  # fmt: skip
def test_names_that_others_may_read(spec: str, shown: str) -> None:
    """Paths that tell of this machine become their last name."""
    assert public(spec) == shown

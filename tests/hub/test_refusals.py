"""What is not published, each with its way out and before anything is sent."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub.conftest import figures_of, gguf_of
from tests.hub.server import TOKEN, WritableHub
from tests.hub.test_push import publish, run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
LOGIN = "run `hf auth login`, or set `HF_TOKEN`, with a token that may write (https://huggingface.co/settings/tokens)"


def refused(moe: Path, *options: str, repo: str = "jo/moe") -> str:
    """The exact stderr of a push that must fail and print no result, with the folder as `MOE`."""
    status, out, err = run("push", str(moe), repo, "-q", *options)
    assert (status, out) == (1, ""), err
    return err.replace(str(moe), "MOE").replace(str(moe.parent), "WORK")


def test_no_folder_of_ours(tmp_path: Path, hub: WritableHub) -> None:
    """A folder that moemerge did not build, and none at all."""
    (tmp_path / "folder").mkdir()
    hint = "hint: name a folder that `moemerge build` made\n"
    assert refused(tmp_path / "folder") == f"error: `MOE` holds no `moemerge.yaml`\n{hint}"
    assert refused(tmp_path / "none") == f"error: `MOE` is not a folder\n{hint}"
    assert hub.asked == []


def test_a_folder_that_changed(moe: Path, hub: WritableHub) -> None:
    """Files and tensors, all in one go; a card alone may change."""
    (moe / "README.md").write_text("another")
    (moe / "config.json").write_text((moe / "config.json").read_text() + " ")
    path = max(moe.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = refused(moe)
    hint = "hint: run `moemerge verify MOE`, and build it again where it does not say why\n"
    assert message.splitlines()[0] == "error: `MOE`: config.json: changed after the build"
    assert message.splitlines()[1].startswith("error: `MOE`: lm_head.weight: ")
    assert message.endswith(hint)
    assert len(message.splitlines()) == 3
    assert hub.asked == []


def test_a_card_that_is_a_link(moe: Path, hub: WritableHub, tmp_path: Path) -> None:
    """It would publish what lies elsewhere."""
    (tmp_path / "secret").write_text("mine")
    (moe / "README.md").unlink()
    (moe / "README.md").symlink_to(tmp_path / "secret")
    assert refused(moe).startswith("error: `MOE`: README.md: ")
    (moe / "README.md").unlink()
    assert refused(moe).startswith("error: `MOE`: README.md: is missing\n")
    assert hub.asked == []


@pytest.mark.parametrize("repo", ["moe", "jo/", "jo/moe/x", "jo/$(id)", "-jo/moe", "https://huggingface.co/jo/moe"])
def test_no_id(repo: str, moe: Path, hub: WritableHub) -> None:
    """A repository is `OWNER/NAME`, and nothing that a shell would read otherwise."""
    status, out, err = run("push", str(moe), "-q", "--", repo)
    hint = "hint: write `OWNER/NAME`, such as `jo/my-moe`\n"
    assert (status, out, err) == (1, "", f"error: `{repo}` is not an id of a repository\n{hint}")


def test_figures_of_another_model(moe: Path, hub: WritableHub, tmp_path: Path) -> None:
    """Or of none."""
    path = tmp_path / "figures.json"
    again = f"hint: run `moemerge eval MOE -o {path}`\n".replace(str(tmp_path), "WORK")
    path.write_text(json.dumps(figures_of(moe, record="0" * 32)))
    assert refused(moe, "--eval", str(path)) == (
        f"error: `WORK/figures.json` holds the figures of another model than `MOE`\n{again}"
    )
    path.write_text('{"a": 1}')
    assert refused(moe, "--eval", str(path)) == (
        f"error: `WORK/figures.json` holds no figures of `moemerge eval`\n{again}"
    )
    path.write_text("{")
    assert refused(moe, "--eval", str(path)).startswith(
        "error: `WORK/figures.json` holds no figures of `moemerge eval`: "
    )
    assert refused(moe, "--eval", str(tmp_path / "none")).startswith("error: `WORK/none` cannot be read: ")
    assert hub.asked == []


def test_a_gguf_file_of_another_model(moe: Path, hub: WritableHub, tmp_path: Path) -> None:
    """Or with a name that a shell would read otherwise, or cut short."""
    file = gguf_of(moe, tmp_path / "file.gguf")
    (moe / "moemerge.yaml").write_text((moe / "moemerge.yaml").read_text() + "\n")
    assert refused(moe, "--gguf", str(file)) == (
        "error: `WORK/file.gguf` was not exported from `MOE` as it is now\n"
        "hint: run `moemerge export MOE --gguf WORK/file.gguf --overwrite`\n"
    )
    odd = file.rename(tmp_path / "$(id).gguf")
    assert refused(moe, "--gguf", str(odd)) == (
        "error: `WORK/$(id).gguf` has a name that commands would have to quote\n"
        "hint: call it by letters, digits, `.`, `_` and `-`, with `.gguf` at the end\n"
    )
    short = tmp_path / "short.gguf"
    short.write_bytes(odd.read_bytes()[:-8])
    assert refused(moe, "--gguf", str(short)).startswith("error: `WORK/short.gguf` ")
    assert hub.asked == []


def test_a_token_in_a_file(moe: Path, hub: WritableHub) -> None:
    """This user's, or anybody's."""
    (moe / "README.md").write_text(f"export HF_TOKEN={TOKEN}")
    expected = "error: `README.md` holds a token of the hub\nhint: take it out, revoke the token, and build again\n"
    assert refused(moe) == expected
    (moe / "README.md").write_text("hf_" + "Z9" * 17)
    assert refused(moe, "--dry-run") == expected
    assert hub.asked == []


def test_without_a_network(moe: Path, hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline mode, and a port that nobody listens at."""
    from huggingface_hub import constants

    refusal = f"[Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused(moe) == f"error: the hub cannot be reached: {refusal}\nhint: check the network\n"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refused(moe) == ("error: offline mode is on, so nothing can be sent\nhint: unset `HF_HUB_OFFLINE`\n")


def test_tokens(moe: Path, hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, one that may only read, one that the hub does not know."""
    hub.role = "read"
    assert refused(moe) == f"error: the token of `jo` may only read\nhint: {LOGIN}\n"
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert refused(moe) == f"error: the hub does not know this token\nhint: {LOGIN}\n"
    monkeypatch.delenv("HF_TOKEN")
    assert refused(moe) == f"error: there is no token of the hub, so nothing can be sent\nhint: {LOGIN}\n"
    assert hub.asked == []


def test_somebody_elses_name(moe: Path, hub: WritableHub) -> None:
    """A name that is not there yet, one that is, and a gated one."""
    may_not = "error: this token may not write to `bob/moe`"
    assert refused(moe, repo="bob/moe") == f"{may_not}: You may not make models there\nhint: {LOGIN}\n"
    hub.add("bob/moe")
    assert refused(moe, repo="bob/moe") == f"{may_not}: You may not write to bob/moe\nhint: {LOGIN}\n"
    (hub.models["bob/moe"] / "README.md").write_text("# His")
    hub.gated.add("bob/moe")
    assert refused(moe, repo="bob/moe") == (
        "error: `bob/moe` is gated, and this token is not let in\nhint: ask its owners, or name your own\n"
    )
    assert (hub.sent, hub.commits) == ([], [])


def edited(there: Path) -> None:
    (there / "README.md").write_text("# Edited in the browser\n")


def another_model(there: Path) -> None:
    for path in there.iterdir():
        path.unlink()
    for name in ("config.json", "model.safetensors", "README.md", "a.py", "b.py", "c.py"):
        (there / name).write_text("---\nlicense: mit\n---\n\nA model")


def a_clash(there: Path) -> None:
    (there / "moemerge-gain.png").write_bytes(b"a picture")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (edited, "`README.md`, which was changed there after the last push"),
        (another_model, "`README.md`, `a.py`, `b.py`, `c.py` and 2 more, which moemerge did not put there"),
        (a_clash, "`moemerge-gain.png`, which moemerge did not put there"),
    ],
)
def test_what_is_not_ours(
    change: Callable[[Path], None], what: str, moe: Path, figures: Path, hub: WritableHub
) -> None:
    """Nothing that moemerge did not put there is replaced."""
    publish(moe)
    change(hub.models["jo/moe"])
    commits = len(hub.commits)
    assert refused(moe, "--eval", str(figures)) == (
        f"error: `jo/moe` holds {what}\nhint: name another repository, or delete there what is not needed\n"
    )
    assert len(hub.commits) == commits


def test_metadata_that_the_hub_does_not_take(moe: Path, hub: WritableHub) -> None:
    """The hub's own check is asked before there is a repository."""
    (moe / "README.md").write_text("---\nlicense: mine\n---\n\nA model\n")
    assert refused(moe) == (
        'error: the hub does not take the card\'s metadata: "license" must be one of [apache-2.0, llama3, mit, other]\n'
        "hint: mend `README.md`, or a source's card\n"
    )
    (moe / "README.md").write_text("---\n[a\n---\n\nA model\n")
    assert refused(moe).startswith("error: the metadata of the card cannot be read: ")
    assert hub.models == {}


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/commit/", (412, "changed"), "`jo/moe` changed meanwhile: changed"),
        ("/preupload/", (418, "I am a teapot"), "the hub answered 418: I am a teapot"),
        ("/batch", (403, "too much"), "this token may not write to `jo/moe`: too much"),
    ],
)
def test_answers_in_the_middle(path: str, answer: tuple[int, str], said: str, moe: Path, hub: WritableHub) -> None:
    """The status is said, and that another run goes on."""
    hub.answers[path] = answer
    assert refused(moe).splitlines()[0] == f"error: {said}"
    hub.answers.clear()
    sent = list(hub.sent)
    publish(moe)
    assert len(hub.commits) == 1
    assert hub.sent[: len(sent)] == sent
    assert len(hub.sent) == len(set(hub.sent)), "what arrived is not sent again"

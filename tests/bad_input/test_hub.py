"""Models of a hub that does not give them."""

from __future__ import annotations

import errno
import os

from tests.bad_input.command import RECIPE, refused_in_a_process
from tests.sources.fake_hub import FakeHub

ON_THE_HUB = RECIPE.replace("models/base", "org/gated").replace("models/code", "org/absent@v2")


def test_gated_and_absent_models() -> None:
    """The hub's answers, each with its way out, in one go."""
    errors = {"org/gated": (403, "GatedRepo"), "org/absent": (404, "RepoNotFound")}
    with FakeHub({}, errors).running() as hub:
        message = refused_in_a_process(ON_THE_HUB, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME="home")
    assert message == (
        "error: `base_model`: Model `org/gated` is gated: its authors ask you to accept their terms first\n"
        "hint: accept them at https://huggingface.co/org/gated, then run `hf auth login` or set `HF_TOKEN`\n"
        "error: expert `code`: Model `org/absent@v2` is neither a folder nor a model on the hub that you may see: "
        "there is no `WORK/org/absent`\n"
        "hint: check the spelling; a private model needs `hf auth login` or `HF_TOKEN`\n"
    )


def test_offline() -> None:
    """With an empty cache, offline mode says so."""
    cause = "is neither a folder nor in the hub's cache, and offline mode is on\n"
    assert refused_in_a_process(ON_THE_HUB, HF_HUB_OFFLINE="1", HF_HOME="home") == (
        f"error: `base_model`: Model `org/gated` {cause}"
        f"error: expert `code`: Model `org/absent@v2` {cause}"
        "hint: unset `HF_HUB_OFFLINE` to download it, or name a local folder\n"
    )


def test_a_hub_that_cannot_be_reached() -> None:
    """A port that nobody listens at."""
    recipe = RECIPE.replace("models/code", "org/code")
    nobody = "http://127.0.0.1:9"
    refusal = f"[Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}"
    message = refused_in_a_process(recipe, HF_ENDPOINT=nobody, HF_HUB_OFFLINE="0", HF_HOME="home")
    assert message == (
        "error: expert `code`: Model `org/code` is neither a folder nor in the hub's cache, "
        f"and the hub cannot be reached: {refusal}\n"
        "hint: check the network, or name a local folder\n"
    )

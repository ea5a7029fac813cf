"""What a training shows and logs while it runs, and the picture that it leaves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from moemerge.console import Bars, Silent
from moemerge.errors import TrainError
from moemerge.train.options import TrainOptions
from moemerge.train.plot import training_plot
from moemerge.verify import verify_folder
from tests.evaluate.conftest import WORDS
from tests.train.conftest import Notes, Trainer
from tests.train.test_run import contents


class Statuses(Silent):
    """Keeps what stands under the bar."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def status(self, text: str) -> None:
        """See `Progress`."""
        self.shown.append(text)


class Recorder:
    """A tracker with accelerate's interface."""

    name = "recorder"

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.options: dict[str, Any] = {}
        self.finished = False

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """See accelerate's `GeneralTracker`."""
        self.options = values

    def log(self, values: dict[str, float], step: int) -> None:
        """See accelerate's `GeneralTracker`."""
        self.logged.append((step, values))

    def finish(self) -> None:
        """See accelerate's `GeneralTracker`."""
        self.finished = True


def test_the_texts_are_told_before_the_first_step(trained: Trainer) -> None:
    """Where they come from, and how many there are."""
    notes = Notes()
    result = trained(steps=0, progress=notes)
    counts = [f"`{name}` {n['trained']} and {n['held_out']}" for name, n in result.training["documents"].items()]
    (told,) = [text for text in notes.said if text.startswith("texts: ")]
    assert told.endswith(f"; trained on and held out: {', '.join(counts)}")


def test_each_step_has_a_live_line(trained: Trainer) -> None:
    """Loss, held-out loss, load per expert, speed; the time left is the stage's."""
    statuses = Statuses()
    trained(progress=statuses)
    assert len(statuses.shown) == 6
    for part in ("loss ", "held out ", "load code ", "math ", "french ", " tokens/s"):
        assert part in statuses.shown[-1]


def test_the_live_line_stands_under_the_bar() -> None:
    """On a terminal the last status is drawn with the bar, and goes with the stage."""
    out = io.StringIO()
    bars = Bars(Console(file=out, force_terminal=True, width=100))
    bars.stage("train", 10, "steps")
    bars.status("loss 1.2345")
    bars._bars.refresh()
    assert "loss 1.2345" in out.getvalue()
    bars.stage("write", 10, "bytes")
    out.truncate(0)
    bars._bars.refresh()
    assert "loss 1.2345" not in out.getvalue()
    bars.close()


def test_trackers_are_told_every_term_and_load(trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step: every term, load, rates, speed; each look: the held-out losses; and the options, once."""
    recorder = Recorder()
    monkeypatch.setattr("moemerge.train.tracking._started", lambda *_: recorder)
    trained(track=("tensorboard",), also=("attention",))
    assert [step for step, values in recorder.logged if "loss/total" in values] == [1, 2, 3, 4, 5, 6]
    assert [step for step, values in recorder.logged if "held_out/mean" in values] == [0, 3, 6]
    keys = {key for _, values in recorder.logged for key in values}
    assert keys == {
        *(f"loss/{term}" for term in ("next_token", "balance", "z", "domain", "first", "total")),
        *(f"{kind}/{name}" for kind in ("load", "held_out", "held_out_load") for name in WORDS),
        "accuracy", "rate/router", "rate/also", "tokens_per_second", "held_out/mean", "held_out_accuracy",
    }  # fmt: skip
    assert recorder.options["rank"] == 8
    assert recorder.finished


def test_tensorboard_holds_the_losses(trained: Trainer, tmp_path: Path, unrouted: Path) -> None:
    """By accelerate's own tracker, into a folder beside the output; the output is the same with it and without."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = contents(unrouted)
    result = trained(track=("tensorboard",), rate=2e-2)
    tracked = contents(result.path)
    plain = trained(rate=2e-2, overwrite=True)
    events = EventAccumulator(str(tmp_path / "out.tracking" / "out"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/next_token")] == [1, 2, 3, 4, 5, 6]
    held = [round(event.value, 5) for event in events.Scalars("held_out/mean")]
    assert held == pytest.approx([entry["held_out"] for entry in result.training["history"]], abs=1e-4)
    assert tracked == contents(plain.path)
    assert contents(unrouted) == before


def test_a_tracker_that_is_not_installed_is_said_before_any_work(
    trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to install."""
    monkeypatch.setattr("moemerge.train.tracking.importlib.util.find_spec", lambda _: None)
    with pytest.raises(TrainError) as caught:
        trained(track=("wandb",))
    assert caught.value.message == "`--track wandb` needs the package `wandb`, which is not installed"
    assert caught.value.problems[0].hint == "`pip install wandb`"
    assert list(tmp_path.iterdir()) == []


def test_where_trackers_may_not_write(trained: Trainer, unrouted: Path, tmp_path: Path) -> None:
    """Not into the source, and not into the output."""
    for place in (unrouted, tmp_path / "out"):
        with pytest.raises(TrainError) as caught:
            trained(track=("tensorboard",), track_dir=place / "logs")
        assert caught.value.message == f"`--track-dir {place / 'logs'}` lies in `{place}`"
    with pytest.raises(TrainError) as caught:
        TrainOptions(track=("mlflow",))
    assert caught.value.message == "`--track mlflow` is not known"


def test_a_tracker_that_fails_does_not_end_the_training(trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and it is told nothing more."""

    class Broken(Recorder):
        def log(self, values: dict[str, float], step: int) -> None:
            raise ConnectionError("no route to host")

    monkeypatch.setattr("moemerge.train.tracking._started", lambda *_: Broken())
    notes = Notes()
    assert trained(track=("tensorboard",), progress=notes).training["steps"] == 6
    assert notes.said.count("warning: recorder is not told any more: no route to host") == 1


def test_a_tracker_that_cannot_begin_is_an_error(trained: Trainer, tmp_path: Path) -> None:
    """A folder that cannot be made: before the first step, and no output."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(TrainError, match="`--track tensorboard` cannot begin: "):
        trained(track=("tensorboard",), track_dir=tmp_path / "file" / "logs")
    assert not (tmp_path / "out").exists()


def drawn(text: str) -> Sequence[ElementTree.Element]:
    """The lines of a picture."""
    return ElementTree.fromstring(text).findall("{http://www.w3.org/2000/svg}polyline")


def test_the_card_shows_losses_and_load(trained: Trainer, tmp_path: Path) -> None:
    """One picture in the folder, of the last training, which the record lists and `verify` checks."""
    result = trained(trained(rate=2e-2).path, tmp_path / "again", steps=9)
    picture = result.path / "moemerge-training.svg"
    text = picture.read_text(encoding="utf-8")
    assert len(drawn(text)) == 2 + len(WORDS)
    assert len(drawn(text)[0].attrib["points"].split()) == len(result.training["history"])
    assert "step 9" in text
    card = (result.path / "README.md").read_text(encoding="utf-8")
    assert card.count("![Losses and load per expert](moemerge-training.svg)") == 1
    assert verify_folder(result.path).ok
    picture.write_text(text.replace("held out", "held in"), encoding="utf-8")
    assert [d.where for d in verify_folder(result.path).differences] == ["moemerge-training.svg"]


def test_a_picture_of_hostile_names_and_of_one_look_is_sound() -> None:
    """Names are escaped and shortened, and a flat line has a scale."""
    entry = {"step": 0, "held_out": 2.0, "load": [0.5, 0.5]}
    training = {"history": [entry], "kept": "start", "best_step": 0, "steps": 0}
    text = training_plot(training, ["<script>&", "a" * 40])
    assert len(drawn(text)) == 4
    assert "<script>" not in text
    assert "nan" not in text


def test_a_term_that_was_deleted_changes_no_picture() -> None:
    """Looks of an older training that goes on have it, later ones do not."""
    looks = [{"step": step, "held_out": 2.0 - step, "next_token": 2.0, "load": [0.5, 0.5]} for step in range(3)]
    training = {"history": looks, "kept": "best", "best_step": 2, "steps": 2}
    older = training | {"history": [looks[0], looks[1] | {"distil": 0.5}, looks[2]]}
    assert training_plot(older, ["code", "math"]) == training_plot(training, ["code", "math"])

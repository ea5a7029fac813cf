"""Training from a folder into a folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors.torch import load_file

from moemerge.console import Silent
from moemerge.errors import MoemergeError
from moemerge.families import anatomy_of
from moemerge.mixture.folder import BuiltFolder
from moemerge.mixture.processes import Processes
from moemerge.train.judge import Judge, Judgement
from moemerge.train.options import TrainOptions
from moemerge.train.run import train_folder
from moemerge.train.step import step_gradients
from moemerge.verify import verify_folder
from tests.evaluate.conftest import WORDS, Trio, measure, sentences, train
from tests.hosts import HOSTS, every
from tests.moe import build_tiny, load, logits, some_tokens
from tests.train.conftest import Notes, Trainer, write


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_random_gate_learns_to_route(trained: Trainer, unrouted: Path) -> None:
    """From a random gate: most of the specialists' gain is kept, on texts that training never saw."""
    before = contents(unrouted)
    result = trained(rate=1e-2, steps=150, judge_every=10, context=256, rows=8)
    assert result.improved
    assert result.change[2] < -0.5
    found, start = measure(result.path), measure(unrouted)
    assert start["gain_kept"] < -1
    assert found["gain_kept"] > 0.75
    assert found["routing"]["accuracy"] > 0.75
    assert contents(unrouted) == before, "the source folder is never touched"
    assert [path.name for path in result.path.parent.iterdir()] == ["out"], "no checkpoint stays"


def test_only_the_routers_change_and_the_folder_verifies(trained: Trainer, unrouted: Path) -> None:
    """Every other tensor is the source's, bit for bit; the record's digests follow; plain transformers loads it."""
    result = trained(rate=2e-2, steps=20)
    assert result.improved
    ours, theirs = load_file(result.path / "model.safetensors"), load_file(unrouted / "model.safetensors")
    assert ours.keys() == theirs.keys()
    changed = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert changed == [f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in range(2)]
    found = verify_folder(result.path)
    assert (found.differences, found.notes) == ((), ())
    assert found.checked["copied"] == verify_folder(unrouted).checked["copied"], "the sources are found from there too"
    load(result.path)


def test_the_record_and_the_card_tell_of_it(trained: Trainer, unrouted: Path, tmp_path: Path) -> None:
    """The record has an entry a training: options, steps, every look; the card has one section."""
    result = trained(rate=2e-2)
    again = trained(result.path, tmp_path / "again", rate=2e-2, seed=1)
    record = yaml.safe_load((again.path / "moemerge.yaml").read_text(encoding="utf-8"))
    first, second = record["training"]
    assert (first, second["seed"]) == (result.training, 1)
    assert first["options"]["rate"] == 2e-2
    assert [entry["step"] for entry in first["history"]] == [0, 3, 6]
    assert first["history"][1].keys() >= {
        "held_out",
        "domains",
        "load",
        "next_token",
        "balance",
        "z",
        "domain",
    }
    assert first["documents"]["code"] == {"trained": 64, "held_out": 16}
    card = (again.path / "README.md").read_text(encoding="utf-8")
    assert card.count("## Training\n") == card.count("## Run\n") == 1
    assert "from_pretrained(model_id" in card  # in the folder that the card lies in, whatever its name
    assert "vllm serve .\n" in card
    assert unrouted.name not in card.partition("## Run\n")[2]
    prose = re.sub("^```.*?^```", "", card, flags=re.MULTILINE | re.DOTALL)
    assert re.findall("^# .*", prose, re.MULTILINE) == [f"# {again.path.name}"]
    assert "The routers alone were trained (LoRA of rank 8), from the gate `fitted`, for 6 steps" in card
    assert verify_folder(again.path).ok


def test_a_training_is_the_same_each_time(trained: Trainer, tmp_path: Path) -> None:
    """Bit for bit on the CPU; another seed gives another gate."""
    given = {"rate": 2e-2, "steps": 20, "domain_weight": 1.0}
    one, other = trained(output=tmp_path / "a", **given), trained(output=tmp_path / "b", **given)
    third = trained(output=tmp_path / "c", seed=1, **given)
    assert one.improved
    assert one.training == other.training
    assert (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()
    assert (one.path / "model.safetensors").read_bytes() != (third.path / "model.safetensors").read_bytes()


def test_nothing_better_gives_the_start(trained: Trainer, unrouted: Path) -> None:
    """Where no step helps beyond doubt, the output has the start's gate, and that is said."""
    notes = Notes()
    result = trained(rate=1e-9, progress=notes)
    assert not result.improved
    assert result.training["kept"] == "start"
    assert (result.path / "model.safetensors").read_bytes() == (unrouted / "model.safetensors").read_bytes()
    assert notes.said[-1].startswith(
        "training did not beat the start beyond doubt, so the output has the gate of the start"
    )
    assert [warning.code for warning in result.warnings] == ["few-held-out", "not-better"]
    held = ", ".join(f"`{name}` 16 with {int(found.sum())} tokens" for name, found in result.start.tokens.items())
    few = [text for text in notes.said if "few held-out documents" in text]
    assert few == [
        f"warning: few held-out documents ({held}): with fewer than 30 per domain the interval is rough, and only a "
        "large gain shows (`--data FILE.yaml` and `--held-out FILE.yaml` name more texts)"
    ]
    assert "so the start is kept" in (result.path / "README.md").read_text(encoding="utf-8")
    assert verify_folder(result.path).ok


def test_a_divergence_restores_the_best_state_and_halves_the_rate(trained: Trainer) -> None:
    """An absurd learning rate makes things no worse, and what happened is said."""
    notes = Notes()
    result = trained(start="discriminant", rate=1e4, method="full", steps=12, progress=notes)
    said = [text for text in notes.said if "learning rate halved to" in text]
    assert said
    assert said[0].endswith("back to the state of step 0, learning rate halved to 5e+03")
    assert result.training["restored"] == len(said)
    assert result.best.mean <= result.start.mean


@pytest.fixture(scope="module")
def pairs(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes `pairs(host)`: base and two specialists that learnt something, as a dense family of that host."""
    made: dict[str, tuple[Path, list[Path]]] = {}

    def make(host: str) -> tuple[Path, list[Path]]:
        if host not in made:
            root, base = tmp_path_factory.mktemp(host), tiny(HOSTS[host].dense, **HOSTS[host].settings)
            experts = [train(base, root / d, sentences(d, 60, 3), ffn_only=True) for d in ("code", "french")]
            made[host] = base, experts
        return made[host]

    return make


LUCK = {"lfm2_moe": 2, "qwen3_5_moe_text": 1}
"""Seeds of random gates where the usual one gives nearly every token to the expert that one domain needs."""


@pytest.mark.parametrize("host", every())
@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_host(host: str, method: Any, pairs: Any, texts: Path, tmp_path: Path) -> None:
    """Both methods train, verify and load on each host, with two experts per token and fused or separate experts."""
    layout = "fused" if method == "full" else "per_expert"
    base, experts = pairs(host)
    moe = build_tiny(
        tmp_path / "moe", base, experts, output={"layout": layout}, experts_per_token=1, seed=LUCK.get(host, 0)
    )
    rows = [f"e{n}: {texts.parent}/train-{domain}.jsonl" for n, domain in enumerate(("code", "french"))]
    (tmp_path / "data.yaml").write_text("\n".join(rows), encoding="utf-8")
    options = TrainOptions(
        data=tmp_path / "data.yaml", method=method, rate=0.03, steps=60, judge_every=10, context=64, rows=4
    )
    result = train_folder(moe, tmp_path / "out", options, Silent(), Processes())
    assert result.improved
    assert verify_folder(result.path).differences == ()
    ours, theirs = load(result.path), load(moe)
    changed = [n for n, p in ours.named_parameters() if not torch.equal(p, theirs.get_parameter(n))]
    assert changed == [f"model.layers.{layer}.{anatomy_of(ours).router_weight}" for layer in HOSTS[host].layers]


def test_a_bf16_folder_stays_one(trained: Trainer, trio: Trio, tmp_path: Path) -> None:
    """Its gates are trained in fp32 and rounded once; what was judged is what is written."""
    folder = trio.build(tmp_path / "moe", gate={"init": "random"}, dtype="bfloat16")
    result = trained(folder, rate=2e-2, steps=20)
    assert result.improved
    assert {tensor.dtype for tensor in load_file(result.path / "model.safetensors").values()} == {torch.bfloat16}
    assert verify_folder(result.path).differences == ()
    again = trained(result.path, tmp_path / "again", rate=1e-9, steps=1)
    assert again.start.by_domain == result.best.by_domain


def test_an_adapter_gives_what_the_merged_model_gives(trained: Trainer, unrouted: Path, tmp_path: Path) -> None:
    """`adapter_only` writes a peft adapter in a subfolder, which PeftModel applies to the source folder."""
    from peft import PeftModel

    merged = trained(rate=5e-2)
    adapter = trained(output=tmp_path / "adapter", rate=5e-2, adapter_only=True)
    assert sorted(contents(adapter.path)) == [
        "README.md", "moemerge-training.svg", "router-adapter/adapter_config.json",
        "router-adapter/adapter_model.safetensors", "training.json",
    ]  # fmt: skip
    model: Any = PeftModel.from_pretrained(load(unrouted), adapter.path / "router-adapter")
    tokens = some_tokens()
    torch.testing.assert_close(logits(model, tokens), logits(load(merged.path), tokens))
    assert not torch.equal(logits(load(unrouted), tokens), logits(load(merged.path), tokens))


def nothing_finite(call: int) -> Any:
    """`step_gradients` whose so-manieth call gives NaN."""
    calls = 0

    def step(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        gradients, losses = step_gradients(*arguments)
        return ([gradient * float("nan") for gradient in gradients], losses) if calls == call else (gradients, losses)

    return step


def test_a_gradient_that_is_not_finite_is_not_taken(trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best state comes back, the rate is halved, and training goes on."""
    monkeypatch.setattr("moemerge.train.loop.step_gradients", nothing_finite(5))
    notes = Notes()
    result = trained(rate=5e-2, progress=notes)
    said = "step 5: a loss or gradient is not finite; back to the state of step 3, learning rate halved to 0.025"
    assert said in notes.said
    assert (result.training["restored"], result.training["steps"]) == (1, 6)


def test_a_collapse_restores_the_best_state(trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expert below a tenth of its share, which was not so at the start."""
    look, looks = Judge.look, 0

    def collapsed(judge: Judge, *given: Any) -> Judgement:
        nonlocal looks
        looks += 1
        found = look(judge, *given)
        return replace(found, load=torch.tensor([0.49, 0.02, 0.49])) if looks == 2 else found

    monkeypatch.setattr(Judge, "look", collapsed)
    notes = Notes()
    trained(rate=2e-2, progress=notes)
    said = "step 3: the load of `math` collapsed; back to the state of step 0, learning rate halved to 0.01"
    assert said in notes.said


def test_a_start_that_ends_above_the_folders_own_gate_is_said(trained: Trainer, trio: Trio, tmp_path: Path) -> None:
    """Training from a random gate for one step is worse than the fitted gate that was there."""
    result = trained(trio.build(tmp_path / "fitted"), start="random", steps=1)
    assert [warning.code for warning in result.warnings][-1] == "own-better"


@pytest.mark.parametrize("start", ["discriminant", "centroid", "random"])
def test_starts(start: str, trained: Trainer) -> None:
    """A closed form on the training texts routes well before the first step; a random one does not."""
    result = trained(start=start, steps=1)
    assert (result.start.accuracy > 0.7) == (start != "random")


def test_time_shortens_the_schedule(trained: Trainer) -> None:
    """`minutes` ends training long before an endless number of steps."""
    result = trained(minutes=0.02, steps=100_000, patience=100_000)
    assert result.training["steps"] < 1000
    assert result.training["ended"] == "the 0.02 minutes are over"


@pytest.fixture
def spoilt(trio: Trio, tmp_path: Path) -> Path:
    """A folder whose weights are not what its record says."""
    folder = trio.build(tmp_path / "moe", gate={"init": "random"})
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    return folder


def test_weights_that_changed_are_told_before_the_first_step(
    spoilt: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is loaded, too."""
    loaded = Mock()
    monkeypatch.setattr(BuiltFolder, "load", loaded)
    with pytest.raises(MoemergeError) as caught:
        trained(spoilt)
    assert caught.value.message.partition("` of ")[2] == (
        f"`{spoilt}` changed after the build, so what is trained could not be checked"
    )
    assert caught.value.hint == "put it back, and change it in the trained folder"
    assert not loaded.called


def test_what_changes_during_the_training_is_not_passed_on(
    spoilt: Path, trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept then."""
    monkeypatch.setattr("moemerge.train.prepare.check_weights", Mock())
    with pytest.raises(MoemergeError) as caught:
        trained(spoilt)
    assert "changed after the build, so nothing was kept" in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("gone", "how"), [(False, "changed after the build"), (True, "is gone")])
def test_a_file_that_changed_is_told_before_the_training(
    gone: bool, how: str, trained: Trainer, trio: Trio, tmp_path: Path
) -> None:
    """A chat template that was edited, say; only the card is yours to write."""
    folder = trio.build(tmp_path / "moe", gate={"init": "random"})
    (folder / "README.md").write_text("mine", encoding="utf-8")
    path = folder / "tokenizer_config.json"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    if not gone:
        path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(MoemergeError) as caught:
        trained(folder)
    assert (caught.value.message, caught.value.hint) == (
        f"`tokenizer_config.json` of `{folder}` {how}, so what is trained could not be checked",
        "put it back, and change it in the trained folder",
    )
    assert not list(tmp_path.glob("*.training.safetensors"))
    path.write_text(text, encoding="utf-8")
    assert trained(folder, steps=1).path.is_dir()


def test_no_steps_write_the_start(trained: Trainer) -> None:
    """`--steps 0`: the gate of the start, and no claim about a training."""
    result = trained(start="centroid", steps=0)
    assert (result.kept, result.training["steps"], result.change) == ("start", 0, (0.0, 0.0, 0.0))
    assert result.training["ended"] == "no steps were asked for"
    assert verify_folder(result.path).ok


def test_a_domain_that_got_worse_is_seen() -> None:
    """The mean may fall while one domain's loss rises beyond doubt."""
    tokens = {name: torch.full((6,), 10.0, dtype=torch.float64) for name in ("code", "math")}
    start = Judgement({name: 20 + torch.arange(6.0, dtype=torch.float64) for name in tokens}, tokens, torch.ones(2), 1)
    shifts = {"code": 1.0, "math": -8.0}
    end = Judgement({name: start.losses[name] + shifts[name] for name in tokens}, tokens, torch.ones(2), 1)
    assert end.rise_over(start, 0)[2] < 0
    assert end.worse_than(start, 0) == pytest.approx({"code": 0.1})
    assert start.worse_than(start, 0) == {}


def test_what_makes_a_domain_worse_is_not_kept(trained: Trainer, tmp_path: Path) -> None:
    """Math's texts are given to code's expert: math loses more than the mean gains, and nothing is kept."""
    given = {
        "code": sentences("code", 40, 5) + sentences("math", 80, 5),
        "math": [" ".join(reversed(text.split())) for text in sentences("french", 40, 6)],
        "french": sentences("french", 40, 8),
    }
    (tmp_path / "held").mkdir()
    data = write(tmp_path, **given)
    seen = {text for texts in given.values() for text in texts}
    others = {domain: [text for text in sentences(domain, 64, 17) if text not in seen] for domain in WORDS}
    held = write(tmp_path / "held", **others)
    notes = Notes()
    result = trained(data=data, held_out=held, steps=60, judge_every=60, rate=2e-2, progress=notes)
    lower = [look for look in result.training["history"][1:] if look["held_out"] < result.start.mean]
    assert lower
    assert all(look["worse"] == ["math"] for look in lower)
    assert not result.improved
    assert [warning.code for warning in result.warnings] == ["not-better", "refused-look"]
    assert any("; not kept, since `math` lost 0." in text for text in notes.said)

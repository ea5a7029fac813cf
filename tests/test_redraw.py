"""`reinitialise` and `copies`: channels drawn anew are those and no others, the same everywhere, and `verify` knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from safetensors.torch import load_file
from torch import Tensor

from moemerge.api import build, verify
from moemerge.execute import stream
from moemerge.execute.redraw import choose, redrawn
from moemerge.plan.model import Redraw
from moemerge.recipe import Recipe
from tests.conftest import TinyMaker
from tests.moe import build_tiny, load, logits, relative_error, some_tokens
from tests.sources.conftest import make_adapter
from tests.tiny import tiny_model

EXPERTS = "model.layers.{layer}.block_sparse_moe.experts.{expert}.{which}.weight"


def upcycled(base: Path, folder: Path, copies: int = 4, gate: str = "uniform", **fields: Any) -> Path:
    """The folder of a mixture of copies; `fields` are the expert's."""
    expert = {"name": "copy", "model": "base", "copies": copies, **fields}
    recipe = Recipe.model_validate({"base_model": str(base), "experts": [expert], "gate": {"init": gate}})
    return build(recipe, folder, root=folder.parent).path


def matrices(folder: Path, expert: int, layer: int = 0) -> dict[str, Tensor]:
    """One expert's, channels first."""
    found = load_file(folder / "model.safetensors")
    own = {which: found[EXPERTS.format(layer=layer, expert=expert, which=which)] for which in ("w1", "w2", "w3")}
    return {**own, "w2": own["w2"].T}


def test_the_same_channels_of_all_three_matrices_change_and_no_others(tiny: TinyMaker, tmp_path: Path) -> None:
    """A quarter of 48 channels in each expert and layer, others in each; the rest are the base's bytes."""
    base = tiny("llama", scale=4.0)
    out = upcycled(base, tmp_path / "out", reinitialise=0.25)
    dense = load_file(base / "model.safetensors")
    seen = set()
    for expert in range(4):
        for layer in range(2):
            own, mlp = matrices(out, expert, layer), f"model.layers.{layer}.mlp"
            source = {"w1": dense[f"{mlp}.gate_proj.weight"], "w3": dense[f"{mlp}.up_proj.weight"],
                      "w2": dense[f"{mlp}.down_proj.weight"].T}  # fmt: skip
            changed = {which: (own[which] != source[which]).any(dim=1) for which in own}
            assert all(torch.equal(changed[which], (own[which] != source[which]).all(dim=1)) for which in own)
            assert torch.equal(changed["w1"], changed["w2"])
            assert torch.equal(changed["w1"], changed["w3"])
            assert int(changed["w1"].sum()) == 12
            seen.add(tuple(changed["w1"].nonzero()[:, 0].tolist()))
    assert len(seen) == 8


def test_what_is_drawn_has_the_mean_and_deviation_of_what_was_there() -> None:
    """In each matrix its own, of the chosen channels alone, whose values differ from the others' here."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 4096, generator=generator)
    chosen = torch.from_numpy(choose(64, 16, 5))
    matrix[chosen] = 3.0 + 0.1 * matrix[chosen]
    made = torch.cat(list(redrawn(Redraw(16, "", 0), (64, 4096), (5, 6), lambda: matrix.split(10))))
    drawn = made[chosen]
    assert abs(float(drawn.mean()) - 3.0) < 0.002
    assert abs(float(drawn.std()) - 0.1) < 0.002
    assert float((drawn - matrix[chosen]).std()) > 0.13, "new values, not the old ones"
    standard = (drawn.double() - drawn.double().mean()) / drawn.double().std()
    assert abs(float((standard**4).mean()) - 3.0) < 0.1, "normal"


def test_numbers_are_the_same_everywhere() -> None:
    """However the rows come, and on any machine: these digests are of a CPU with AVX-512, and of one without AVX2."""
    generator = np.random.default_rng(1)
    matrix = torch.from_numpy(generator.random((24, 40), np.float32)).to(torch.bfloat16)
    digests = []
    for axis in (0, 1):
        made = [
            torch.cat(list(redrawn(Redraw(10, "", axis), (24, 40), (2, 3), lambda size=size: matrix.split(size))))
            for size in (24, 7, 1)
        ]
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0], made[2])
        digests.append(xxhash.xxh3_64_hexdigest(made[0].numpy().tobytes()))
    assert digests == ["4cce43e6ee50f057", "6ba50f8c9005df8d"]


def test_blocks_change_nothing(tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the same by blocks of a few rows."""
    base = tiny("llama", scale=4.0)
    one = upcycled(base, tmp_path / "one", 2, reinitialise=0.5)
    monkeypatch.setattr(stream, "BLOCK_ELEMENTS", 200)
    other = upcycled(base, tmp_path / "other", 2, reinitialise=0.5)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_plain_copies_are_the_dense_model(tiny: TinyMaker, tmp_path: Path) -> None:
    """Nothing drawn anew: whatever the gate says, the logits are the base's."""
    base = tiny("llama", scale=4.0)
    out, tokens = upcycled(base, tmp_path / "out"), some_tokens()
    assert relative_error(logits(load(out), tokens), logits(load(base), tokens)) <= 1e-6


@pytest.mark.parametrize("layout", ["per_expert", "fused"])
def test_it_goes_with_padding_noise_scale_and_adapters(layout: str, tmp_path: Path) -> None:
    """`verify` derives all of them, and finds the number that was changed."""
    base = tiny_model("llama", tmp_path / "base", scale=4.0)
    narrow = tiny_model("llama", tmp_path / "narrow", seed=1, scale=4.0, intermediate_size=40)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules="all-linear", r=3)
    drawn = {"reinitialise": 0.3}
    out = build_tiny(
        tmp_path / "out", base, [base, narrow, adapter], output={"layout": layout},
        expert_0={**drawn, "noise_scale": 0.01}, expert_1={**drawn, "pad": True},
        expert_2={**drawn, "residual_scale": 0.7},
    )  # fmt: skip
    assert verify(out).differences == ()
    file = out / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-37] ^= 0x40
    file.write_bytes(data)
    assert not verify(out).ok


def test_a_number_that_was_drawn_otherwise_is_found(tiny: TinyMaker, tmp_path: Path) -> None:
    """Another seed's draws are not these, although the record's digests are mended too."""
    base = tiny("llama", scale=4.0)
    out = upcycled(base, tmp_path / "out", 2, reinitialise=0.5)
    other = upcycled(base, tmp_path / "other", 2, reinitialise=0.5, weight=1.0)
    assert (out / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    text = (out / "moemerge.yaml").read_text(encoding="utf-8")
    assert "\n  seed: 0\n" in text
    (out / "moemerge.yaml").write_text(text.replace("\n  seed: 0\n", "\n  seed: 1\n"), encoding="utf-8")
    found = [difference.message for difference in verify(out).differences]
    assert len(found) == 12
    assert all("with 50% of its channels drawn anew" in message for message in found)


def test_a_fitted_gate_may_go_with_it(tiny: TinyMaker, tmp_path: Path) -> None:
    """Experts of their own prompts are run as they were before channels were drawn, and the folder is right."""
    base = tiny("llama", scale=4.0)
    fields = {"gate": {"init": "centroid", "expand": "off"}, "expert_0": {"reinitialise": 0.5}}
    assert verify(build_tiny(tmp_path / "out", base, [base, tiny("llama", 1, scale=4.0)], **fields)).ok


def test_128_experts(tiny: TinyMaker, tmp_path: Path) -> None:
    """As many as the issue asks for: built, checked, loaded, and named by a few words in the card."""
    out = upcycled(tiny("llama", scale=4.0), tmp_path / "out", 128, reinitialise=0.5)
    assert verify(out, strict=True).ok
    assert torch.isfinite(logits(load(out), some_tokens())).all()
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "copy-8, 120 others" in card
    assert len(card.splitlines()) < 85  # 80 before each runtime had its name above its commands

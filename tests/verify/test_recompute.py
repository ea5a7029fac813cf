"""The second derivation of the arithmetic gives what the first gives, and knows where rounding may decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moemerge.execute import merge
from moemerge.sources import Checkpoint, open_checkpoint
from moemerge.verify import recompute
from moemerge.verify.expected import Merge, One, random_seed
from moemerge.verify.reading import OpenFiles
from moemerge.verify.recompute import Recomputation

SHAPE = (40, 24)
WEIGHTS = (0.3, 1.0, 2.5)
SEEDS = (11, 12, 13)


def models_of(folder: Path, tensors: Sequence[torch.Tensor]) -> dict[str, Checkpoint]:
    """One checkpoint a tensor, `base` first."""
    models = {}
    for key, tensor in zip(("base", "a", "b", "c"), tensors, strict=False):
        (folder / key).mkdir()
        (folder / key / "config.json").write_text('{"model_type": "llama"}')
        save_file({"w": tensor}, folder / key / "model.safetensors", metadata={"format": "pt"})
        models[key] = open_checkpoint(key, root=folder)
    return models


def tensors(dtype: torch.dtype, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(SHAPE, generator=generator).to(dtype) for _ in range(count)]


def merged(models: dict[str, Checkpoint], method: str, sources: Sequence[str], **change: float) -> np.ndarray:
    values = {"scaling": 0.7, "t": 0.3, "density": 0.4, **change}
    part = Merge(method, tuple(sources), "w", SHAPE, WEIGHTS[: len(sources)], seeds=SEEDS[: len(sources)], **values)  # type: ignore[arg-type]  # a literal in the class
    return whole(models, part)


def whole(models: dict[str, Checkpoint], part: Merge | One) -> np.ndarray:
    files = OpenFiles()
    blocks = [block.values for block in Recomputation(models, files).blocks(part, "F32")]
    files.close()
    return np.concatenate(blocks)


@pytest.mark.parametrize("block", [1 << 17, 100], ids=["one block", "blocks of 4 rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_derivations_agree(
    dtype: torch.dtype, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every method, from every dtype, whole or in blocks of rows."""
    monkeypatch.setattr(recompute, "SMALL_BLOCK", block)
    stored = tensors(dtype)
    base, *sources = [tensor.double() for tensor in stored]
    models = models_of(tmp_path, stored)
    expected = {
        "mean": merge.mean(sources, (1.0, 1.0, 1.0)),
        "weighted": merge.mean(sources, WEIGHTS),
        "task_arithmetic": merge.task_arithmetic(base, sources, WEIGHTS, 0.7),
        "ties": merge.ties(base, sources, WEIGHTS, 0.4, 0.7),
        "dare_ties": merge.dare_ties(base, sources, WEIGHTS, 0.4, 0.7, SEEDS),
    }
    for method, value in expected.items():
        np.testing.assert_allclose(merged(models, method, "abc"), value.numpy(), rtol=1e-11, atol=1e-13, err_msg=method)
    slerp = merge.slerp(sources[0], sources[1], 0.3).numpy()
    np.testing.assert_allclose(merged(models, "slerp", "ab"), slerp, rtol=1e-11, atol=1e-13)


def test_slerp_of_parallel_and_of_zero_tensors_is_linear(tmp_path: Path) -> None:
    """Where there is no angle to go along."""
    one = tensors(torch.float32, 1)[0]
    models = models_of(tmp_path, [one, one, 3 * one, torch.zeros(SHAPE)])
    np.testing.assert_allclose(merged(models, "slerp", "ab"), (one.double() * 1.6).numpy(), rtol=1e-6)
    np.testing.assert_allclose(merged(models, "slerp", "ac"), (one.double() * 0.7).numpy(), rtol=1e-12)


def test_trimming_keeps_equal_magnitudes(tmp_path: Path) -> None:
    """All deltas of the threshold's size stay, however many."""
    base = torch.zeros(SHAPE)
    source = torch.full(SHAPE, 0.5)
    source[0, 0] = 2.0
    models = models_of(tmp_path, [base, source])
    np.testing.assert_array_equal(merged(models, "ties", "a", scaling=1.0, density=0.01), source.numpy())


def test_an_election_that_rounding_decides_has_three_results(tmp_path: Path) -> None:
    """0.1 + 0.2 − 0.3 is not 0 in fp64; either sign, and none, is accepted there, and nowhere else."""
    base = torch.zeros(SHAPE)
    one, minus = torch.ones(SHAPE), -torch.ones(SHAPE)
    minus[0, 0] = 1.0
    models = models_of(tmp_path, [base, one, one, minus])
    part = Merge("ties", ("a", "b", "c"), "w", SHAPE, (0.1, 0.2, 0.3), 1.0, 0.5, 1.0, (0, 0, 0))
    files = OpenFiles()
    (block,) = Recomputation(models, files).blocks(part, "F32")
    files.close()
    assert {float(other[3, 3]) for other in block.others} == {1.0, -1.0, 0.0}
    assert {float(other[0, 0]) for other in block.others} == {float(block.values[0, 0])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_source_is_padded_and_scaled(dtype: torch.dtype, tmp_path: Path) -> None:
    """Zeros at the end of both dimensions."""
    models = models_of(tmp_path, tensors(dtype, 1))
    value = whole(models, One("base", "w", (48, 32), scale=0.5))
    expected = torch.nn.functional.pad(tensors(dtype, 1)[0].double() * 0.5, (0, 8, 0, 8))
    np.testing.assert_array_equal(value, expected.numpy())


def test_noise_has_the_documented_seed(tmp_path: Path) -> None:
    """xxh3-64 of `seed:source:name` without its lowest bit, drawn by torch in fp32."""
    import xxhash

    seed = xxhash.xxh3_64_intdigest(b"7:base:w") >> 1
    assert random_seed(7, "base", "w") == seed
    (source,) = tensors(torch.float32, 1)
    models = models_of(tmp_path, [source])
    noise = 0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    value = whole(models, One("base", "w", SHAPE, noise=0.1, seed=seed))
    np.testing.assert_array_equal(value, (source + noise).double().numpy())

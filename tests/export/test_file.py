"""What an exported file holds, read by the `gguf` library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.export import Exported
from moemerge.export import pieces as room
from moemerge.families.gguf_form import paired
from moemerge.record.read import record_digest
from tests.export.conftest import Mixture


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and dequantised tensors."""
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    found = {}
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[str(tensor.name)] = torch.from_numpy(np.array(data)).reshape(*map(int, reversed(tensor.shape)))
    return values, found


@pytest.mark.parametrize("layout", ["per_expert", "fused"])
@pytest.mark.parametrize("block", [1, 1 << 23])
def test_every_tensor_is_the_folders(
    layout: str, block: int, mixture: Mixture, exported: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit in F32, whatever the blocks; q and k in llama.cpp's order, experts stacked."""
    monkeypatch.setattr(room, "BLOCK", block)
    folder = mixture("llama", output={"layout": layout})
    values, found = read(exported(folder).path)
    assert values["moemerge.record"] == record_digest(folder)
    state = load_file(folder / "model.safetensors")
    prefix = "model.layers.1."
    assert torch.equal(found["token_embd.weight"], state["model.embed_tokens.weight"])
    assert torch.equal(found["output.weight"], state["lm_head.weight"])
    assert torch.equal(found["blk.1.attn_v.weight"], state[prefix + "self_attn.v_proj.weight"])
    assert torch.equal(found["blk.1.ffn_gate_inp.weight"], state[prefix + "block_sparse_moe.gate.weight"])
    head = state[prefix + "self_attn.q_proj.weight"][:16]
    assert torch.equal(found["blk.1.attn_q.weight"][:16], torch.stack([head[:8], head[8:]], 1).reshape(16, 64))
    for number in range(3):
        for name, short in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            stacked = found[f"blk.1.ffn_{name}_exps.weight"][number]
            if layout == "fused":
                both = state[prefix + "mlp.experts.gate_up_proj"][number]
                own = {"gate": both[:96], "up": both[96:], "down": state[prefix + "mlp.experts.down_proj"][number]}[
                    name
                ]
            else:
                own = state[f"{prefix}block_sparse_moe.experts.{number}.{short}.weight"]
            assert torch.equal(stacked, own)
    assert len(found) == 3 + 2 * 10


def test_pairs_are_halves_interleaved() -> None:
    """Row s D/2 + j of a head becomes row 2 j + s."""
    rows = np.arange(12, dtype=np.float32).reshape(12, 1)
    assert paired(rows, 6).ravel().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_norms_and_routers_are_f32_whatever_the_type(mixture: Mixture, exported: Callable[..., Exported]) -> None:
    """llama.cpp reads them so; matrices have the type, but where a row is no whole number of blocks."""
    path = exported(mixture("llama", {"intermediate_size": 48, "dtype": "bfloat16"}), "q8_0").path
    kinds = {str(tensor.name): tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert {kinds[f"blk.0.{name}.weight"] for name in ("attn_norm", "ffn_norm", "ffn_gate_inp")} == {"F32"}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == kinds["blk.0.ffn_up_exps.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_down_exps.weight"] == "F16"


def test_the_metadata(mixture: Mixture, exported: Callable[..., Exported]) -> None:
    """Sizes, experts, tokens and their kinds."""
    values, _ = read(exported(mixture("qwen2", architecture="qwen2_moe")).path)
    assert values["general.architecture"] == "llama"
    assert (values["llama.expert_count"], values["llama.expert_used_count"]) == (3, 2)
    assert (values["llama.attention.head_count"], values["llama.attention.head_count_kv"]) == (4, 2)
    assert values["llama.expert_feed_forward_length"] == 96
    assert (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]) == ("gpt2", "smollm")
    assert (values["tokenizer.ggml.eos_token_id"], values["tokenizer.ggml.add_bos_token"]) == (2, False)
    assert len(values["tokenizer.ggml.tokens"]) == 400
    assert values["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert values["tokenizer.ggml.token_type"][-1] == 5


def test_the_command(mixture: Mixture, tmp_path: Path) -> None:
    """As a user runs it; the Modelfile names the file beside it."""
    folder = mixture("llama")
    target = tmp_path / "my model.gguf"
    done = CliRunner().invoke(app, ["export", str(folder), "--gguf", str(target), "--type", "bf16", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["bytes"] == target.stat().st_size
    text = Path(said["modelfile"]).read_text(encoding="utf-8")
    assert text.startswith('FROM ./my model.gguf\nPARAMETER num_ctx 256\nPARAMETER stop "</s>"\n')
    again = CliRunner().invoke(app, ["export", str(folder), "--gguf", str(target)])
    assert (again.exit_code, again.stderr.splitlines()[0]) == (1, f"error: `{target}` exists")


def test_no_torch_is_loaded(mixture: Mixture, tmp_path: Path) -> None:
    """Numbers are numpy's: torch takes seconds to load, and memory."""
    program = (
        "import sys; from moemerge.__main__ import main\n"
        f"sys.argv = ['moemerge', 'export', {str(mixture('llama'))!r}, '--gguf', {str(tmp_path / 'm.gguf')!r}, '-q']\n"
        "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["0 False"], done.stderr


def test_what_a_killed_export_left_is_named_and_removed(mixture: Mixture, tmp_path: Path) -> None:
    """As a build does: before it looks whether there is room."""
    target = tmp_path / "m.gguf"
    left = [tmp_path / f".{name}.moemerge-0123abcd.part" for name in ("m.gguf", "m.gguf.Modelfile")]
    for path in left:
        path.write_bytes(b"half")
    done = CliRunner().invoke(app, ["export", str(mixture("llama")), "--gguf", str(target)])
    assert done.exit_code == 0, done.output
    for path in left:
        assert f"removed `{path.name}`, left by a run that was killed" in " ".join(done.stderr.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "m.gguf.Modelfile"]

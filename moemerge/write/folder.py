"""Everything in the output folder that is not weights, and the order in which it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from moemerge.console import Progress
from moemerge.plan.cost import statistics_bytes
from moemerge.plan.model import Plan
from moemerge.plan.output_files import output_files
from moemerge.record.read import NAME
from moemerge.record.write import dump_record
from moemerge.write.card import model_card
from moemerge.write.shards import index_json, lay_out, parse_size
from moemerge.write.weights import Written, write_weights

if TYPE_CHECKING:
    from moemerge.execute.blocks import Gates

_OWN = frozenset({"config.json", "README.md", NAME, "model.safetensors.index.json"})


def write_folder(
    folder: Path,
    plan: Plan,
    gates: Gates,
    *,
    output: Path,
    record: Mapping[str, Any],
    extra: Mapping[str, bytes],
    progress: Progress,
    written: Written,
) -> None:
    """Fills a staged folder: weights, index, config, tokenizer, extra files, model card, record.

    Args:
        folder: the staged folder, empty.
        plan: what to write.
        gates: the router's weights `[L, E, hidden]`, fp32.
        output: the final folder, for the card.
        record: from `make_record`; the digests are added.
        extra: more files by relative path, such as the texts that the specialists wrote.
        progress: is told bytes.
        written: is told of every tensor; see `write_weights`.

    Raises:
        SourceError: a source is damaged.
        OSError: the disk is full, or fails.
    """
    shards = lay_out(plan.tensors, parse_size(plan.recipe.output.shard_size))
    digests = write_weights(folder, shards, plan, gates, progress, written)
    files: dict[str, bytes] = {"config.json": (json.dumps(plan.config, indent=2) + "\n").encode()}
    if len(shards) > 1:
        files["model.safetensors.index.json"] = index_json(shards).encode()
    files |= {name: data for name, data in output_files(plan).items() if _kept(name)}
    files |= extra
    files["README.md"] = model_card(plan, record["gate"], output.name, record.get("near")).encode()
    for name, data in files.items():
        _write(folder / name, data)
    recorded = {name: xxhash.xxh3_128_hexdigest(data) for name, data in sorted(files.items())}
    _write(folder / NAME, dump_record({**record, "files": recorded, "tensors": digests}).encode())


def _kept(name: str) -> bool:
    return name not in _OWN and not name.startswith("README")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def needed_bytes(plan: Plan) -> int:
    """Bytes that the output folder will take, a megabyte allowed for what is not weights."""
    copies = sum(map(len, output_files(plan).values()))
    headers = sum(len(tensor.name) + 96 for tensor in plan.tensors)
    return plan.bytes.total + statistics_bytes(plan) + copies + 3 * headers + (1 << 20)

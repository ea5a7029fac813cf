"""The attention that trains on a CPU beside torch's own: one layer of the demo, forward and backward, in bf16.

    python benchmarks/train_attention.py                         # 2,048 tokens in rows of 256 to 2,048; half a minute
    python benchmarks/train_attention.py --block 64              # another number of queries at a time

Rows hold one document or four. Both are given the same mask and take turns; medians are compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from turns import medians

from moemerge.train import attention

HEADS, SHARED, SIZE = 9, 3, 64


def step(attend: Callable[..., Tensor], inputs: tuple[Tensor, ...], slope: Tensor) -> Callable[[], None]:
    """One pass forward and backward."""
    return lambda: torch.autograd.backward(attend(*inputs), slope)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="The attention that trains, beside torch's.")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 512, 1024, 2048], help="lengths of rows")
    parser.add_argument("--block", type=int, default=attention.BLOCK)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    attention.BLOCK = arguments.block
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {arguments.tokens} tokens\n")
    print("| length | documents a row | blocks, ms | torch, ms |\n|---|---|---|---|")
    for length in arguments.rows:
        for documents in (1, 4):
            count = max(arguments.tokens // length, 1)
            query, key, value, slope = (
                torch.randn(count, length, heads, SIZE, dtype=torch.bfloat16).transpose(1, 2).requires_grad_(trained)
                for heads, trained in ((HEADS, True), (SHARED, True), (SHARED, True), (HEADS, False))
            )
            own = torch.arange(length) * documents // length
            allowed = (torch.ones(length, length, dtype=torch.bool).tril() & (own[:, None] == own)).expand(
                count, 1, -1, -1
            )
            mask = torch.zeros(allowed.shape, dtype=torch.bfloat16).masked_fill(
                ~allowed, torch.finfo(torch.bfloat16).min
            )

            def ours(query: Tensor, key: Tensor, value: Tensor, mask: Tensor = mask) -> Tensor:
                return attention._Rows.apply(query, key, value, mask, SIZE**-0.5)  # type: ignore[no-any-return, no-untyped-call]

            def theirs(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor = allowed) -> Tensor:
                return functional.scaled_dot_product_attention(query, key, value, allowed, enable_gqa=True)

            ways = {name: step(way, (query, key, value), slope) for name, way in (("ours", ours), ("theirs", theirs))}
            found = medians(ways, arguments.runs)
            print(f"| {length} | {documents} | {found['ours'] * 1e3:.1f} | {found['theirs'] * 1e3:.1f} |")


if __name__ == "__main__":
    main()

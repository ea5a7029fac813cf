"""Gates of classes whose scores are sigmoids: small enough that scores neither end at 1, where they tie, nor vanish.

A softmax tells large logits apart; a sigmoid of 17 and one of 20 are both 1 in fp32, and in bf16 those of 6 are. Where
a class adds a small number to the sum of the chosen scores, tiny ones are as bad. Which single expert is chosen does
not hang on a common factor, so a gate of one expert per token may have any size; and a gate that looked at no text has
none to keep.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moemerge.gate.blank import BlankGate
from moemerge.gate.request import GateFit

LONGEST = 1.0
"""A gate's longest row, no longer: over inputs of unit size a token's logits are then about so large."""


def tempered(gate: GateFit | BlankGate, experts_per_token: int) -> GateFit | BlankGate:
    """The same gate, each layer times a power of two where its longest row is too long and its size is free."""
    if experts_per_token > 1 and not isinstance(gate, BlankGate):
        return gate
    longest = np.linalg.norm(np.asarray(gate.weights, np.float32), axis=2).max(axis=1)  # [L, E, d] -> [L]
    factors = [float(2.0 ** -max(np.ceil(np.log2(length / LONGEST)), 0.0)) if length > 0 else 1.0 for length in longest]
    weights = gate.weights * 1.0
    for layer, factor in enumerate(factors):
        weights[layer] *= factor
    scale = tuple(own * factor for own, factor in zip(gate.scale, factors, strict=True)) if gate.scale else ()
    return replace(gate, weights=weights, scale=scale)  # type: ignore[arg-type]  # both have such fields

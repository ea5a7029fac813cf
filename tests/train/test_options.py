"""What a start is decides rate and labels: how the gate was built, and what its trainings made of it."""

from __future__ import annotations

from typing import Any

import pytest

from moemerge.train.options import LOST_RATES, LOST_WEIGHT, RATE, TrainOptions, kind_of_gate


def training(start: str = "fitted", kept: str = "best", **options: Any) -> dict[str, Any]:
    """A record's entry, as far as it counts."""
    return {"options": {"start": start, **options}, "kept": kept}


@pytest.mark.parametrize(
    ("built", "trainings", "kind"),
    [
        ("random", [], "random"),
        ("random", [training()], "trained"),
        ("random", [training(kept="start")], "random"),
        ("random", [training(kept="start", calibrate=True)], "discriminant"),
        ("random", [training(kept="start", calibrate=False)], "random"),
        ("random", [training(distil_weight=0.5, temperature=2.0)], "trained"),
        ("discriminant", [training()], "discriminant"),
        ("discriminant", [training("random")], "trained"),
        ("discriminant", [training("random", "start")], "random"),
        ("centroid", [training("lda"), training()], "lda"),
        ("uniform", [training(), training("uniform", "start")], "uniform"),
    ],
)
def test_a_trained_gate_counts_as_what_it_became(built: str, trainings: list[dict[str, Any]], kind: str) -> None:
    """A lost gate that was trained routes; one that was kept as it was does not.

    Older records have options that were deleted too.
    """
    assert kind_of_gate(built, trainings) == kind


def test_rates_and_labels_follow() -> None:
    """High ones for a lost start, what the user says in any case."""
    lost, found = TrainOptions().resolved("random"), TrainOptions().resolved("trained")
    assert (lost.learning_rate, lost.label_weight) == (LOST_RATES["lora"], LOST_WEIGHT)
    assert (found.learning_rate, found.label_weight) == (RATE, 0.0)
    own = TrainOptions(rate=0.5, domain_weight=0.3).resolved("random")
    assert (own.learning_rate, own.label_weight) == (0.5, 0.3)
    assert [TrainOptions().places_first(kind) for kind in ("discriminant", "trained")] == [True, False]

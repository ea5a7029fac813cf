"""What a verification found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moemerge.errors import Difference


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify_folder`.

    Attributes:
        checked: how much was looked at: `tensors`; `bytes` of them that were read; `files` besides; tensors that were
            compared with their source's bytes (`copied`); tensors computed again (`recomputed`).
        differences: everything that is wrong.
        notes: what could not be checked, and why.
    """

    checked: Mapping[str, int]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.differences


def verification_json(verification: Verification) -> dict[str, Any]:
    """The outcome for programs: `ok`, `checked`, `differences[] {where, message}`, `notes[]`."""
    return {
        "ok": verification.ok,
        "checked": dict(verification.checked),
        "differences": [{"where": d.where, "message": d.message} for d in verification.differences],
        "notes": list(verification.notes),
    }

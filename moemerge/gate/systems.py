"""Symmetric systems at several ridges: factorised in fp32, solved to fp64.

A factor in fp32 takes half as long as one in fp64. The solution is corrected by its fp64 residual until it is that of
fp64 (mixed-precision iterative refinement, as LAPACK's `dsposv`).
"""

from __future__ import annotations

import torch
from torch import Tensor

CORRECTIONS = 4
"""Corrections of an fp32 solution that are worth an fp64 factorisation."""

STEP = 768
"""Rows of a factor that are taken at once: LAPACK alone takes up to twice as long from two of these on."""

EXACT = 1e-12
"""The share of itself by which a corrected solution may still be off: what is left to fp64 in practice."""


class System:
    """`(A + λ tr(A)/d I) x = b`, for any λ; what does not hang on λ is made once.

    Args:
        matrix: A, `[n, n]`, fp64, symmetric and not negative.
        width: d, where A is in the coordinates of a span of fewer dimensions; n where None.
    """

    def __init__(self, matrix: Tensor, width: int | None = None) -> None:
        self._matrix, self._tiny = matrix, torch.finfo(matrix.dtype).tiny
        self._unit = (matrix.diagonal().sum() / (width or len(matrix))).clamp(min=self._tiny)
        # in these units fp32 holds it, however large or small the hidden states are
        self._single = torch.div(matrix, self._unit, out=torch.empty_like(matrix, dtype=torch.float32))
        self._diagonal = self._single.diagonal().clone()

    def solve(self, ridge: float, rows: Tensor) -> Tensor:
        """The solutions `[C, n]`, fp64, to right-hand sides `[C, n]`.

        Args:
            ridge: λ, in units of the mean eigenvalue tr(A)/d.
            rows: fp64.
        """
        ridge, wanted = max(ridge, self._tiny), rows.T / self._unit
        solution = self._refined(ridge, wanted)
        if solution is None:
            regularised = self._matrix / self._unit
            regularised.diagonal().add_(ridge)
            solution = torch.cholesky_solve(wanted, torch.linalg.cholesky(regularised))
        return solution.T

    def _refined(self, ridge: float, wanted: Tensor) -> Tensor | None:
        """The solution `[n, C]` from a factor in fp32; None where that is too far off.

        The first correction tells the relative error of a solve by the factor, and each correction leaves that share
        of the error before it.
        """
        torch.add(self._diagonal, ridge, out=self._single.diagonal())
        factor = _factor(self._single)
        if factor is None:
            return None
        solution = _by_factor(factor, wanted)
        share = 0.0
        for corrections in range(1, CORRECTIONS + 1):
            residual = wanted - self._matrix @ (solution / self._unit) - ridge * solution
            correction = _by_factor(factor, residual)
            solution += correction
            if corrections == 1:
                share = float(correction.norm() / solution.norm().clamp(min=self._tiny))
            if share ** (corrections + 1) <= EXACT:
                return solution
        return None


def _factor(matrix: Tensor) -> Tensor | None:
    """The lower Cholesky factor; None where the matrix is not positive. Above its diagonal there may be anything."""
    if len(matrix) <= STEP:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if failed else factor
    factor = matrix.clone()
    for start in range(0, len(matrix), STEP):
        here, rest = slice(start, start + STEP), slice(start + STEP, None)
        corner, failed = torch.linalg.cholesky_ex(factor[here, here])
        if failed:
            return None
        factor[here, here] = corner
        below = torch.linalg.solve_triangular(corner.T, factor[rest, here], upper=True, left=False)
        factor[rest, here] = below
        factor[rest, rest].addmm_(below, below.T, alpha=-1)
    return factor


def _by_factor(factor: Tensor, wanted: Tensor) -> Tensor:
    """Two triangular solves in fp32, `[n, C]` to fp64; `cholesky_solve` copies the factor first."""
    forward = torch.linalg.solve_triangular(factor, wanted.float(), upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.T, forward, upper=True).double()
    return solution

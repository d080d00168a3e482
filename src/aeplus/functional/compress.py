"""The sum of updates of one weight as a single pair of factors, of as little rank as wanted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional.solve import LowRankUpdate


def compress(
    updates: Sequence[LowRankUpdate], rank: int | None = None, tolerance: float = 1e-6
) -> tuple[LowRankUpdate, float]:
    """The best approximation of a sum of updates by factors `B A`, in float64 within.

    With the singular value decomposition `Σ Δ_i = U diag(s) Vᵀ`, `B = U_r diag(√s_r)` and `A = diag(√s_r) V_rᵀ` (the
    form in which LoRA keeps a change of a weight, https://arxiv.org/abs/2106.09685). By Eckart and Young no other
    factors of that rank come closer. Where nothing is masked and the factors are thin, only matrices of their rank are
    decomposed.

    Args:
        updates: Updates `[o, d]` of the same weight, at least one.
        rank: The rank; by default the smallest that loses at most `tolerance`.
        tolerance: Largest `‖Σ Δ_i − B A‖ / ‖Σ Δ_i‖` (Frobenius).

    Returns:
        The factors, `[o, r]` and `[r, d]` with r of at least 1, in the updates' dtype and on their device, and the
        relative error `‖Σ Δ_i − B A‖ / ‖Σ Δ_i‖`, 0 where the sum is 0.

    Raises:
        InputError: If there is no update, or the rank is below 1, or the tolerance is not in [0, 1).

    Example:
        >>> import torch
        >>> a = LowRankUpdate(torch.ones(3, 1), torch.ones(1, 4))
        >>> joined, lost = compress([a, a])
        >>> joined.rank, torch.allclose(joined.dense(), 2 * torch.ones(3, 4)), lost < 1e-6
        (1, True, True)
    """
    if not updates:
        message = "expected at least one update, got none; give some."
        raise InputError(message)
    if rank is not None and rank < 1:
        message = f"expected a rank of at least 1, got {rank}; raise it."
        raise InputError(message)
    if not 0 <= tolerance < 1:
        message = f"expected a tolerance from 0 to below 1, got {tolerance}; choose a small one such as 1e-6."
        raise InputError(message)
    dtype = updates[0].left.dtype
    left, values, right = _decompose([update.to(torch.float64) for update in updates])
    squares = values.square()
    total = squares.sum()
    behind = torch.cat([squares.flip(0).cumsum(0).flip(0)[1:], squares.new_zeros(1)])  # lost with 1, 2, … values kept
    if rank is None:
        enough = torch.nonzero(behind <= tolerance**2 * total)
        rank = int(enough[0]) + 1 if len(enough) else len(values)
    kept = min(rank, len(values))
    lost = float((squares[kept:].sum() / total).sqrt()) if kept < len(values) and total > 0 else 0.0
    root = values[:kept].sqrt()
    return LowRankUpdate((left[:, :kept] * root).to(dtype), (root[:, None] * right[:kept]).to(dtype)), lost


def _decompose(updates: Sequence[LowRankUpdate]) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = updates[0].left.shape[0], updates[0].right.shape[1]
    thin = sum(update.rank for update in updates) < min(rows, columns)
    if not thin or any(update.mask is not None for update in updates):
        total = updates[0].dense()
        for update in updates[1:]:
            total = total + update.dense()
        return torch.linalg.svd(total, full_matrices=False)
    q_left, r_left = torch.linalg.qr(torch.cat([update.left for update in updates], 1))
    q_right, r_right = torch.linalg.qr(torch.cat([update.right for update in updates]).T)
    inner_left, values, inner_right = torch.linalg.svd(r_left @ r_right.T)
    return q_left @ inner_left, values, inner_right @ q_right.T

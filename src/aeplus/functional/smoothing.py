"""Target smoothing: edits with a large residual approach their target step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_shape, working_dtype


def smoothing_coefficients(
    residual_norms: Tensor,
    t: int,
    T: int,
    threshold: float | Tensor,
) -> Tensor:
    """How far iteration `t` moves each target back toward the current value: `v^t = v + β(t) (v0 - v)`.

    `β(t) = (T - t) / 2T` for edits with `‖r‖ > τ_r`, 0 for the others: ½ at first, 0 at the last iteration.

    Args:
        residual_norms: `‖r_i‖`, `[n]`.
        t: Iteration, from 0 to `T`.
        T: The last iteration, at least 1.
        threshold: `τ_r`, a number or a scalar tensor such as `smoothing_threshold` returns.

    Returns:
        `β(t)`, `[n]`, in the dtype of `residual_norms`.

    Raises:
        InputError: If `T < 1`, or `t` is not between 0 and `T`.
    """
    check_shape("residual_norms", residual_norms, (None,), "one norm per edit, [n]")
    if T < 1:
        message = f"expected T of at least 1 smoothing iteration, got {T}; raise T, or turn smoothing off."
        raise InputError(message)
    if not 0 <= t <= T:
        message = f"expected t between 0 and T = {T}, got {t}; count the smoothing iterations from 0."
        raise InputError(message)
    return (residual_norms > threshold).to(residual_norms.dtype) * ((T - t) / (2 * T))


def smoothing_threshold(residual_norms: Tensor, share: float = 0.2) -> Tensor:
    """`τ_r` as a quantile of the batch, so that about the given share of the edits lies above it.

    Args:
        residual_norms: `‖r_i‖`, `[n]`.
        share: The share of edits to smooth, from 0 to 1.

    Returns:
        The `1 - share` quantile (linear between two norms), a scalar in the dtype of `residual_norms`.

    Raises:
        InputError: If there is no edit, or `share` is not between 0 and 1.
    """
    check_shape("residual_norms", residual_norms, (None,), "one norm per edit, [n]")
    if not residual_norms.numel():
        message = "expected at least one edit in residual_norms, got none; pass a batch that is not empty."
        raise InputError(message)
    if not 0 <= share <= 1:
        message = f"expected share between 0 and 1, got {share}; pass 0.2 for the top 20 %."
        raise InputError(message)
    norms = residual_norms.to(working_dtype(residual_norms))
    return torch.quantile(norms, 1 - share).to(residual_norms.dtype)

"""The second moment of earlier keys: all that a linear system needs of them, however many they are."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from aeplus.functional._checks import check_finite, check_shape, working_dtype

_COLUMNS = 2048  # keys cast at a time
_BANDS = 4  # of rows: only those on and below the diagonal are computed, 5/8 of the products


def add_moment(moment: Tensor, keys: Tensor, weights: Tensor | None = None) -> Tensor:
    """Add `K Λ Kᵀ` to a symmetric matrix, in place and in its dtype.

    Args:
        moment: `[d, d]`.
        keys: `K`, `[d, m]`.
        weights: The diagonal of `Λ`, `[m]`; ones by default. They may be negative.

    Returns:
        `moment`, symmetric to the bit.

    Raises:
        InputError: If a shape does not fit, or a key is not finite.
    """
    d = moment.shape[0]
    check_shape("moment", moment, (d, d), "a symmetric matrix [d, d]")
    check_shape("keys", keys, (d, None), "one key of d inputs per column, [d, m]")
    check_finite("keys", keys)
    if weights is not None:
        check_shape("weights", weights, (keys.shape[1],), "one weight per key, [m]")
    edges = [d * band // _BANDS for band in range(_BANDS + 1)]
    for start in range(0, keys.shape[1], _COLUMNS):
        wide = keys[:, start : start + _COLUMNS].to(moment.dtype)
        scaled = wide if weights is None else wide * weights[start : start + _COLUMNS].to(moment.dtype)
        for low, high in pairwise(edges):
            moment[low:high, :high].addmm_(scaled[low:high], wide[:high].T)
    for low, high in pairwise(edges):
        moment[:low, low:high] = moment[low:high, :low].T
        block = moment[low:high, low:high].tril()
        moment[low:high, low:high] = block + block.tril(-1).T
    return moment


def weighted_moment(blocks: Iterable[Tensor], weights: Tensor, whole: Tensor) -> Tensor:
    """`Kp Λp Kpᵀ`, from `Kp Kpᵀ` where most weights are 1.

    Where less than half of the weights differ from 1, `Kp Kpᵀ` is corrected by their keys alone; without any it is
    returned as it is.

    Args:
        blocks: `Kp` in parts, `[d, m_i]` each.
        weights: The diagonal of `Λp`, `[m]`.
        whole: `Kp Kpᵀ`, `[d, d]`, in the dtype to compute in.

    Returns:
        `[d, d]`; it may be `whole` itself and is not to be written to.

    Raises:
        InputError: If a shape does not fit, or a key is not finite.
    """
    other = weights != 1
    count = int(other.sum())
    if not count:
        return whole
    few = 2 * count < weights.numel()
    moment, start = whole.clone() if few else torch.zeros_like(whole), 0
    for block in blocks:
        own, differs = weights[start : start + block.shape[1]], other[start : start + block.shape[1]]
        start += block.shape[1]
        if not few:
            add_moment(moment, block, own)
        elif bool(differs.any()):
            add_moment(moment, block[:, differs], own[differs] - 1)
    return moment


def moment_factor(moment: Tensor) -> Tensor:
    """Columns with a given second moment: `L` with `L Lᵀ = M`, as few as its rank.

    What depends on keys through `K Kᵀ` only is the same for these `r ≤ d` columns.

    Args:
        moment: `M`, symmetric and positive semidefinite up to rounding, `[d, d]`.

    Returns:
        `[d, r]`, in the dtype of `moment`, or float32 if that is wider.

    Raises:
        InputError: If `moment` is not square or not finite.
    """
    check_shape("moment", moment, (moment.shape[0], moment.shape[0]), "a symmetric matrix [d, d]")
    check_finite("moment", moment)
    wide = moment.to(working_dtype(moment))
    values, vectors = torch.linalg.eigh(wide)
    least = torch.finfo(wide.dtype).eps * len(values) * values[-1:].clamp(min=0)
    kept = values > least
    return vectors[:, kept] * values[kept].sqrt()

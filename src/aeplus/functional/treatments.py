"""Treatments of a finished update.

Keep its largest relative changes (RECT), damp its singular values (PRUNE), or keep it out of the weight's main
directions (SPHERE, REVIVE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_number, check_shape, working_dtype
from aeplus.functional.basis import project_out
from aeplus.functional.solve import LowRankUpdate

# Of the largest square: directions below lose more than 1e-12 by squaring, and are found without.
_SQUARED = 1e-4


def sparsify(update: LowRankUpdate, weight: Tensor, share: float) -> LowRankUpdate:
    """Keep the entries of an update whose relative change `|Δ_ij / W_ij|` is largest (RECT).

    Args:
        update: `Δ`, `[o, d]` in factors.
        weight: `W` before the update, `[o, d]`. Where it is 0 any change is the largest.
        share: The share of entries to keep, above 0 and at most 1 (0.4 in RECT's comparison with MEMIT).

    Returns:
        The same factors with a mask of `round(share · o · d)` entries (more only where several are equal).

    Raises:
        InputError: If the shapes do not fit, or `share` is not above 0 and at most 1.
    """
    check_shape("weight", weight, (update.left.shape[0], update.right.shape[1]), "the edited weight [o, d]")
    if not 0 < share <= 1:
        message = f"expected share above 0 and at most 1, got {share}; pass 0.4 for 40 % of the entries."
        raise InputError(message)
    delta = update.dense()
    change = (delta.abs() / weight.to(delta).abs()).nan_to_num(nan=0.0).flatten()
    kept = max(1, round(share * change.numel()))
    least = change.kthvalue(change.numel() - kept + 1).values
    return replace(update, mask=(change >= least).view_as(delta))


def masked_out(update: LowRankUpdate) -> LowRankUpdate:
    """What a mask has done to an update, `T(Δ) − Δ`: minus the entries that are not kept.

    Args:
        update: `Δ`, `[o, d]` in factors, with the mask of `sparsify`.

    Returns:
        An update of the rank `o`, as `I · D`.

    Raises:
        InputError: If it has no mask.
    """
    if update.mask is None:
        message = "expected a sparsified update, got one without a mask; call sparsify first."
        raise InputError(message)
    dropped = -(update.left @ update.right) * ~update.mask
    return LowRankUpdate(torch.eye(len(dropped), dtype=dropped.dtype, device=dropped.device), dropped)


def without(update: LowRankUpdate, other: LowRankUpdate) -> LowRankUpdate:
    """The difference of two updates without masks, in the factors of both, or dense (`I · Δ`) where that is smaller.

    Args:
        update: `[o, d]` in factors.
        other: What is taken from it, `[o, d]` in factors.

    Raises:
        InputError: If the shapes differ or one is masked.
    """
    first, second = _unmasked(update), _unmasked(other)
    check_shape("other", second.left, (first.left.shape[0], None), "as many outputs as the update, [o, r]")
    check_shape("other", second.right, (None, first.right.shape[1]), "as many inputs as the update, [r, d]")
    if first.rank + second.rank > len(first.left):
        dense = first.dense() - second.dense()
        return LowRankUpdate(torch.eye(len(dense), dtype=dense.dtype, device=dense.device), dense)
    return LowRankUpdate(torch.cat([first.left, -second.left], 1), torch.cat([first.right, second.right]))


def restrain(updates: Sequence[LowRankUpdate | Tensor], bound: Tensor | float, base: float = math.e) -> LowRankUpdate:
    """The correction that damps the large singular values of a sum of updates (PRUNE).

    With `Σ updates = U S Vᵀ`, every singular value `s` above `bound` becomes
    `log_a(s) − log_a(bound) + bound`, or stays `s` where that would be more (a logarithm is steeper than 1 below
    `1 / ln a`). The rank of the correction is the number of such values.

    Args:
        updates: All updates of a layer since it was unedited, `[o, d]` each, in factors or as a matrix.
        bound: The largest singular value of the unedited weight.
        base: `a`, above 1. PRUNE's is e; 2, 1.5 and 1.2 are its weaker options.

    Returns:
        `U (S' − S) Vᵀ` over the values above the bound; rank 0 if there is none.

    Raises:
        InputError: If there is no update, they differ in shape, `bound` is not positive or `base` is not above 1.
    """
    if not updates:
        message = "expected at least one update for restrain, got none; commit a batch first."
        raise InputError(message)
    check_number("bound", float(bound), positive=True)
    if not base > 1:
        message = f"expected base above 1, got {base}; pass e for PRUNE's natural logarithm."
        raise InputError(message)
    u, s, v = _singular(updates)
    restrained = torch.minimum(s, (s / bound).log() / math.log(base) + bound)
    above = s > bound
    return LowRankUpdate(u[:, above] * (restrained - s)[above], v[above])


def unit_row_directions(weight: Tensor, energy: float) -> Tensor:
    """The main directions of a weight's rows, each row at length 1: leading eigenvectors of `Ŵᵀ Ŵ / o` (SPHERE).

    Args:
        weight: `W`, `[o, d]`; rows that are 0 stay so.
        energy: The share η of the eigenvalues' sum that the directions reach, as few as do, above 0 and at most 1.

    Returns:
        Orthonormal columns, `[d, r]`, in the dtype of `weight`, or float32 if that is wider.

    Raises:
        InputError: If `weight` is no matrix, or `energy` is out of range.
    """
    check_shape("weight", weight, (None, None), "the weight [o, d]")
    rows = torch.nn.functional.normalize(weight.to(working_dtype(weight)), dim=1)
    return leading_directions(rows, energy)[1]


def leading_directions(weight: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """The leading singular vectors of a weight, as few as reach a share of the sum of its squared singular values.

    Args:
        weight: `W`, `[o, d]`.
        energy: The share, above 0 and at most 1.

    Returns:
        Left ones `[o, k]` and right ones `[d, k]`, in the dtype of `weight`, or float32 if that is wider.

    Raises:
        InputError: If `weight` is no matrix, or `energy` is out of range.
    """
    check_shape("weight", weight, (None, None), "the weight [o, d]")
    if not 0 < energy <= 1:
        message = f"expected energy above 0 and at most 1, got {energy}; pass 0.5 for half of the squared norm."
        raise InputError(message)
    dtype, turned = working_dtype(weight), weight.shape[0] > weight.shape[1]
    matrix = weight.T if turned else weight
    if weight.device.type != "mps" and matrix.numel():
        # o² d and o³ operations, of which an SVD takes many times as many
        wide = matrix.to(torch.float64)
        squares, vectors = torch.linalg.eigh(wide @ wide.T)
        squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
        count = _reaching(squares, energy, dtype)
        if bool(squares[count - 1] > _SQUARED * squares[0]):
            outer, inner = vectors[:, :count], wide.T @ (vectors[:, :count] / squares[:count].sqrt())
            return (inner.to(dtype), outer.to(dtype)) if turned else (outer.to(dtype), inner.to(dtype))
    u, s, v = torch.linalg.svd(weight.to(dtype), full_matrices=False)
    count = _reaching(s.square(), energy, dtype)
    return u[:, :count], v[:count].T


def _reaching(squares: Tensor, energy: float, dtype: torch.dtype) -> int:
    """How many of the descending squares of singular values reach a share of their sum."""
    reached = squares.cumsum(0) / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)
    short = reached < energy * (1 - 10 * torch.finfo(dtype).eps)
    return min(int(short.sum()) + 1, len(squares))


def largest_singular_value(weight: Tensor) -> float:
    """The spectral norm `‖W‖₂` of a weight `[o, d]`, by the eigenvalues of its smaller Gram matrix.

    Raises:
        InputError: If `weight` is no matrix.
    """
    check_shape("weight", weight, (None, None), "the weight [o, d]")
    if weight.device.type == "mps":
        return float(torch.linalg.matrix_norm(weight.to(working_dtype(weight)), 2))
    wide = weight.to(torch.float64)
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    return float(torch.linalg.eigvalsh(wide @ wide.T)[-1].clamp(min=0).sqrt())


def deflect(update: LowRankUpdate, directions: Tensor, strength: float) -> LowRankUpdate:
    """Take a share of an update out of some input directions, `Δ (I − a U Uᵀ)` (SPHERE, https://arxiv.org/abs/2510.01172).

    Args:
        update: `Δ`, `[o, d]` in factors, without a mask.
        directions: Orthonormal columns `U`, `[d, r]`, from `unit_row_directions`.
        strength: `a`, from 0 (nothing) to 1 (a projection).

    Returns:
        The update in the same left factors; its rank does not rise.

    Raises:
        InputError: If the shapes do not fit, the update is masked, or `strength` is not between 0 and 1.
    """
    if not 0 <= strength <= 1:
        message = f"expected strength between 0 and 1, got {strength}; pass 0.5 to take out half."
        raise InputError(message)
    right = _unmasked(update).right
    check_shape("directions", directions, (right.shape[1], None), "orthonormal columns of d inputs, [d, r]")
    basis = directions.to(right)
    return LowRankUpdate(update.left, right - strength * (right @ basis) @ basis.T)


def revive(update: LowRankUpdate, left: Tensor, right: Tensor) -> LowRankUpdate:
    """Keep an update out of the main directions of a weight on both sides, `(I − U Uᵀ) Δ (I − V Vᵀ)` (REVIVE).

    With all singular vectors of the weight, `u_i` and `v_j`, completed to bases of outputs and inputs, and the `k`
    leading ones in `U` and `V`, this is `Σ_{i>k, j>k} u_i u_iᵀ Δ v_j v_jᵀ` (https://arxiv.org/abs/2601.11042).

    Args:
        update: `Δ`, `[o, d]` in factors, without a mask.
        left: `U`, orthonormal columns, `[o, k]`, from `leading_directions` of the unedited weight.
        right: `V`, orthonormal columns, `[d, k]`.

    Returns:
        The update; its rank does not rise.

    Raises:
        InputError: If the shapes do not fit, or the update is masked.
    """
    factors = _unmasked(update)
    check_shape("left", left, (factors.left.shape[0], None), "orthonormal columns of o outputs, [o, k]")
    check_shape("right", right, (factors.right.shape[1], None), "orthonormal columns of d inputs, [d, k]")
    outputs = factors.left - left.to(factors.left) @ (left.to(factors.left).T @ factors.left)
    return LowRankUpdate(outputs, project_out(factors.right, right.to(factors.right)))


def _unmasked(update: LowRankUpdate) -> LowRankUpdate:
    if update.mask is not None:
        message = "expected an update without a mask, got a sparsified one; treat an update once."
        raise InputError(message)
    return update


def _singular(updates: Sequence[LowRankUpdate | Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """`U [o, r], S [r], Vᵀ [r, d]` of the sum, in the dimension of the factors where that is less."""
    first = updates[0]
    o, d = first.shape if isinstance(first, Tensor) else (first.left.shape[0], first.right.shape[1])
    factors: list[LowRankUpdate] = []
    for update in updates:
        if isinstance(update, Tensor):
            check_shape("an update", update, (o, d), "as many outputs and inputs as the first, [o, d]")
            continue
        check_shape("an update", update.left, (o, None), "as many outputs as the first, [o, r]")
        check_shape("an update", update.right, (None, d), "as many inputs as the first, [r, d]")
        factors.append(update)
    dtype = working_dtype(*(update if isinstance(update, Tensor) else update.left for update in updates))
    thin = len(factors) == len(updates) and sum(update.rank for update in factors) < min(o, d)
    if not thin or any(update.mask is not None for update in factors):
        total = torch.zeros(o, d, dtype=dtype, device=first.device if isinstance(first, Tensor) else first.left.device)
        for update in updates:
            total += (update if isinstance(update, Tensor) else update.dense()).to(dtype)
        u, s, v = torch.linalg.svd(total, full_matrices=False)
        return u, s, v
    left = torch.cat([update.left.to(dtype) for update in factors], 1)
    right = torch.cat([update.right.to(dtype) for update in factors])
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, v = torch.linalg.svd(r_left @ r_right.T)
    return q_left @ u, s, v @ q_right.T

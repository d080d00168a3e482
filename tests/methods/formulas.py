"""The published formulas, each written out densely with the matrices of the papers.

Notation: keys ``K1 [d, n]``, earlier keys ``Kp [d, m]``, residuals ``R [o, n]``, ``W [o, d]``, ``C [d, d]``.
"""

import math

import torch
from torch import Tensor


def memit(residual: Tensor, keys: Tensor, covariance: Tensor, alpha: float, beta: float, earlier: Tensor) -> Tensor:
    """``Δ = R K1ᵀ (α C + K1 K1ᵀ + β Kp Kpᵀ)⁻¹``."""
    inner = alpha * covariance + keys @ keys.T + beta * earlier @ earlier.T
    return residual @ keys.T @ torch.linalg.inv(inner)


def encore(
    residual: Tensor, keys: Tensor, covariance: Tensor, alpha: float, ridge: float, beta: float, earlier: Tensor
) -> Tensor:
    """``Δ = R K1ᵀ (α C + η I + β Kp Kpᵀ + K1 K1ᵀ)⁻¹``."""
    inner = alpha * covariance + ridge * torch.eye(len(covariance), dtype=keys.dtype)
    return residual @ keys.T @ torch.linalg.inv(inner + keys @ keys.T + beta * earlier @ earlier.T)


def hard(residual: Tensor, keys: Tensor, projector: Tensor, ridge: float, earlier: Tensor) -> Tensor:
    """``Δ = R K1ᵀ F (K1 K1ᵀ F + λ I)⁻¹``, ``F = P (I − Q Qᵀ) P`` with ``Q`` a basis of ``P Kp``."""
    basis = torch.linalg.qr(projector @ earlier).Q if earlier.shape[1] else earlier
    identity = torch.eye(len(projector), dtype=keys.dtype)
    free = projector @ (identity - basis @ basis.T) @ projector
    return residual @ keys.T @ free @ torch.linalg.inv(keys @ keys.T @ free + ridge * identity)


def sphere(delta: Tensor, weight: Tensor, energy: float, strength: float) -> Tensor:
    """``Δ (I − a U_r U_rᵀ)``, ``U_r`` the leading eigenvectors of ``Ŵᵀ Ŵ / o``, ``Ŵ`` with rows of length 1."""
    rows = weight / weight.norm(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values.flip(0), vectors.flip(1)
    count = 1 + int((values.cumsum(0) < energy * values.sum()).sum())
    return delta - strength * delta @ vectors[:, :count] @ vectors[:, :count].T


def revive(delta: Tensor, unedited: Tensor, energy: float) -> Tensor:
    """``Σ_{i>k, j>k} u_i u_iᵀ Δ v_j v_jᵀ`` with the singular vectors of the unedited weight."""
    u, s, v = torch.linalg.svd(unedited, full_matrices=True)
    squares = s.square()
    count = 1 + int((squares.cumsum(0) < energy * squares.sum()).sum())
    return u[:, count:] @ u[:, count:].T @ delta @ v[count:].T @ v[count:]


def null_space(
    residual: Tensor, keys: Tensor, projector: Tensor, ridge: float, beta: float, earlier: Tensor, weights: Tensor
) -> Tensor:
    """``Δ = R K1ᵀ P (β Kp Λp Kpᵀ P + K1 K1ᵀ P + λ I)⁻¹``, with ``weights [m]`` the diagonal of ``Λp``."""
    inner = beta * earlier @ torch.diag(weights) @ earlier.T @ projector + keys @ keys.T @ projector
    inner += ridge * torch.eye(len(inner), dtype=inner.dtype)
    return residual @ keys.T @ projector @ torch.linalg.inv(inner)


def search(
    residual: Tensor,
    keys: Tensor,
    vectors: Tensor,
    null: int,
    ridge: float,
    epsilon: float,
    beta: float,
    earlier: Tensor,
    weights: Tensor,
    covariance: Tensor,
    growth: float | None,
) -> tuple[Tensor, int]:
    """Algorithm 1's ``P_mod``: eigenvectors join, by ascending eigenvalue, until one gains no more than ε.

    With ``growth``, also until the update leaks more than so many times what it leaks without any of them.

    Args:
        residual: ``R``.
        keys: ``K1``.
        vectors: Eigenvectors of ``C``, in columns.
        null: How many of them span the null space.
        ridge: λ.
        epsilon: ε, absolute.
        beta: β.
        earlier: ``Kp``.
        weights: Diagonal of ``Λp``.
        covariance: ``C``.
        growth: The bound on the leakage, or ``None``.

    Returns:
        ``P_mod`` and how many joined.
    """

    def leaked(projector: Tensor) -> float:
        """``tr(Δ C Δᵀ)``."""
        delta = null_space(residual, keys, projector, ridge, beta, earlier, weights)
        return float(torch.trace(delta @ covariance @ delta.T))

    def objective(projector: Tensor) -> float:
        """``‖R − Δ K1‖² + β ‖Δ Kp Λp^½‖² + λ ‖Δ‖²`` at its optimum."""
        delta = null_space(residual, keys, projector, ridge, beta, earlier, weights)
        kept = delta @ earlier @ torch.diag(weights.sqrt())
        fit = residual - delta @ keys
        return float(fit.square().sum() + beta * kept.square().sum() + ridge * delta.square().sum())

    projector = vectors[:, :null] @ vectors[:, :null].T
    reached, most = objective(projector), math.inf if growth is None else growth * leaked(projector)
    for accepted, vector in enumerate(vectors[:, null:].T):
        wider = projector + torch.outer(vector, vector)
        value = objective(wider)
        if reached - value <= epsilon or leaked(wider) > most:
            return projector, accepted
        projector, reached = wider, value
    return projector, vectors.shape[1] - null


def search_by_blocks(
    residual: Tensor,
    keys: Tensor,
    vectors: Tensor,
    null: int,
    ridge: float,
    epsilon: float,
    beta: float,
    earlier: Tensor,
    weights: Tensor,
    block: int,
) -> tuple[Tensor, int]:
    """The published code's ``P_mod``: a block joins while ``(J − J') / J > ε · block``; arguments as for the other."""

    def objective(projector: Tensor) -> float:
        delta = null_space(residual, keys, projector, ridge, beta, earlier, weights)
        kept = delta @ earlier @ torch.diag(weights.sqrt())
        fit = residual - delta @ keys
        return float(fit.square().sum() + beta * kept.square().sum() + ridge * delta.square().sum())

    projector = vectors[:, :null] @ vectors[:, :null].T
    reached, joined = objective(projector), null
    while joined < vectors.shape[1]:
        added = vectors[:, joined : joined + block]
        wider = projector + added @ added.T
        value = objective(wider)
        if not (reached - value) / reached > epsilon * block:
            break
        projector, reached, joined = wider, value, joined + added.shape[1]
    return projector, joined - null


def aligned(
    keys: Tensor, covariance: Tensor, vectors: Tensor, null: int, share: float, power: int, floor: float
) -> tuple[Tensor, int]:
    """``P + Q Qᵀ``, ``Q = orth((I − P) (C + c I)⁻ᵖ (I − P) k)`` over the keys with ``‖P k‖ / ‖k‖`` below a share.

    Returns:
        The projector and the number of those keys.
    """
    projector = vectors[:, :null] @ vectors[:, :null].T
    identity = torch.eye(len(projector), dtype=keys.dtype)
    outside = identity - projector
    damped = torch.linalg.matrix_power(torch.linalg.inv(covariance + floor * identity), power)
    chosen = [k for k in keys.T if float((projector @ k).norm() / k.norm()) < share]
    if not chosen:
        return projector, 0
    basis = torch.linalg.qr(torch.stack([outside @ damped @ outside @ k for k in chosen], 1)).Q
    return projector + basis @ basis.T, len(chosen)


def conflict_weights(earlier: Tensor, keys: Tensor) -> Tensor:
    """The diagonal of ``Λp``, ``1 − max_i |cos(kp_j, k1_i)|``, ``[m]``."""
    weights = [1 - max(abs(float(kp @ k1 / kp.norm() / k1.norm())) for k1 in keys.T) for kp in earlier.T]
    return torch.tensor(weights, dtype=keys.dtype)


def smoothed(targets: Tensor, current: Tensor, t: int, last: int, share: float) -> Tensor:
    """``v^t = v + β_i(t) (v0 − v)``; ``β_i(t) = (T − t) / 2T`` if ``‖r_i‖`` is above its ``1 − share`` quantile."""
    norms = (targets - current).norm(dim=0)
    ordered = norms.sort().values
    place = (1 - share) * (len(ordered) - 1)  # the quantile is linear between two norms
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    threshold = below + (place - math.floor(place)) * (above - below)
    result = targets.clone()
    for i, norm in enumerate(norms):
        if norm > threshold:
            result[:, i] += (last - t) / (2 * last) * (current[:, i] - targets[:, i])
    return result


def smoothed_above(targets: Tensor, current: Tensor, t: int, last: int, bound: float) -> Tensor:
    """The same for every edit with ``‖r_i‖`` above a number."""
    result = targets.clone()
    for i in range(targets.shape[1]):
        if float((targets[:, i] - current[:, i]).norm()) > bound:
            result[:, i] += (last - t) / (2 * last) * (current[:, i] - targets[:, i])
    return result


def sparsified(delta: Tensor, weight: Tensor, share: float) -> Tensor:
    """RECT: only the share of the entries with the largest ``|Δ_ij / W_ij|`` stays."""
    change = (delta / weight).abs().flatten()
    kept = torch.zeros_like(change)
    kept[change.argsort(descending=True)[: round(share * change.numel())]] = 1
    return delta * kept.view_as(delta)


def restrained_values(values: Tensor, bound: Tensor, base: float) -> Tensor:
    """PRUNE: singular values above the bound grow by their logarithm only, and never become larger."""
    logarithm = values.log() / math.log(base) - bound.log() / math.log(base) + bound
    return torch.where(values > bound, torch.minimum(logarithm, values), values)


def restrained(total: Tensor, unedited: Tensor, base: float) -> Tensor:
    """The sum of all updates with its singular values restrained by the largest of the unedited weight."""
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    return u @ torch.diag(restrained_values(s, torch.linalg.svdvals(unedited)[0], base)) @ v

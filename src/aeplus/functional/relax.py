"""The search for the relaxed projector `P_mod = P + P̃`."""
# ruff: noqa: A002  (`filter` is the public argument's name)

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_number, check_shape
from aeplus.functional._system import System, assemble, factor
from aeplus.functional.leakage import preserved_energy, preserved_moment
from aeplus.functional.moment import moment_factor
from aeplus.functional.spectrum import Spectrum

_LARGEST_BLOCK = 64


def relax_filter(
    residual: Tensor,
    keys: Tensor,
    spectrum: Spectrum,
    filter: Tensor,
    ridge: float,
    epsilon: float,
    prior_keys: Tensor | None = None,
    prior_weights: Tensor | None = None,
    prior_strength: float = 1.0,
    max_leakage: float | None = None,
    weight: Tensor | None = None,
    relative: bool = False,
    max_rank: int | None = None,
    max_growth: float | None = None,
    prior_moment: Tensor | None = None,
    search_block: int = 1,
) -> tuple[Tensor, Tensor]:
    """Add eigenvectors to a filter while each lowers the objective by more than ε (Algorithm 1's search for P̃).

    Candidates are the eigenvectors with filter 0, by ascending eigenvalue. One is accepted while it lowers
    `J(Δ) = ‖R - Δ K1‖² + β ‖Δ Kp Λp^½‖² + λ ‖Δ‖²` (Eq. 7, with β) at its optimum by more than `epsilon`; the
    search stops at the first that does not. At the optimum `J = λ tr(Q S)` with `S = (G + λ I)⁻¹` and
    `Q = RᵀR`, and an eigenvector `u` with `g = Kᵀ u` changes `S` by `-(S g)(S g)ᵀ / (1 + gᵀ S g)`, so that a
    step costs O(N²) for `N = n + m` keys. `J` never rises.

    Args:
        residual: `R`, `[o, n]`.
        keys: New keys `K1`, `[d, n]`.
        spectrum: Spectrum of the preserved keys, `[d]` and `[d, d]`.
        filter: The filter to start from, `[d]`, usually a `null_space_filter`.
        ridge: λ, above 0.
        epsilon: The decrease of `J` that an eigenvector must exceed. `J` falls slowly along a spectrum: set a
            bound on leakage or rank too where preserved knowledge counts.
        prior_keys: Keys of previous edits `Kp`, `[d, m]`.
        prior_weights: Diagonal of `Λp`, `[m]`; ones by default.
        prior_strength: β.
        max_leakage: Stop before the eigenvector with which `tr(Δ C Δᵀ)` would exceed this, as a share of
            `tr(W C Wᵀ)` if `weight` is given. If the starting filter exceeds it already, usually none is
            added.
        weight: `W`, `[o, d]`.
        relative: Compare the decrease with `epsilon` times the `J` before it.
        max_rank: Add at most this many eigenvectors.
        max_growth: Stop before the eigenvector with which `tr(Δ C Δᵀ)` would exceed this many times what it is with
            the starting filter, at least 1. Unlike `max_leakage` it needs no knowledge of the model.
        prior_moment: `Kp Λp Kpᵀ`, `[d, d]`, in place of `prior_keys` and `prior_weights`: the search then works with at
            most `d` columns, however many the previous keys are.
        search_block: Try so many eigenvectors together: all of them are accepted if together they lower `J` by more
            than `search_block` times `epsilon` (times the `J` before them, if `relative`) and keep the bounds,
            otherwise none. The last block may be shorter; its ε is that of a whole one, as in the published code, which
            takes 10.

    Returns:
        The filter with 1 for every accepted eigenvector, `[d]`, in its dtype, and the trace of `J` after each
        of them, `[accepted]`, in the dtype of `residual`.

    Raises:
        InputError: As `solve_update`; if `epsilon`, `max_leakage` or `max_rank` is negative, or `max_growth` or
            `search_block` below 1; if `weight` is given without `max_leakage` or in another shape than `[o, d]`.
    """
    if prior_moment is not None and prior_keys is None and prior_weights is None:
        check_shape("prior_moment", prior_moment, (spectrum.dimension,) * 2, "the moment of the previous keys, [d, d]")
        prior_keys, prior_moment = moment_factor(prior_moment), None
    earlier = prior_keys, prior_weights, prior_strength
    system = assemble(residual, keys, spectrum, filter, ridge, *earlier, prior_moment=prior_moment)
    check_number("epsilon", epsilon)
    candidates = (filter == 0).nonzero().flatten()
    if max_rank is not None:
        check_number("max_rank", max_rank)
        candidates = candidates[:max_rank]
    if max_growth is not None and not max_growth >= 1:
        message = f"expected max_growth of at least 1, got {max_growth}; pass 2 to let the leakage double."
        raise InputError(message)
    if search_block < 1:
        message = f"expected search_block of at least 1, got {search_block}; pass 1 to try one eigenvector at a time."
        raise InputError(message)
    n, dtype = system.edits, system.keys.dtype
    bound = _leakage_bound(system, max_leakage, weight)
    filtered = system.filtered_keys()
    lower = factor(system.keys.T @ filtered, ridge)
    # S [N, N]; `cholesky_inverse` took forty times as long at N = 2100
    inverse = torch.cholesky_solve(torch.eye(len(lower), dtype=dtype, device=lower.device), lower)
    root = torch.linalg.qr(system.residual, mode="r").R  # rootᵀ root = RᵀR, [min(o, n), n]
    objective = ridge * ((root @ inverse[:n, :n]) * root).sum()
    guard = None
    if bound is not None or max_growth is not None:
        guard = _LeakageGuard(root, inverse[:, :n] @ root.T, preserved_moment(filtered.T, spectrum), bound, max_growth)
    relaxed, trace = filter.clone(), [residual.new_empty(0)]
    start, size, largest = 0, search_block, max(search_block, _LARGEST_BLOCK // search_block * search_block)
    while start < len(candidates):
        index = candidates[start : start + size]
        projected = system.keys.T @ spectrum.columns(index).to(dtype)  # g of these, [N, b]
        steps = _rank_one_steps(inverse, projected)
        decrease = ridge * (root @ steps[:n]).square().sum(0)
        after = objective - decrease.cumsum(0)
        together = _per_block(decrease, search_block, torch.sum)
        needed = search_block * epsilon
        accepted = together > (needed * (_per_block(after, search_block, _last) + together) if relative else needed)
        if guard is not None:
            within = guard.admits(projected, steps, spectrum.values[index].to(dtype))
            accepted &= _per_block(within, search_block, _last)
        count = min(len(index), search_block * int(accepted.cumprod(0).sum()))  # the first refusal ends the search
        relaxed[index[:count]] = 1
        trace.append(after[:count].to(residual.dtype))
        if count < len(index):
            break
        inverse.addmm_(steps, steps.T, alpha=-1)
        objective = after[-1]
        # begin small, since most searches stop soon; a long one gets matrix products
        start, size = start + size, min(2 * size, largest)
    return relaxed, torch.cat(trace)


def _per_block(values: Tensor, size: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """One value for each block of a vector; the last block may be shorter."""
    return values if size == 1 else torch.stack([reduce(block) for block in values.split(size)])


def _last(block: Tensor) -> Tensor:
    return block[-1]


def _rank_one_steps(inverse: Tensor, projected: Tensor) -> Tensor:
    """Columns `S g / √(1 + gᵀ S g)`, each with the `S` that remains after the columns before it, `[N, b]`.

    The successive `1 + gᵀ S g` are the squared pivots of the Cholesky factor of `I + Gᵀ S G` for the block's
    `G = [g, …]`, so the whole block takes two products and no loop; `S` itself is changed by the caller.
    """
    mapped = inverse @ projected
    pivots = projected.T @ mapped
    return torch.linalg.solve_triangular(factor(pivots, 1.0), mapped.T, upper=False).T


class _LeakageGuard:
    """Follows `tr(Δ C Δᵀ) = tr(Xᵀ B X)` along the search, in O(N²) a step and without `Δ`.

    Attributes:
        root: `rootᵀ root = RᵀR`, `[r, n]`.
        coordinates: `X = S[:, :n] rootᵀ`, the update's coordinates on the filtered keys, `[N, r]`.
        moment: `B = Kᵀ F C F K`, the second moment of preserved keys on the filtered keys, `[N, N]`.
        bound: The largest leakage allowed.
    """

    def __init__(
        self,
        root: Tensor,
        coordinates: Tensor,
        moment: Tensor,
        bound: Tensor | float | None,
        growth: float | None,
    ) -> None:
        self.root, self.coordinates, self.moment = root, coordinates, moment
        self.product = moment @ coordinates  # B X
        bounds = [] if bound is None else [torch.as_tensor(bound, dtype=root.dtype, device=root.device)]
        if growth is not None:
            bounds.append(growth * (coordinates * self.product).sum())
        self.bound = torch.stack(bounds).min()

    def admits(self, projected: Tensor, steps: Tensor, values: Tensor) -> Tensor:
        """Whether the leakage stays within the bound after each eigenvector of a block; the state then includes all.

        Args:
            projected: `g = Kᵀ u`, `[N, b]`.
            steps: `S g / √(1 + gᵀ S g)`, `[N, b]`.
            values: Eigenvalues σ, `[b]`.

        Returns:
            Booleans, `[b]`.
        """
        shares = self.root @ steps[: self.root.shape[1]]  # [r, b]
        within = []
        for g, step, share, value in zip(projected.T, steps.T, shares.T, values, strict=True):
            # X loses step shareᵀ, then B gains σ g gᵀ
            self.product.addr_(self.moment @ step, share, alpha=-1)
            self.coordinates.addr_(step, share, alpha=-1)
            self.product.addr_(value * g, g @ self.coordinates)
            self.moment.addr_(value * g, g)
            within.append((self.coordinates * self.product).sum() <= self.bound)
        return torch.stack(within)


def _leakage_bound(system: System, max_leakage: float | None, weight: Tensor | None) -> Tensor | float | None:
    """The largest `tr(Δ C Δᵀ)` allowed, or None."""
    if max_leakage is None:
        if weight is not None:
            message = "expected max_leakage beside weight, got none; pass the bound that is relative to it, or neither."
            raise InputError(message)
        return None
    check_number("max_leakage", max_leakage)
    if weight is None:
        return max_leakage
    shape = (system.residual.shape[0], system.keys.shape[0])
    check_shape("weight", weight, shape, "the edited weight [o, d]")
    return max_leakage * preserved_energy(weight.to(system.keys.dtype), system.spectrum)

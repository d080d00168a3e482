"""The closed-form update of one linear layer."""
# ruff: noqa: A002  (`filter` is the public argument's name)

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_finite, check_shape
from aeplus.functional._system import Prior, System, assemble, factor
from aeplus.functional.spectrum import Spectrum

SolverForm = Literal["auto", "dual", "primal"]


@dataclass(frozen=True)
class LowRankUpdate:
    """A weight update `Δ = left · right`, kept as factors.

    `solve_update` puts the residual itself on the left and everything that was factorized on the right. `Δ`
    is linear in the residual, so another residual for the same keys needs no new solve: `update.of(other)`.

    Attributes:
        left: `[o, r]`.
        right: `[r, d]`.
        mask: Boolean, `[o, d]`: entries of `Δ` that are kept, the others are 0. A sparsified update is held like
            this, since factors and a bit per entry take far less room than the kept entries.
    """

    left: Tensor
    right: Tensor
    mask: Tensor | None = None

    @property
    def rank(self) -> int:
        """The number of columns `r` of the factors: an upper bound on the rank of `Δ` where nothing is masked."""
        return self.left.shape[1]

    def of(self, residual: Tensor) -> LowRankUpdate:
        """What `solve_update`, which returned this, would return for another residual, `[o, n]`.

        Raises:
            InputError: If the residual has another shape or is not finite.
        """
        check_shape("residual", residual, tuple(self.left.shape), "one residual per key, in columns [o, n]")
        check_finite("residual", residual)
        return replace(self, left=residual.clone())

    def dense(self) -> Tensor:
        """`Δ` as one matrix, `[o, d]`."""
        product = self.left @ self.right
        return product if self.mask is None else product * self.mask

    def to(self, target: torch.device | torch.dtype | Tensor) -> LowRankUpdate:
        """The same on another device or in another dtype."""
        device = target.device if isinstance(target, Tensor) else target
        mask = self.mask if self.mask is None or isinstance(target, torch.dtype) else self.mask.to(device)
        return LowRankUpdate(self.left.to(target), self.right.to(target), mask)


def solve_update(
    residual: Tensor,
    keys: Tensor,
    spectrum: Spectrum,
    filter: Tensor,
    ridge: float,
    prior_keys: Tensor | None = None,
    prior_weights: Tensor | None = None,
    prior_strength: float = 1.0,
    form: SolverForm = "auto",
    relaxation: Tensor | None = None,
    forbidden: Tensor | None = None,
    prior_moment: Tensor | None = None,
    outside: Tensor | None = None,
    prior_gram: Tensor | None = None,
) -> LowRankUpdate:
    """Solve for the update that maps new keys to their targets and leaves the rest in place.

    With the projector `P_mod = P + P̃` this minimizes Eq. 7 of AlphaEdit+ ("AlphaEdit+: Model Editing in the Presence
    of Conflicting and Inconsistent Knowledge", Findings of ACL 2026, https://aclanthology.org/2026.findings-acl.728/),

        ‖(W + Δ P_mod) K1 − V1‖² + β ‖Δ P_mod Kp Λp^½‖² + λ ‖Δ P_mod‖²                          (Eq. 7)

    in closed form, for the targets `V1` (Eq. 8) and for the smoothed targets `V1^t` of iteration t (Eq. 9):

        Δ   = R K1ᵀ P_mod (β Kp Λp Kpᵀ P_mod + K1 K1ᵀ P_mod + λ I)⁻¹,     R = V1 − W K1         (Eq. 8)
        Δ^t = R^t K1ᵀ P_mod (β Kp Λp Kpᵀ P_mod + K1 K1ᵀ P_mod + λ I)⁻¹,   R^t = V1^t − W K1     (Eq. 9)

    `Δ` here already includes the projector: it is what is added to `W`. With `P̃ = 0`, `Λp = I` and β = 1, Eq. 8 is
    AlphaEdit's update (Eq. 2). The paper prints Eq. 7 to 9 without β; its experiments use β = 100.

    Neither the projector nor the `[d, d]` inverse is formed. With `K = [K1, √(β Λp) Kp]` (`N = n + m` columns),
    `F = U diag(f) Uᵀ` (`P_mod` where f is 0 or 1) and `G = Kᵀ F K`, the push-through identity gives

        Δ = R · [(G + λ I)⁻¹]_(first n rows) · Kᵀ F                       dual, N × N
        Δ = R Z1ᵀ (Z Zᵀ + λ I)⁻¹ diag(√f) U_sᵀ,   Z = diag(√f) U_sᵀ K     primal, s × s

    where `U_s` are the s eigenvectors with f > 0 and `Z1` the first n columns of `Z`. Both systems are symmetric
    positive definite, so one Cholesky factorization solves them. Any filter f ≥ 0 will do: `ridge_filter` and λ = 1
    give MEMIT, `Δ = R K1ᵀ (α C + β Kp Λp Kpᵀ + K1 K1ᵀ)⁻¹`. With a relaxation `Q` the filter is
    `F = U diag(f) Uᵀ + Q Qᵀ`, which need not be diagonal in the eigenbasis: the dual form takes `F K` only, the primal
    one `[diag(√f) U_sᵀ; Qᵀ]` in place of `diag(√f) U_sᵀ`. Of the previous keys the primal form needs `Kp Λp Kpᵀ` only:
    given that, it costs the same however many they are.

    Computed in the widest dtype of the arguments, in float32 at least. With many strongly weighted previous
    keys `G` is large against λ: pass the keys in float64 where float32 is not enough.

    Args:
        residual: `R = V1 - W K1`, or `R^t` for smoothed targets, `[o, n]`.
        keys: New keys `K1`, `[d, n]`.
        spectrum: Spectrum of the preserved keys, `[d]` and `[d, d]`.
        filter: Spectral filter `f`, not negative, `[d]`.
        ridge: λ, above 0.
        prior_keys: Keys of previous edits `Kp`, `[d, m]`.
        prior_weights: Diagonal of `Λp` (Eq. 3), `[m]`; ones by default.
        prior_strength: β, the weight of all previous edits together.
        form: `dual`, `primal`, or the smaller of both.
        forbidden: What the filter lacks of its directions, `B` with `F = U diag(f) Uᵀ + Q Qᵀ − B Bᵀ`, `[d, q]`, as
            `forbidden_directions` returns it; solved in the dual form.
        prior_moment: `Kp Λp Kpᵀ`, `[d, d]`, in place of `prior_keys` and `prior_weights`; solved in the primal form.
        relaxation: Directions `Q` that edits may use beside the filter's, `[d, r]`, such as `aligned_basis` returns.
        outside: The new keys' `outside_coordinates` by this filter, `[s, n]`, if they are known.
        prior_gram: `Kpᵀ U diag(f) Uᵀ Kp`, `[m, m]`, if it is known, beside `prior_keys`: solved in the dual form,
            where nothing then takes O(d m²).

    Returns:
        The update of rank at most `n`, in the dtype of `residual`.

    Raises:
        InputError: If a shape does not fit, `residual` or a key is not finite, `ridge` is not positive, a
            weight is negative, or `form` is unknown, or `primal` beside `forbidden`, or `prior_moment` beside `dual`,
            `forbidden` or the keys that it stands for.
    """
    if form not in ("auto", "dual", "primal"):
        message = f"expected form 'auto', 'dual' or 'primal', got {form!r}; use one of these."
        raise InputError(message)
    system = assemble(
        *(residual, keys, spectrum, filter, ridge, prior_keys, prior_weights, prior_strength),
        *(relaxation, forbidden, prior_moment, outside, prior_gram),
    )
    if prior_moment is not None:
        if form == "dual" or forbidden is not None:
            message = (
                "expected form 'primal' or 'auto' and no forbidden directions beside prior_moment, got others; pass "
                "prior_keys instead."
            )
            raise InputError(message)
        form = "primal"
    if forbidden is not None or prior_gram is not None:
        if form == "primal":
            beside = "forbidden directions" if forbidden is not None else "prior_gram"
            message = f"expected form 'dual' or 'auto' beside {beside}, got 'primal'; use one of these."
            raise InputError(message)
        form = "dual"
    if form == "auto":
        support = spectrum.dimension if spectrum.missing else int((filter != 0).sum())
        inner = support + (0 if relaxation is None else relaxation.shape[1])
        form = "dual" if system.keys.shape[1] <= inner else "primal"
    right = _dual(system) if form == "dual" else _primal(system)
    # a copy: an update that is kept must not change when its caller reuses the residual
    return LowRankUpdate(residual.clone(), right.to(residual.dtype))


def _dual(system: System) -> Tensor:
    """`[(G + λ I)⁻¹]_(first n rows) · Kᵀ F`, `[n, d]`."""
    filtered = system.filtered_keys()
    if system.prior is not None:
        return _dual_beside(system, system.prior, filtered)
    lower = factor(system.keys.T @ filtered, system.ridge)
    first = torch.eye(len(lower), system.edits, dtype=lower.dtype, device=lower.device)
    return (filtered @ torch.cholesky_solve(first, lower)).T


def _dual_beside(system: System, prior: Prior, filtered: Tensor) -> Tensor:
    """The same, with the products of the previous keys known; `F` is applied to what is solved, not to `Kp`."""
    n, count = system.edits, system.edits + len(prior.root)
    signed = [(sign, d) for sign, d in ((1.0, system.relaxation), (-1.0, system.forbidden)) if d is not None]
    columns = [filtered, *(directions for _, directions in signed)]
    products = prior.products(torch.cat(columns, 1)).split([part.shape[1] for part in columns], 1)
    gram = filtered.new_zeros(count, count)  # of which the lower triangle is read
    gram[:n, :n], gram[n:, :n] = system.keys.T @ filtered, products[0]
    inner = gram[n:, n:].copy_(prior.gram)
    for (sign, _), used in zip(signed, products[1:], strict=True):
        inner.addmm_(used, used.T, alpha=sign)
    gram[n:].mul_(prior.root[:, None])
    inner.mul_(prior.root)
    lower = factor(gram, system.ridge)
    first = torch.eye(count, n, dtype=lower.dtype, device=lower.device)
    solved = torch.cholesky_solve(first, lower)
    return system.apply(system.keys @ solved[:n] + prior.combine(prior.root[:, None] * solved[n:])).T


def filtered(keys: Tensor, spectrum: Spectrum, filter: Tensor) -> Tensor:
    """`U diag(f) Uᵀ K`, what a filter leaves of keys.

    Args:
        keys: `[d, n]`.
        spectrum: Spectrum of the preserved keys, `[d]` and `[d, d]`.
        filter: Spectral filter `f`, `[d]`.

    Returns:
        `[d, n]`, in the widest dtype of the arguments, in float32 at least.

    Raises:
        InputError: If a shape does not fit, or a key is not finite.
    """
    return assemble(keys[:0], keys, spectrum, filter, 1.0, None, None, 1.0).filtered_keys()


def _primal(system: System) -> Tensor:
    """`Z1ᵀ (Z Zᵀ + λ I)⁻¹ A`, `[n, d]`, with `A = [diag(√f) U_sᵀ; Qᵀ]`, `F = Aᵀ A` and `Z = A K`."""
    mapped = system.root(system.keys)  # Z [s, N]
    gram = mapped @ mapped.T
    if system.moment is not None:
        gram += system.strength * system.root(system.root(system.moment).T)
    lower = factor(gram, system.ridge)
    return system.unroot(torch.cholesky_solve(mapped[:, : system.edits].contiguous(), lower)).T

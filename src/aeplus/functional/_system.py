"""The regularized least-squares system that solving and searching share (design: one solver for all)."""
# ruff: noqa: A002  (`filter` is the public argument's name)

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_finite, check_number, check_shape, working_dtype
from aeplus.functional.spectrum import Spectrum

_COLUMNS = 1024  # previous keys cast at a time


@dataclass(frozen=True)
class Prior:
    """Previous keys whose products with each other are known.

    Attributes:
        keys: `Kp` in their own dtype, `[d, m]`.
        root: `√(β Λp)` in the working dtype, `[m]`.
        gram: `Kpᵀ U diag(f) Uᵀ Kp` in the working dtype, `[m, m]`.
    """

    keys: Tensor
    root: Tensor
    gram: Tensor

    def products(self, columns: Tensor) -> Tensor:
        """`Kpᵀ X` of `X [d, r]`, `[m, r]`."""
        return torch.cat([part.to(columns.dtype).T @ columns for part in self.keys.split(_COLUMNS, 1)])

    def combine(self, coefficients: Tensor) -> Tensor:
        """`Kp Y` of `Y [m, r]`, `[d, r]`."""
        total = coefficients.new_zeros(self.keys.shape[0], coefficients.shape[1])
        for part, own in zip(self.keys.split(_COLUMNS, 1), coefficients.split(_COLUMNS), strict=True):
            total.addmm_(part.to(own.dtype), own)
        return total


@dataclass(frozen=True)
class System:
    """`K = [K1, √(β Λp) Kp]`, the filter `F = U diag(f) Uᵀ`, the residual `R` and the ridge λ.

    Attributes:
        residual: `R` in the working dtype, `[o, n]`.
        keys: `K` in the working dtype, `[d, N]`; the first `n` columns are the new keys.
        filter: `f` in the working dtype, `[d]`.
        spectrum: Spectrum of `C`, in its own dtype: of its vectors no more than a block is ever cast.
        ridge: λ.
        relaxation: `Q` in the working dtype, `[d, r]`, where `F = U diag(f) Uᵀ + Q Qᵀ`.
        forbidden: `B` in the working dtype, `[d, q]`, where `F` is that minus `B Bᵀ`.
        moment: `Kp Λp Kpᵀ` in the working dtype, `[d, d]`, in place of the columns behind the new keys.
        strength: β of the moment.
        outside: Coordinates of the new keys on the eigenvectors where `f` is 0, `[s, n]`, if they are known.
        prior: The previous keys, in place of the columns behind the new ones.
    """

    residual: Tensor
    keys: Tensor
    filter: Tensor
    spectrum: Spectrum
    ridge: float
    relaxation: Tensor | None = None
    forbidden: Tensor | None = None
    moment: Tensor | None = None
    strength: float = 1.0
    outside: Tensor | None = None
    prior: Prior | None = None

    @property
    def edits(self) -> int:
        """New edits `n`."""
        return self.residual.shape[1]

    def filtered_keys(self) -> Tensor:
        """`F K`, `[d, N]`, through as few eigenvectors as the filter allows."""
        return self.apply(self.keys)

    def apply(self, columns: Tensor) -> Tensor:
        """`F X` of `X [d, r]`, `[d, r]`."""
        filtered = self._spectral(columns)
        if self.relaxation is not None:
            filtered = filtered + self.relaxation @ (self.relaxation.T @ columns)
        if self.forbidden is not None:
            filtered = filtered - self.forbidden @ (self.forbidden.T @ columns)
        return filtered

    def _spectral(self, keys: Tensor) -> Tensor:
        """`U diag(f) Uᵀ X` of `X [d, r]`, `[d, r]`."""
        support, spectrum = self.filter != 0, self.spectrum
        if spectrum.missing:
            return self._beside_constant(self.filter, keys)
        if bool(((self.filter == 0) | (self.filter == 1)).all()):
            if 2 * int(support.sum()) > support.numel():
                return keys - self._outside(~support, keys)
            return spectrum.filtered(support, None, keys)
        return spectrum.filtered(support, self.filter[support], keys)

    def root(self, columns: Tensor) -> Tensor:
        """`A X` of `X [d, n]`, with `A = [diag(√f) U_sᵀ; Qᵀ]` and `F = Aᵀ A`, `[s, n]`.

        Where the spectrum does not hold all eigenvectors, `U diag(√f) Uᵀ` is in place of `diag(√f) U_sᵀ`, and `s` is
        `d` (and Q's columns).
        """
        if self.spectrum.missing:
            mapped = self._beside_constant(self.filter.sqrt(), columns)
        else:
            support = self.filter != 0
            mapped = self.filter[support].sqrt()[:, None] * self.spectrum.coordinates(support, columns)
        return mapped if self.relaxation is None else torch.cat([mapped, self.relaxation.T @ columns])

    def unroot(self, coordinates: Tensor) -> Tensor:
        """`Aᵀ Y` of `Y [s, n]`, `[d, n]`."""
        if self.spectrum.missing:
            count = self.spectrum.dimension
            columns = self._beside_constant(self.filter.sqrt(), coordinates[:count])
        else:
            support = self.filter != 0
            count = int(support.sum())
            columns = self.spectrum.combine(support, self.filter[support].sqrt()[:, None] * coordinates[:count])
        return columns if self.relaxation is None else columns + self.relaxation @ coordinates[count:]

    def _beside_constant(self, factors: Tensor, columns: Tensor) -> Tensor:
        """`U diag(g) Uᵀ X` of `X [d, n]`, where `g` is one number on the eigenvectors that are not held, `[d, n]`."""
        spectrum = self.spectrum
        constant = factors[0]
        if bool((factors[: spectrum.missing] != constant).any()):
            message = (
                "expected a filter that is one number on the eigenvectors that the spectrum does not hold, got others; "
                "keep all (preserved.keep: all), or use filter null_space or priced."
            )
            raise InputError(message)
        other = factors != constant
        if columns is self.keys and bool((factors[other] == 0).all()):
            return constant * (columns - self._outside(other, columns))
        return constant * columns + spectrum.filtered(other, factors[other] - constant, columns)

    def _outside(self, mask: Tensor, keys: Tensor) -> Tensor:
        """What of the keys lies on the eigenvectors where `f` is 0, `[d, N]`."""
        if self.outside is None or keys is not self.keys:
            return self.spectrum.filtered(mask, None, keys)
        new = self.spectrum.combine(mask, self.outside)
        earlier = keys[:, new.shape[1] :]
        return torch.cat([new, self.spectrum.filtered(mask, None, earlier)], 1) if earlier.shape[1] else new


def factor(gram: Tensor, shift: float) -> Tensor:
    """Lower Cholesky factor of `gram + shift · I`; overwrites `gram`.

    Raises:
        InputError: If rounding left the matrix indefinite.
    """
    gram.diagonal().add_(shift)
    lower, info = torch.linalg.cholesky_ex(gram)
    if bool(info):
        message = (
            f"expected a positive definite Gram matrix of the keys with {shift:g} added to its diagonal, got an "
            f"indefinite one by rounding in {gram.dtype}; raise the ridge (alpha, for MEMIT's filter), or pass the "
            "keys in float64."
        )
        raise InputError(message)
    return lower


def assemble(
    residual: Tensor,
    keys: Tensor,
    spectrum: Spectrum,
    filter: Tensor,
    ridge: float,
    prior_keys: Tensor | None,
    prior_weights: Tensor | None,
    prior_strength: float,
    relaxation: Tensor | None = None,
    forbidden: Tensor | None = None,
    prior_moment: Tensor | None = None,
    outside: Tensor | None = None,
    prior_gram: Tensor | None = None,
) -> System:
    """Check the arguments of `solve_update` and `relax_filter` and stack their keys.

    Raises:
        InputError: If a shape does not fit, a number is out of range or a tensor is not finite.
    """
    d = spectrum.dimension
    check_shape("keys", keys, (d, None), "one key of d inputs per edit, in columns [d, n]")
    n = keys.shape[1]
    if not n:
        message = "expected at least one edit in keys, got 0 columns; pass a batch that is not empty."
        raise InputError(message)
    check_shape("residual", residual, (None, n), "one residual per key, in columns [o, n]")
    check_shape("filter", filter, (d,), "one factor per eigenvector, [d]")
    check_number("ridge", ridge, positive=True)
    check_number("prior_strength", prior_strength)
    check_finite("residual", residual)
    check_finite("keys", keys)
    _check_weights("filter", filter)
    dtype = working_dtype(residual, keys, spectrum.values, filter)
    for name, directions in (("relaxation", relaxation), ("forbidden", forbidden)):
        if directions is not None:
            check_shape(name, directions, (d, None), "one direction of d inputs per column, [d, r]")
            check_finite(name, directions)
    relaxation = None if relaxation is None else relaxation.to(dtype)
    forbidden = None if forbidden is None else forbidden.to(dtype)
    stacked, moment, prior = keys.to(dtype), None, None
    if prior_moment is not None:
        if prior_keys is not None or prior_weights is not None:
            message = "expected prior_moment without prior_keys and prior_weights, got both; pass one of the two."
            raise InputError(message)
        check_shape("prior_moment", prior_moment, (d, d), "the weighted moment of the previous keys, [d, d]")
        check_finite("prior_moment", prior_moment)
        moment = prior_moment.to(dtype)
    if prior_keys is not None:
        check_shape("prior_keys", prior_keys, (d, None), "one previous key per column [d, m]")
        check_finite("prior_keys", prior_keys)
        m = prior_keys.shape[1]
        scale = torch.ones(m, dtype=dtype, device=keys.device)
        if prior_weights is not None:
            check_shape("prior_weights", prior_weights, (m,), "one weight per previous key, [m]")
            _check_weights("prior_weights", prior_weights)
            scale = prior_weights.to(dtype)
        root = (prior_strength * scale).sqrt()  # √Λp, as inside the norm of Eq. 7
        if prior_gram is None:
            stacked = torch.cat([stacked, prior_keys.to(dtype) * root], dim=1)
        else:
            check_shape("prior_gram", prior_gram, (m, m), "the products of the previous keys, [m, m]")
            prior = Prior(prior_keys, root, prior_gram.to(dtype))
    elif prior_weights is not None:
        message = "expected prior_keys beside prior_weights, got none; pass the previous keys [d, m] too, or neither."
        raise InputError(message)
    parts = residual.to(dtype), stacked, filter.to(dtype), spectrum, ridge
    if outside is not None:
        check_shape("outside", outside, (None, n), "the new keys' outside_coordinates, [s, n]")
    outside = None if outside is None else outside.to(dtype)
    return System(*parts, relaxation, forbidden, moment, prior_strength, outside, prior)


def _check_weights(name: str, weights: Tensor) -> None:
    check_finite(name, weights)
    if weights.numel() and bool((weights < 0).any()):
        smallest = float(weights.min())
        message = f"expected no negative entry in {name}, got {smallest:.3g}; clamp it at 0."
        raise InputError(message)

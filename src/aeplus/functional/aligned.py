"""The aligned relaxation of the projector: one direction for each edit whose key conflicts with preserved knowledge.

Eq. 7 of AlphaEdit+ asks for a `P̃` of the smallest rank. Algorithm 1 searches it among the eigenvectors of `C`, of which
a key needs hundreds. What a single edit needs is one direction: of all unit vectors `q` outside the null space with the
same `qᵀ k`, hence with the same residual left (Lemma 1), the one that preserved keys use least, `qᵀ C q`, is

    q ∝ (C + c I)⁻¹ (I − P) k                                                              (by Lagrange multipliers)

and `c` decides between fit (large: `(I − P) k` itself) and leakage (small).
"""
# ruff: noqa: A002  (`filter` is the public argument's name)

from __future__ import annotations

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_finite, check_number, check_shape, working_dtype
from aeplus.functional.spectrum import Spectrum

_ROUNDING = 100.0  # a direction shorter than this many eps, after the others are taken out of it, is rounding error
_GRID = 181  # values of c that are tried, from 1e-6 to 1e3 times the largest eigenvalue: each 12 % above the last


def outside_coordinates(keys: Tensor, spectrum: Spectrum, filter: Tensor) -> Tensor:
    """The coordinates of keys on the eigenvectors that a filter leaves out, those where it is 0.

    Functions of this module and `solve_update` find them by themselves; who calls several with the same keys may hand
    them on.

    Args:
        keys: `[d, n]`.
        spectrum: Spectrum of the preserved keys, `[d]` and `[d, d]`, which holds these eigenvectors.
        filter: Spectral filter `f`, `[d]`.

    Returns:
        `U_oᵀ K`, `[s, n]`, in the widest dtype of `keys` and the eigenvalues, in float32 at least.

    Raises:
        InputError: If a shape does not fit, or a key is not finite.
    """
    _check(keys, spectrum, filter)
    return spectrum.coordinates(filter == 0, keys.to(working_dtype(keys, spectrum.values)))


def null_share(keys: Tensor, spectrum: Spectrum, filter: Tensor) -> Tensor:
    """How much of each key lies where edits are free, `‖P k‖ / ‖k‖`, `P` the projector onto the filter's support.

    Args:
        keys: `[d, n]`.
        spectrum: Spectrum of the preserved keys, `[d]` and `[d, d]`.
        filter: Spectral filter `f`, `[d]`, such as a `null_space_filter`.

    Returns:
        Shares between 0 and 1, `[n]`, in the dtype of `keys`; 1 for a key that is 0.

    Raises:
        InputError: If a shape does not fit, or a key is not finite.
    """
    return _share(keys, outside_coordinates(keys, spectrum, filter))


def _share(keys: Tensor, outside: Tensor) -> Tensor:
    """The same, of keys with the coordinates `outside [s, n]`."""
    whole = keys.to(outside.dtype).square().sum(0)
    rest = torch.where(whole > 0, outside.square().sum(0) / whole, torch.zeros_like(whole))
    return (1 - rest).clamp(min=0).sqrt().to(keys.dtype)


def aligned_basis(
    keys: Tensor,
    spectrum: Spectrum,
    filter: Tensor,
    share: float = 0.5,
    power: float = 1.0,
    floor: float | Tensor = 0.1,
    outside: Tensor | None = None,
) -> Tensor:
    """One direction for each key that lies mostly outside the null space, for `solve_update(…, relaxation=Q)`.

    `Q = orth((I − P) (C + c I)⁻ᵖ (I − P) k)` over the keys with `‖P k‖ / ‖k‖` below `share`: then
    `P̃ = Q Qᵀ` has a rank of at most their number, and where no key conflicts it is 0.

    Args:
        keys: New keys `K1`, `[d, n]`.
        spectrum: Spectrum of the preserved keys, `[d]` and `[d, d]`.
        filter: The filter to widen, `[d]`; its support is `P`.
        share: Keys with `‖P k‖ / ‖k‖` below this conflict.
        power: `p`, at least 0: 0 is `(I − P) k` itself, 1 leaks least for what it fits.
        floor: `c`, in units of `C`, above 0: one number, or one for each key, `[n]` (`aligned_floor`). A key with a
            floor of 0 gets no direction.
        outside: The keys' `outside_coordinates`, `[s, n]`, if they are known.

    Returns:
        `Q`, orthonormal and orthogonal to the filter's support, `[d, r]`, `r` at most the number of conflicting keys,
        in the dtype of `keys`.

    Raises:
        InputError: If a shape does not fit, a key is not finite, `share` is not between 0 and 1, or `power` or `floor`
            is out of range.

    Example:
        >>> spectrum = Spectrum(torch.tensor([0.0, 0.5, 2.0]), torch.eye(3))
        >>> keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])  # the first in the null space, the second not
        >>> aligned_basis(keys, spectrum, torch.tensor([1.0, 0.0, 0.0]), floor=0.5).T
        tensor([[0.0000, 0.9285, 0.3714]])
    """
    if not 0 <= share <= 1:
        message = (
            f"expected share between 0 and 1, got {share}; pass 0.5 for keys with less than half in the null space."
        )
        raise InputError(message)
    check_number("power", power)
    part, left_out = _known(outside, keys, spectrum, filter), filter == 0
    dtype, conflicting = part.dtype, _share(keys, part) < share
    if isinstance(floor, Tensor):
        check_shape("floor", floor, (keys.shape[1],), "one floor per key, [n]")
        check_finite("floor", floor)
        conflicting = conflicting & (floor > 0)
        floors = floor.to(dtype)
    else:
        check_number("floor", floor, positive=True)
        floors = torch.full((keys.shape[1],), float(floor), dtype=dtype, device=keys.device)
    chosen = conflicting.nonzero().flatten()
    part, floors = part[:, chosen], floors[chosen]  # [s, q]
    values = spectrum.values.to(dtype)[left_out].clamp(min=0)[:, None]
    weights = ((values + floors) / floors) ** -power  # in units of c, so that no power overflows
    basis = _orthonormal(weights * part)
    return spectrum.combine(left_out, basis).to(keys.dtype)


def aligned_floor(
    keys: Tensor,
    spectrum: Spectrum,
    filter: Tensor,
    ridge: float,
    left: float,
    power: float = 1.0,
    residual_norms: Tensor | None = None,
    max_leakage: float | Tensor | None = None,
    outside: Tensor | None = None,
) -> Tensor:
    """The `c` with which each edit, by itself, keeps at most a share of its residual and leaks as little as can be.

    An edit alone with the direction `q` leaves `λ / (λ + kᵀ F k + (qᵀk)²)` of its residual (Lemma 1; `kᵀ F k` is
    `‖P k‖²` for a projector) and leaks `‖r‖² (qᵀk / (λ + kᵀ F k + (qᵀk)²))² qᵀ C q` through `q`. With `c` the one
    falls and the other rises. The smallest `c` that leaves at most `left` is taken, the largest one tried where none
    does. Where its leakage would exceed `max_leakage`, the largest `c` that stays within is taken instead; if there is
    none, the edit gets no direction (0). Nor does one that leaves no more than `left` without a direction.

    Args:
        keys: New keys `K1`, `[d, n]`.
        spectrum: Spectrum of the preserved keys, `[d]` and `[d, d]`.
        filter: The filter to widen, `[d]`; its support is `P`.
        ridge: λ, above 0.
        left: The share of the residual to leave, above 0 and below 1.
        power: `p`, as in `aligned_basis`.
        residual_norms: `‖r‖`, `[n]`; needed for the bound.
        max_leakage: The most that one edit may add to `tr(Δ C Δᵀ)`, in absolute terms.
        outside: The keys' `outside_coordinates`, `[s, n]`, if they are known.

    Returns:
        `c` of each key, `[n]`, in the dtype of `keys`.

    Raises:
        InputError: If a shape does not fit, a number is out of range, or only one of `residual_norms` and `max_leakage`
            is given.
    """
    check_number("ridge", ridge, positive=True)
    check_number("power", power)
    if not 0 < left < 1:
        message = f"expected left above 0 and below 1, got {left}; pass 0.15 to leave 15 % of a residual."
        raise InputError(message)
    if (residual_norms is None) != (max_leakage is None):
        message = "expected residual_norms and max_leakage together, got one of them; pass both, or neither."
        raise InputError(message)
    square = _known(outside, keys, spectrum, filter).square()  # [s, n]
    dtype, wide = square.dtype, keys.to(square.dtype)
    values = spectrum.values.to(dtype)[filter == 0].clamp(min=0)
    if not square.numel():
        return keys.new_zeros(keys.shape[1])
    largest = values.max().clamp(min=torch.finfo(dtype).tiny)
    floors = largest * torch.logspace(-6, 3, _GRID, dtype=dtype, device=keys.device)  # ascending, [g]
    weights = ((values + floors[:, None]) / floors[:, None]) ** -power  # [g, s]
    length = (weights.square() @ square).clamp(
        min=torch.finfo(dtype).tiny
    )  # of the direction before it is normed, [g, n]
    fit = (weights @ square).square() / length  # (qᵀk)²
    used = (weights.square() @ (values[:, None] * square)) / length  # qᵀ C q
    free = _free(wide, square, spectrum, filter.to(dtype))
    system = ridge + free.clamp(min=0) + fit
    enough = ridge / system <= left
    first = torch.where(enough.any(0), enough.to(torch.int8).argmax(0), _GRID - 1)
    needed = ridge / (ridge + free.clamp(min=0)) > left
    if residual_norms is None or max_leakage is None:
        return (floors[first] * needed).to(keys.dtype)
    check_shape("residual_norms", residual_norms, (keys.shape[1],), "one norm per edit, [n]")
    leaks = residual_norms.to(dtype).square() * fit / system.square() * used
    places = torch.arange(_GRID, device=keys.device)[:, None]
    allowed = (leaks <= max_leakage) & (places <= first)
    last = torch.where(allowed, places, -1).max(0).values
    return (floors[last.clamp(min=0)] * (needed & (last >= 0))).to(keys.dtype)


def _free(keys: Tensor, outside: Tensor, spectrum: Spectrum, filter: Tensor) -> Tensor:
    """`kᵀ F k`, `[n]`; for a projector by what lies outside, as the spectrum may hold no more."""
    inside = filter != 0
    if bool((filter[inside] == 1).all()):
        return keys.square().sum(0) - outside.sum(0)
    return (filter[inside, None] * spectrum.coordinates(inside, keys).square()).sum(0)


def _known(outside: Tensor | None, keys: Tensor, spectrum: Spectrum, filter: Tensor) -> Tensor:
    """The keys' `outside_coordinates`, found if they are not known."""
    if outside is None:
        return outside_coordinates(keys, spectrum, filter)
    check_shape("outside", outside, (None, keys.shape[1]), "the keys' outside_coordinates, [s, n]")
    return outside


def _orthonormal(directions: Tensor) -> Tensor:
    """An orthonormal basis of some columns, without what rounding alone can have made."""
    lengths = directions.norm(dim=0)
    some = (lengths > 0).nonzero().flatten()
    directions = directions[:, some] / lengths[some]
    if not directions.numel():
        return directions[:, :0]
    left, values, _ = torch.linalg.svd(directions, full_matrices=False)
    least = _ROUNDING * torch.finfo(directions.dtype).eps * max(directions.shape) ** 0.5 * values[0]
    return left[:, values > least]


def _check(keys: Tensor, spectrum: Spectrum, filter: Tensor) -> None:
    check_shape("keys", keys, (spectrum.dimension, None), "one key of d inputs per edit, in columns [d, n]")
    check_shape("filter", filter, (spectrum.dimension,), "one factor per eigenvector, [d]")
    check_finite("keys", keys)

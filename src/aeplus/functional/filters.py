"""Spectral filters: how much of each eigenvector of `C` an edit may use.

`method.filter` chooses among them by the table `FILTERS` of `aeplus.methods.parts`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_number, working_dtype
from aeplus.functional.spectrum import Spectrum

FilterKind = Literal["absolute", "energy", "dimensions"]


def null_space_filter(spectrum: Spectrum, threshold: float, *, kind: FilterKind = "absolute") -> Tensor:
    """The projector onto the null space of the preserved keys, as a 0/1 filter (AlphaEdit's `P`).

    Args:
        spectrum: Spectrum of `C`, `[d]` and `[d, d]`.
        threshold: Where the null space ends, in the unit that `kind` names.
        kind: `absolute`: eigenvalues below `threshold`. The scale of `C` differs from model to model, and so
            does a good number. `energy`: the largest set of smallest eigenvectors that together hold less
            than the share `threshold` of the trace. `dimensions`: the share `threshold` of the `d`
            eigenvectors, smallest first.

    Returns:
        1 for eigenvectors of the null space, 0 for the others, `[d]`, in the dtype of `spectrum.values`.

    Raises:
        InputError: If no eigenvector is left to edit with, or none to preserve; if a share is not between
            0 and 1; if `kind` is unknown.
    """
    values = spectrum.values.to(working_dtype(spectrum.values))
    if kind == "absolute":
        inside = values < threshold
    elif kind in ("energy", "dimensions"):
        if not 0 < threshold < 1:
            message = (
                f"expected a share between 0 and 1 as a null-space threshold of kind {kind!r}, got {threshold}; "
                "change the threshold, or use kind 'absolute'."
            )
            raise InputError(message)
        if kind == "energy":
            inside = values.cumsum(0) < threshold * values.sum()
        else:
            inside = torch.arange(len(values), device=values.device) < round(threshold * len(values))
    else:
        message = f"expected kind 'absolute', 'energy' or 'dimensions', got {kind!r}; use one of these."
        raise InputError(message)
    count = int(inside.sum())
    if count == 0:
        message = (
            f"expected a null space to edit in, got a threshold of {threshold} ({kind}) that leaves no null space "
            f"(smallest of the {len(values)} eigenvalues: {float(values[0]):.3g}); raise the threshold."
        )
        raise InputError(message)
    if count == len(values):
        message = (
            f"expected eigenvectors to preserve, got a threshold of {threshold} ({kind}) that leaves no constraint "
            f"(largest of the {count} eigenvalues: {float(values[-1]):.3g}); lower the threshold."
        )
        raise InputError(message)
    return inside.to(spectrum.values.dtype)


def ridge_filter(spectrum: Spectrum, alpha: float) -> Tensor:
    """MEMIT's covariance penalty as a filter, `f(σ) = 1 / (α σ)`; solve with ridge 1.

    Eigenvalues below the rounding error of the largest one are raised to it: the filter stays finite where `C`
    is singular.

    Args:
        spectrum: Spectrum of `C`, `[d]` and `[d, d]`.
        alpha: Weight α of `C` against the new keys, in units of `1 / C` (MEMIT's `mom2_update_weight`).

    Returns:
        The filter, `[d]`, in the dtype of `spectrum.values`.

    Raises:
        InputError: If `alpha` is not positive, or every eigenvalue is 0.
    """
    check_number("alpha", alpha, positive=True)
    values = spectrum.values.to(working_dtype(spectrum.values))
    largest = values[-1]
    if not bool(largest > 0):
        message = "expected a positive eigenvalue for ridge_filter, got only 0; gather statistics over some text."
        raise InputError(message)
    # Of a spectrum that was computed in float32 the vectors stay so.
    floor = max(torch.finfo(part.dtype).eps for part in (spectrum.values, spectrum.vectors)) * largest
    return (1 / (alpha * values.clamp(min=floor))).to(spectrum.values.dtype)


def soft_filter(spectrum: Spectrum, alpha: float, ridge: float) -> Tensor:
    """A filter between AlphaEdit's and MEMIT's, `f(σ) = λ / (λ + α σ)`; solve with ridge λ.

    Directions that preserved keys do not use are free (1), the others penalized in proportion to their use. The update
    is then `R K1ᵀ (K1 K1ᵀ + λ I + α C)⁻¹`: MEMIT's with a ridge.

    Args:
        spectrum: Spectrum of `C`, `[d]` and `[d, d]`.
        alpha: Weight α of `C`.
        ridge: λ.

    Returns:
        The filter, `[d]`, in the dtype of `spectrum.values`.

    Raises:
        InputError: If `alpha` or `ridge` is not positive.
    """
    check_number("alpha", alpha, positive=True)
    check_number("ridge", ridge, positive=True)
    values = spectrum.values.to(working_dtype(spectrum.values))
    return (ridge / (ridge + alpha * values.clamp(min=0))).to(spectrum.values.dtype)


def null_soft_filter(
    spectrum: Spectrum, threshold: float, alpha: float, ridge: float, *, kind: FilterKind = "absolute"
) -> Tensor:
    """A null space whose directions are penalized by their use, `f(σ) = 1[σ < τ] · λ / (λ + α σ)`; solve with ridge λ.

    BetaEdit's filter (https://arxiv.org/abs/2605.09285). In the limit α → 0 it is `null_space_filter`,
    without a threshold `soft_filter`.

    Args:
        spectrum: Spectrum of `C`, `[d]` and `[d, d]`.
        threshold: Where the null space ends, in the unit that `kind` names.
        alpha: Weight α of `C`.
        ridge: λ.
        kind: As in `null_space_filter`.

    Returns:
        The filter, `[d]`, in the dtype of `spectrum.values`.

    Raises:
        InputError: As `null_space_filter` and `soft_filter`.
    """
    return null_space_filter(spectrum, threshold, kind=kind) * soft_filter(spectrum, alpha, ridge)


def priced_filter(
    spectrum: Spectrum, threshold: float, alpha: float, ridge: float, *, kind: FilterKind = "absolute"
) -> Tensor:
    """A free null space, and the rest at the price of what it leaks: 1 below τ, `λ / (λ + α σ)` above; ridge λ.

    The complement of `null_soft_filter`: a relaxed projector in closed form. With `P` the projector onto the null space
    the update minimizes `‖R − Δ K1‖² + λ ‖Δ‖² + α tr(Δ (I − P) C (I − P) Δᵀ)`, whose last term is the leakage outside
    the null space.

    Args:
        spectrum: Spectrum of `C`, `[d]` and `[d, d]`.
        threshold: Where the null space ends, in the unit that `kind` names.
        alpha: The price α of the leakage.
        ridge: λ.
        kind: As in `null_space_filter`.

    Returns:
        The filter, `[d]`, in the dtype of `spectrum.values`.

    Raises:
        InputError: As `null_space_filter` and `soft_filter`.
    """
    free = null_space_filter(spectrum, threshold, kind=kind)
    return torch.where(free == 1, free, soft_filter(spectrum, alpha, ridge))

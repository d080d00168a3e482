"""The effect of an update on preserved keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from aeplus.functional._checks import check_shape, working_dtype
from aeplus.functional.solve import LowRankUpdate
from aeplus.functional.spectrum import Spectrum

_BLOCK = 1024  # eigenvectors at a time: bounds the memory of a product with all d of them


def leakage(update: LowRankUpdate, spectrum: Spectrum, weight: Tensor) -> Tensor:
    """The mean squared effect on preserved keys, relative to that of the weight: `tr(Δ C Δᵀ) / tr(W C Wᵀ)`.

    Args:
        update: `Δ`, `[o, d]` in factors; it is made dense only if it is masked.
        spectrum: Spectrum of `C`, `[d]` and `[d, d]`.
        weight: `W`, `[o, d]`.

    Returns:
        The leakage, a scalar in the dtype of the update.

    Raises:
        InputError: If the shapes do not fit.
    """
    check_shape("weight", weight, (update.left.shape[0], spectrum.dimension), "the edited weight [o, d]")
    dtype = working_dtype(update.left, spectrum.values, weight)
    ratio = update_energy(update.to(dtype), spectrum) / preserved_energy(weight.to(dtype), spectrum)
    return ratio.to(update.left.dtype)


def update_energy(update: LowRankUpdate, spectrum: Spectrum) -> Tensor:
    """`tr(Δ C Δᵀ)` of an update, a scalar; it is made dense only if it is masked, or of the rank of the outputs.

    Args:
        update: `Δ`, `[o, d]` in factors.
        spectrum: Spectrum of `C`, `[d]` and `[d, d]`.

    Raises:
        InputError: If the shapes do not fit.
    """
    check_shape("update.right", update.right, (None, spectrum.dimension), "an update of a linear with d inputs, [r, d]")
    if update.mask is not None or update.rank >= len(update.left):
        return preserved_energy(update.dense(), spectrum)
    moved = preserved_moment(update.right, spectrum)  # right C rightᵀ [r, r]
    left = update.left.to(moved.dtype)
    return ((left.T @ left) * moved).sum()


def preserved_moment(matrix: Tensor, spectrum: Spectrum) -> Tensor:
    """`A C Aᵀ` of `A [r, d]`, `[r, r]`; eigenvectors that the spectrum does not hold count at their mean eigenvalue.

    The products with eigenvectors are made in the dtype of `A`, the `[r, r]` in that of the eigenvalues if it is wider.
    """
    dtype = torch.promote_types(matrix.dtype, spectrum.values.dtype)
    rest, moment = spectrum.rest.to(dtype), matrix.new_zeros(len(matrix), len(matrix), dtype=dtype)
    if spectrum.missing:
        moment += rest * (matrix.to(dtype) @ matrix.to(dtype).T)
    for vectors, values in _blocks(spectrum, matrix.dtype):
        scaled = (matrix @ vectors).to(dtype)
        moment += (scaled * (values.to(dtype) - rest)) @ scaled.T
    return moment


def preserved_energy(matrix: Tensor, spectrum: Spectrum) -> Tensor:
    """`tr(A C Aᵀ)` of `A [o, d]`, a scalar; eigenvectors that are not held count as in :func:`preserved_moment`."""
    rest = spectrum.rest.to(matrix.dtype)
    energy = rest * matrix.square().sum() if spectrum.missing else matrix.new_zeros(())
    for vectors, values in _blocks(spectrum, matrix.dtype):
        energy += ((matrix @ vectors).square().sum(0) * (values.to(rest) - rest)).sum()
    return energy


def _blocks(spectrum: Spectrum, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """The eigenvectors that are held, some at a time, with their eigenvalues."""
    values = spectrum.values[spectrum.missing :]
    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        yield spectrum.vectors[:, block].to(dtype), values[block]

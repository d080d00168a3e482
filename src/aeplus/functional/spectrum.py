"""The eigenbasis of the preserved keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_finite, check_floating, working_dtype

_BLOCK = 1024  # eigenvectors cast at a time: a product with all d of them needs no second [d, d]
_TOLERANCE = 1e-4  # of the largest entry: the error of float32 products, even in a float64 matrix


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of the preserved keys' second moment `C = U diag(σ) Uᵀ`.

    A filter that is constant on a null space needs the eigenvectors outside it only. A spectrum may hold just those of
    its `k` largest eigenvalues; what needs another eigenvector raises, and a sum over all of them takes the others at
    their mean eigenvalue.

    Attributes:
        values: Eigenvalues σ, ascending and not negative, `[d]`.
        vectors: Eigenvectors U, one per column, `[d, d]`, or `[d, k]` for those of the largest eigenvalues.

    Raises:
        InputError: If `vectors` is not `[d, k]` with `k ≤ d` for the `d` of `values`.
    """

    values: Tensor
    vectors: Tensor

    def __post_init__(self) -> None:
        d = self.values.numel()
        shape = self.vectors.shape
        if self.values.dim() != 1 or len(shape) != 2 or shape[0] != d or shape[1] > d:
            message = (
                f"expected a spectrum of values [d] and vectors [d, d], or [d, k] of the largest, got values "
                f"{list(self.values.shape)} and vectors {list(shape)}; pass eigenvectors of one matrix, in columns."
            )
            raise InputError(message)

    @classmethod
    def from_covariance(cls, covariance: Tensor) -> Spectrum:
        """Decompose a second moment of keys.

        Half precision is decomposed in float32, anything else in its own dtype. Eigenvalues that rounding
        made negative become 0.

        Args:
            covariance: `C`, the mean of `k kᵀ` over preserved text, `[d, d]`.

        Returns:
            The spectrum, in the dtype and on the device of `covariance`.

        Raises:
            InputError: If `covariance` is not square, finite, symmetric and positive semidefinite.
        """
        check_floating("covariance", covariance)
        if covariance.dim() != 2 or covariance.shape[0] != covariance.shape[1] or not covariance.numel():
            message = (
                f"expected covariance as a square matrix [d, d], got {list(covariance.shape)}; "
                "pass the mean of k kᵀ over the preserved keys."
            )
            raise InputError(message)
        check_finite("covariance", covariance)
        dtype = covariance.dtype
        matrix = covariance.to(working_dtype(covariance))
        largest = float(torch.maximum(matrix.max(), -matrix.min()))
        precision = torch.finfo(dtype).eps
        gap = _asymmetry(matrix)
        if gap > max(_TOLERANCE, precision**0.5) * largest:
            message = (
                f"expected symmetric covariance, got entries that differ from their mirror image by up to "
                f"{gap:.3g} (largest entry {largest:.3g}); pass the mean of k kᵀ, or (C + Cᵀ) / 2."
            )
            raise InputError(message)
        # eigh reads one triangle only; averaging lets both halves count
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2 if gap else matrix)
        smallest, top = float(values[0]), float(values[-1])
        if smallest < -max(_TOLERANCE, precision * len(values)) * max(top, -smallest):
            message = (
                f"expected covariance without negative eigenvalues, got a smallest one of {smallest:.3g} "
                f"(largest {top:.3g}); pass the mean of k kᵀ, not a difference of such means."
            )
            raise InputError(message)
        return cls(values.clamp(min=0).to(dtype), vectors.to(dtype))

    @property
    def dimension(self) -> int:
        """Inputs `d` of the edited linear."""
        return self.values.numel()

    @property
    def missing(self) -> int:
        """How many eigenvectors, those of the smallest eigenvalues, are not held."""
        return self.dimension - self.vectors.shape[1]

    @property
    def rest(self) -> Tensor:
        """The mean eigenvalue of the eigenvectors that are not held, a scalar; 0 if all are."""
        return self.values[: self.missing].mean() if self.missing else self.values.new_zeros(())

    def leading(self, count: int) -> Spectrum:
        """The same with the eigenvectors of the `count` largest eigenvalues only, in memory of their own."""
        return Spectrum(self.values, self.vectors[:, self.vectors.shape[1] - count :].clone())

    def columns(self, index: Tensor) -> Tensor:
        """The eigenvectors of some indices `[n]`, `[d, n]`.

        Raises:
            InputError: If one of them is not held.
        """
        return self.vectors[:, self._held(index)]

    def to(self, *args: Any, **kwargs: Any) -> Spectrum:
        """Move or cast both tensors, with the arguments of `torch.Tensor.to`."""
        return Spectrum(self.values.to(*args, **kwargs), self.vectors.to(*args, **kwargs))

    def coordinates(self, mask: Tensor, columns: Tensor) -> Tensor:
        """`U_mᵀ X`, the coordinates of `X [d, n]` on the eigenvectors that `mask [d]` selects, `[count, n]`.

        In the dtype of `X`; the eigenvectors stay in theirs.
        """
        parts = [block.to(columns.dtype).T @ columns for block in self._blocks(mask)]
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def combine(self, mask: Tensor, coordinates: Tensor) -> Tensor:
        """`U_m A`, columns with the coordinates `A [count, n]` on the eigenvectors that `mask [d]` selects, `[d, n]`.

        In the dtype of `A`; the eigenvectors stay in theirs.
        """
        total, start = None, 0
        for block in self._blocks(mask):
            part = block.to(coordinates.dtype) @ coordinates[start : start + block.shape[1]]
            total, start = part if total is None else total.add_(part), start + block.shape[1]
        return coordinates.new_zeros(self.dimension, coordinates.shape[1]) if total is None else total

    def filtered(self, mask: Tensor, factors: Tensor | None, columns: Tensor) -> Tensor:
        """`U_m diag(g) U_mᵀ X` of `X [d, n]`, on the eigenvectors that `mask [d]` selects, `[d, n]`.

        In the dtype of `X`; the eigenvectors stay in theirs, and each is cast once.

        Args:
            mask: Which eigenvectors.
            factors: `g` of each of these, `[count]`; ones if `None`.
            columns: `X`.
        """
        total, start = torch.zeros_like(columns), 0
        for part in self._blocks(mask):
            block = part.to(columns.dtype)
            coordinates = block.T @ columns
            if factors is not None:
                coordinates *= factors[start : start + block.shape[1], None]
            total, start = total.addmm_(block, coordinates), start + block.shape[1]
        return total

    def _blocks(self, mask: Tensor) -> Iterator[Tensor]:
        parts = mask.nonzero().flatten().split(_BLOCK)
        if not parts[0].numel():
            yield self.vectors[:, :0]
            return
        ends = torch.stack([part[[0, -1]] for part in parts]).tolist()  # one copy to the host
        self._check_held(ends[0][0])
        for part, (first, last) in zip(parts, ends, strict=True):
            # filters are mostly steps along the spectrum: a view copies nothing
            together = last - first == len(part) - 1
            held = slice(first - self.missing, last - self.missing + 1) if together else part - self.missing
            yield self.vectors[:, held]

    def _held(self, index: Tensor) -> Tensor:
        """Where eigenvectors stand in `vectors`."""
        if self.missing and index.numel():
            self._check_held(int(index.min()))
        return index - self.missing if self.missing else index

    def _check_held(self, first: int) -> None:
        if first < self.missing:
            held = self.vectors.shape[1]
            message = (
                f"expected a spectrum with the eigenvector of eigenvalue {float(self.values[first]):.3g}, got "
                f"the {held} largest of {self.dimension}; keep all (preserved.keep: all), or use another filter."
            )
            raise InputError(message)


def _asymmetry(matrix: Tensor) -> float:
    """The largest difference of an entry from its mirror image, without a second `[d, d]`."""
    starts = range(0, len(matrix), _BLOCK)
    gaps = [(matrix[i : i + _BLOCK] - matrix[:, i : i + _BLOCK].T).abs().max() for i in starts]
    return float(torch.stack(gaps).max())

"""The eigenbasis of the preserved keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_finite, check_floating, working_dtype

_TOLERANCE = 1e-4  # of the largest entry: the error of float32 products, even in a float64 matrix


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of the preserved keys' second moment `C = U diag(σ) Uᵀ`.

    Attributes:
        values: Eigenvalues σ, ascending and not negative, `[d]`.
        vectors: Eigenvectors U, one per column, `[d, d]`.

    Raises:
        InputError: If `vectors` is not `[d, d]` for the `d` of `values`.
    """

    values: Tensor
    vectors: Tensor

    def __post_init__(self) -> None:
        d = self.values.numel()
        if self.values.dim() != 1 or self.vectors.shape != (d, d):
            message = (
                f"expected a spectrum of values [d] and vectors [d, d], got values {list(self.values.shape)} "
                f"and vectors {list(self.vectors.shape)}; pass all eigenvectors of one matrix, in columns."
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
        largest = float(matrix.abs().max())
        precision = torch.finfo(dtype).eps
        gap = float((matrix - matrix.T).abs().max())
        if gap > max(_TOLERANCE, precision**0.5) * largest:
            message = (
                f"expected symmetric covariance, got entries that differ from their mirror image by up to "
                f"{gap:.3g} (largest entry {largest:.3g}); pass the mean of k kᵀ, or (C + Cᵀ) / 2."
            )
            raise InputError(message)
        # eigh reads one triangle only; averaging lets both halves count
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
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

    def to(self, *args: Any, **kwargs: Any) -> Spectrum:
        """Move or cast both tensors, with the arguments of `torch.Tensor.to`."""
        return Spectrum(self.values.to(*args, **kwargs), self.vectors.to(*args, **kwargs))

"""An orthonormal basis of the space that previous edits use, and the projection onto its complement."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional._checks import check_finite, check_shape, working_dtype

_ROUNDING = 10.0  # singular values below this many eps · √size · (largest key's norm) are rounding error
_UNIT = 0.05  # how far a column's norm may be from 1: above the error of half precision


def extend_basis(basis: Tensor, keys: Tensor, energy: float, precision: torch.dtype | None = None) -> Tensor:
    """Extend an orthonormal basis by the main directions of new keys that it does not contain yet.

    Those are the leading left singular vectors of `(I - M Mᵀ) K1`, as few as reach the share `energy` of the
    sum of squared singular values (KDE; there the cache of the representation space of past edits). Directions
    that rounding alone can have made, in the coarser dtype of the two arguments, are never added: pass keys in
    the dtype they were computed in.

    Args:
        basis: Orthonormal columns `M`, `[d, r]`; `[d, 0]` at first.
        keys: Keys `K1`, `[d, n]`; may be empty.
        energy: Share of the squared singular values, above 0 and at most 1.
        precision: The dtype that the keys were computed in, if they are passed in a finer one.

    Returns:
        `M` as it was, with `k ≤ min(n, d - r)` columns appended, `[d, r + k]`, in the dtype of `basis`.

    Raises:
        InputError: If a shape does not fit, the columns of `basis` are not of length 1 or more than `d`, a key
            is not finite, or `energy` is not above 0 and at most 1.
    """
    check_shape("basis", basis, (None, None), "orthonormal columns [d, r], or [d, 0] at first")
    d, r = basis.shape
    check_shape("keys", keys, (d, None), "one key of the same d inputs per column, [d, n]")
    if not 0 < energy <= 1:
        message = f"expected energy above 0 and at most 1, got {energy}; pass 0.95 for 95 % of the squared norm."
        raise InputError(message)
    check_finite("keys", keys)
    dtype = working_dtype(basis, keys)
    known, new = basis.to(dtype), keys.to(dtype)
    if r and (r > d or not bool(((known.norm(dim=0) - 1).abs() < _UNIT).all())):
        message = (
            f"expected basis with at most d = {d} orthonormal columns, got {r} columns that are not; "
            "pass what extend_basis returned, or torch.empty(d, 0) at first."
        )
        raise InputError(message)
    if r == d or not keys.shape[1]:
        return basis.clone()

    rest = project_out(new.T, known).T
    directions, values, _ = torch.linalg.svd(rest, full_matrices=False)  # [d, min(d, n)], descending
    coarsest = max(torch.finfo(kind).eps for kind in (basis.dtype, keys.dtype, precision or keys.dtype))
    least = _ROUNDING * coarsest * max(keys.shape) ** 0.5 * float(new.norm(dim=0).max())
    added = directions[:, : min(_count(values.tolist(), least, energy), d - r)]
    for _ in range(2):  # where the singular value is small, rounding has left some of the basis
        added = torch.linalg.qr(project_out(added.T, known).T).Q
    added = torch.nn.functional.normalize(added, dim=0)  # many reflections leave float32 columns a little long
    return torch.cat([basis, added.to(basis.dtype)], 1)


def project_out(matrix: Tensor, basis: Tensor) -> Tensor:
    """The part of each row that is orthogonal to a basis, `A - (A M) Mᵀ`.

    Args:
        matrix: `A`, `[o, d]`.
        basis: Orthonormal columns `M`, `[d, r]`; may be empty.

    Returns:
        `[o, d]`, in the dtype of `matrix`.

    Raises:
        InputError: If a shape does not fit.
    """
    check_shape("matrix", matrix, (None, None), "one row per output, [o, d]")
    check_shape("basis", basis, (matrix.shape[1], None), "orthonormal columns of the same d inputs, [d, r]")
    dtype = working_dtype(matrix, basis)
    wide, known = matrix.to(dtype), basis.to(dtype)
    return (wide - (wide @ known) @ known.T).to(matrix.dtype)


def _count(values: list[float], least: float, energy: float) -> int:
    """How many of the descending singular values reach the share, without those that are not above `least`."""
    squares = [(value / values[0]) ** 2 for value in values if value > least]
    # counted by what is left, so that a share of 1 takes all whatever the sum is rounded to
    left = [0.0, *accumulate(reversed(squares))][::-1]  # after the first 0, 1, 2, … directions
    return next(count for count, rest in enumerate(left) if rest <= (1 - energy) * left[0])

"""The limit of infinitely strong previous edits: directions that an update may not use at all."""
# ruff: noqa: A002  (`filter` is the public argument's name)

from __future__ import annotations

import torch
from torch import Tensor

from aeplus.functional._checks import check_finite, check_shape, working_dtype
from aeplus.functional._system import System
from aeplus.functional.basis import extend_basis
from aeplus.functional.spectrum import Spectrum


def forbidden_directions(
    prior_keys: Tensor,
    spectrum: Spectrum,
    filter: Tensor,
    relaxation: Tensor | None = None,
    precision: torch.dtype | None = None,
) -> Tensor:
    """`B` with `F^½ (I − Q Qᵀ) F^½ = F − B Bᵀ`, `Q = orth(F^½ Kp)`, for `solve_update(…, forbidden=B)` (EvoEdit).

    With the filter `F − B Bᵀ` every update is 0 on `Kp` (https://arxiv.org/abs/2510.13851): the limit β → ∞ of
    previous edits at full weight. The previous keys are then no part of the linear system, whose size stays that of a
    batch.

    Args:
        prior_keys: Keys of previous edits `Kp`, `[d, m]`.
        spectrum: Spectrum of the preserved keys, `[d]` and `[d, d]`.
        filter: Spectral filter `f`, `[d]`.
        relaxation: Orthonormal directions beside it, orthogonal to its support, `[d, r]`.
        precision: The dtype that the keys were computed in, if they are passed in a finer one: what rounding has made
            of keys that recur is no direction.

    Returns:
        `B = F^½ Q`, `[d, q]`, `q` the rank of `F^½ Kp`, in the dtype of `prior_keys`, or in float32 if that is wider.

    Raises:
        InputError: If a shape does not fit, or a key is not finite.
    """
    d = spectrum.dimension
    check_shape("prior_keys", prior_keys, (d, None), "one previous key per column [d, m]")
    check_shape("filter", filter, (d,), "one factor per eigenvector, [d]")
    check_finite("prior_keys", prior_keys)
    dtype = working_dtype(prior_keys, spectrum.values, filter)
    if relaxation is not None:
        check_shape("relaxation", relaxation, (d, None), "one direction of d inputs per column, [d, r]")
        relaxation = relaxation.to(dtype)
    wide = prior_keys.to(dtype)
    system = System(wide[:0, :0], wide, filter.to(dtype), spectrum, 1.0, relaxation)
    used = system.root(wide)  # F^½ Kp in the coordinates of the support, [s, m]
    return system.unroot(extend_basis(used[:, :0], used, 1.0, precision))

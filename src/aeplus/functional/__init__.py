"""The mathematics of editing one linear layer: tensors in, tensors out; no model, no Lightning.

Equation numbers are those of AlphaEdit+ (Findings of ACL 2026, https://aclanthology.org/2026.findings-acl.728/);
`docs/paper.md` maps all of them.

Notation, used for the shapes in every docstring of this package:

    d, o    inputs and outputs of the edited linear (`intermediate_size`, `hidden_size`)
    n, m    edits in this batch; previous edits; N = n + m
    W       `[o, d]`  the weight before this batch
    K1, Kp  `[d, n]`, `[d, m]`  new and previous keys, one per column
    R       `[o, n]`  residual `V1 - W K1`: targets minus current values of the new keys
    C       `[d, d]`  mean of `k kᵀ` over preserved text; `C = U diag(σ) Uᵀ`, σ ascending
    f       `[d]`  spectral filter, how much of each eigenvector of `C` an edit may use
    Λp      `[m]`  weights of the previous edits (a diagonal); β their common strength
    λ       ridge
    Δ       `[o, d]`  the update, kept as `[o, r] · [r, d]`

Results have the dtype of the input; half precision is computed in float32. Tensors stay on their device.
Invalid input raises `aeplus.errors.InputError`.
"""

from aeplus.functional.aligned import aligned_basis, aligned_floor, null_share, outside_coordinates
from aeplus.functional.basis import extend_basis, project_out
from aeplus.functional.compress import compress
from aeplus.functional.conflict import conflict, mutual_conflict, nearest, prior_weights
from aeplus.functional.filters import (
    null_soft_filter,
    null_space_filter,
    priced_filter,
    ridge_filter,
    soft_filter,
)
from aeplus.functional.forbidden import forbidden_directions
from aeplus.functional.leakage import leakage, preserved_energy, preserved_moment, update_energy
from aeplus.functional.moment import add_moment, moment_factor, weighted_moment
from aeplus.functional.normalized import lowest_multiplier, nearest_normalized
from aeplus.functional.relax import relax_filter
from aeplus.functional.smoothing import smoothing_coefficients, smoothing_threshold
from aeplus.functional.solve import LowRankUpdate, filtered, solve_update
from aeplus.functional.spectrum import Spectrum
from aeplus.functional.treatments import (
    deflect,
    largest_singular_value,
    leading_directions,
    masked_out,
    restrain,
    revive,
    sparsify,
    unit_row_directions,
    without,
)

__all__ = [
    "LowRankUpdate",
    "Spectrum",
    "add_moment",
    "aligned_basis",
    "aligned_floor",
    "compress",
    "conflict",
    "deflect",
    "extend_basis",
    "filtered",
    "forbidden_directions",
    "largest_singular_value",
    "leading_directions",
    "leakage",
    "lowest_multiplier",
    "masked_out",
    "moment_factor",
    "mutual_conflict",
    "nearest",
    "nearest_normalized",
    "null_share",
    "null_soft_filter",
    "null_space_filter",
    "outside_coordinates",
    "preserved_energy",
    "preserved_moment",
    "priced_filter",
    "prior_weights",
    "project_out",
    "relax_filter",
    "restrain",
    "revive",
    "ridge_filter",
    "smoothing_coefficients",
    "smoothing_threshold",
    "soft_filter",
    "solve_update",
    "sparsify",
    "unit_row_directions",
    "update_energy",
    "weighted_moment",
    "without",
]

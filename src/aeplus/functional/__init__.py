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

from aeplus.functional.basis import extend_basis, project_out
from aeplus.functional.compress import compress
from aeplus.functional.conflict import conflict, nearest, prior_weights
from aeplus.functional.filters import null_space_filter, ridge_filter, soft_filter
from aeplus.functional.leakage import leakage, preserved_energy
from aeplus.functional.relax import relax_filter
from aeplus.functional.smoothing import smoothing_coefficients, smoothing_threshold
from aeplus.functional.solve import LowRankUpdate, solve_update
from aeplus.functional.spectrum import Spectrum
from aeplus.functional.treatments import restrain, sparsify

__all__ = [
    "LowRankUpdate",
    "Spectrum",
    "compress",
    "conflict",
    "extend_basis",
    "leakage",
    "nearest",
    "null_space_filter",
    "preserved_energy",
    "prior_weights",
    "project_out",
    "relax_filter",
    "restrain",
    "ridge_filter",
    "smoothing_coefficients",
    "smoothing_threshold",
    "soft_filter",
    "solve_update",
    "sparsify",
]

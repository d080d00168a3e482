"""The paper's formulas written out densely and plainly: what the tests compare with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from aeplus.functional import Spectrum


@dataclass
class Case:
    """One random editing problem, everything dense and in float64."""

    residual: Tensor
    keys: Tensor
    prior_keys: Tensor
    prior_weights: Tensor
    prior_strength: float
    covariance: Tensor
    spectrum: Spectrum
    filter: Tensor
    ridge: float
    weight: Tensor

    @property
    def prior(self) -> dict:
        return {
            "prior_keys": self.prior_keys,
            "prior_weights": self.prior_weights,
            "prior_strength": self.prior_strength,
        }

    @property
    def problem(self) -> tuple:
        return (self.residual, self.keys, self.spectrum, self.filter, self.ridge)


def make_case(
    seed: int,
    d: int = 16,
    o: int = 5,
    n: int = 3,
    m: int = 4,
    null: int = 9,
    beta: float = 2.0,
    ridge: float = 0.7,
) -> Case:
    g = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    vectors = torch.linalg.qr(randn(d, d)).Q
    # distinct eigenvalues, so that the order of the search is not a matter of rounding
    values = (torch.arange(d, dtype=torch.float64) + 1 + 0.5 * torch.rand(d, generator=g, dtype=torch.float64)) / d
    covariance = vectors @ torch.diag(values) @ vectors.T
    mask = (torch.arange(d) < null).double()
    weights = torch.rand(m, generator=g, dtype=torch.float64)
    spectrum = Spectrum(values, vectors)
    return Case(randn(o, n), randn(d, n), randn(d, m), weights, beta, covariance, spectrum, mask, ridge, randn(o, d))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    d = draw(st.integers(2, 24))
    return make_case(
        seed=draw(st.integers(0, 10_000)),
        d=d,
        o=draw(st.integers(1, 8)),
        n=draw(st.integers(1, 8)),
        m=draw(st.integers(0, 8)),
        null=draw(st.integers(1, d - 1)),
        beta=draw(st.sampled_from([0.0, 0.5, 1.0, 100.0])),
        ridge=draw(st.sampled_from([0.1, 1.0, 10.0])),
    )


def projector(case: Case, mask: Tensor | None = None) -> Tensor:
    mask = case.filter if mask is None else mask
    return case.spectrum.vectors @ torch.diag(mask) @ case.spectrum.vectors.T


def single_edit(case: Case) -> tuple[Tensor, Tensor, Tensor, float]:
    """`r`, `k`, `P k` and λ of a batch of one."""
    r, k = case.residual[:, 0], case.keys[:, 0]
    return r, k, projector(case) @ k, case.ridge


def alphaedit(case: Case, mask: Tensor | None = None) -> Tensor:
    """`Δ = R K1ᵀ P (β Kp Λp Kpᵀ P + K1 K1ᵀ P + λ I)⁻¹` (Eq. 2, 8 and 9, with β)."""
    P = projector(case, mask)
    prior = case.prior_strength * case.prior_keys @ torch.diag(case.prior_weights) @ case.prior_keys.T
    inner = prior @ P + case.keys @ case.keys.T @ P + case.ridge * torch.eye(len(P), dtype=P.dtype)
    return case.residual @ case.keys.T @ P @ torch.linalg.inv(inner)


def memit(case: Case, alpha: float) -> Tensor:
    """`Δ = R K1ᵀ (α C + K1 K1ᵀ)⁻¹`."""
    return case.residual @ case.keys.T @ torch.linalg.inv(alpha * case.covariance + case.keys @ case.keys.T)


def objective(case: Case, delta: Tensor) -> Tensor:
    """`‖R - Δ K1‖² + β ‖Δ Kp Λp^½‖² + λ ‖Δ‖²` (Eq. 7, with β)."""
    fit = (case.residual - delta @ case.keys).square().sum()
    kept = (delta @ case.prior_keys @ torch.diag(case.prior_weights.sqrt())).square().sum()
    return fit + case.prior_strength * kept + case.ridge * delta.square().sum()


def leakage(case: Case, delta: Tensor) -> Tensor:
    """`tr(Δ C Δᵀ)`."""
    return torch.trace(delta @ case.covariance @ delta.T)


def search(
    case: Case, epsilon: float, relative: bool = False, max_leakage: float | None = None, block: int = 1
) -> tuple[Tensor, Tensor]:
    """Algorithm 1's search, one full solve per eigenvector; only at the end of a block it is decided."""
    mask, trace = case.filter.clone(), []
    current = objective(case, alphaedit(case, mask))
    candidates = [index for index in range(len(mask)) if not mask[index]]
    for start in range(0, len(candidates), block):
        wider, values = mask.clone(), []
        for index in candidates[start : start + block]:
            wider[index] = 1
            delta = alphaedit(case, wider)
            values.append(objective(case, delta))
        if current - values[-1] <= block * epsilon * (current if relative else 1):
            break
        if max_leakage is not None and leakage(case, delta) > max_leakage:
            break
        mask, current = wider, values[-1]
        trace += values
    return mask, torch.stack(trace) if trace else torch.empty(0, dtype=torch.float64)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-300))

"""Filters, forbidden directions and weight-side treatments against the dense formulas."""

import dense_reference as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional import (
    LowRankUpdate,
    deflect,
    forbidden_directions,
    largest_singular_value,
    leading_directions,
    null_soft_filter,
    null_space_filter,
    priced_filter,
    revive,
    soft_filter,
    solve_update,
    unit_row_directions,
)
from counting import Operations


@settings(deadline=None, max_examples=40)
@given(case=dense.cases(), alpha=st.sampled_from([0.1, 3.0, 300.0]))
def test_null_soft_and_priced_updates_are_the_dense_ones(case: dense.Case, alpha: float) -> None:
    """`null_soft`: the soft system within the projector; `priced`: α C outside the projector only."""
    threshold, values = float(case.spectrum.values[int(case.filter.sum())]), case.spectrum.values
    P, identity = dense.projector(case), torch.eye(len(values), dtype=torch.float64)
    plain = (case.residual, case.keys, case.spectrum)
    soft = null_soft_filter(case.spectrum, threshold, alpha, case.ridge)
    K, prior = case.keys, case.prior_strength * case.prior_keys @ torch.diag(case.prior_weights) @ case.prior_keys.T
    found = solve_update(*plain, soft, case.ridge, **case.prior).dense()
    # (K1 K1ᵀ + β Kp Λp Kpᵀ + λ I + α C)⁻¹ in the basis of the null space
    basis = case.spectrum.vectors[:, case.filter == 1]
    inner = basis.T @ (K @ K.T + prior + case.ridge * identity + alpha * case.covariance) @ basis
    assert dense.relative_error(found, case.residual @ K.T @ basis @ torch.linalg.inv(inner) @ basis.T) < 1e-8
    priced = priced_filter(case.spectrum, threshold, alpha, case.ridge)
    found = solve_update(*plain, priced, case.ridge, **case.prior).dense()
    outside = (identity - P) @ case.covariance @ (identity - P)
    expected = case.residual @ K.T @ torch.linalg.inv(K @ K.T + prior + case.ridge * identity + alpha * outside)
    assert dense.relative_error(found, expected) < 1e-8


def test_limits_of_the_filters() -> None:
    spectrum = dense.make_case(0).spectrum
    null = null_space_filter(spectrum, 0.5)
    torch.testing.assert_close(null_soft_filter(spectrum, 0.5, 1e-12, 1.0), null)
    torch.testing.assert_close(priced_filter(spectrum, 0.5, 1e14, 1.0), null)
    soft = soft_filter(spectrum, 3.0, 1.0)
    torch.testing.assert_close(null_soft_filter(spectrum, 0.5, 3.0, 1.0), null * soft)
    torch.testing.assert_close(priced_filter(spectrum, 0.5, 3.0, 1.0), torch.where(null == 1, null, soft))


# ---- forbidden directions


@settings(deadline=None, max_examples=60)
@given(case=dense.cases(), rank=st.integers(0, 2), soft=st.booleans())
def test_forbidden_directions_are_the_dense_projection_and_the_limit_of_strong_priors(
    case: dense.Case, rank: int, soft: bool
) -> None:
    chosen = soft_filter(case.spectrum, 3.0, case.ridge) if soft else case.filter
    outside = case.spectrum.vectors[:, chosen == 0][:, :rank]
    F = case.spectrum.vectors @ torch.diag(chosen) @ case.spectrum.vectors.T + outside @ outside.T
    root = case.spectrum.vectors @ torch.diag(chosen.sqrt()) @ case.spectrum.vectors.T + outside @ outside.T
    m = min(case.prior_keys.shape[1], 2)
    earlier = case.prior_keys[:, :m]
    u, s, _ = torch.linalg.svd(root @ earlier, full_matrices=False)
    Q = u[:, s > 1e-9 * s.max()] if m else u
    hard = root @ (torch.eye(len(F), dtype=F.dtype) - Q @ Q.T) @ root
    found = forbidden_directions(earlier, case.spectrum, chosen, outside)
    torch.testing.assert_close(F - found @ found.T, hard, rtol=0, atol=1e-9)
    solved = solve_update(*case.problem[:3], chosen, case.ridge, relaxation=outside, forbidden=found).dense()
    inner = case.keys @ case.keys.T @ hard + case.ridge * torch.eye(len(F), dtype=F.dtype)
    expected = case.residual @ case.keys.T @ hard @ torch.linalg.inv(inner)
    torch.testing.assert_close(solved, expected, rtol=1e-7, atol=1e-9 * float(case.residual.norm()))
    if m:
        assert float((solved @ earlier).norm()) < 1e-8 * float(case.residual.norm())


def test_it_is_the_limit_of_an_infinite_prior_strength() -> None:
    case = dense.make_case(3, m=3)
    hard = forbidden_directions(case.prior_keys, case.spectrum, case.filter)
    limit = solve_update(*case.problem, forbidden=hard).dense()
    strong = solve_update(*case.problem, prior_keys=case.prior_keys, prior_strength=1e9).dense()
    assert dense.relative_error(strong, limit) < 1e-6
    with pytest.raises(InputError, match="form 'dual' or 'auto' beside forbidden directions, got 'primal'"):
        solve_update(*case.problem, forbidden=hard, form="primal")


# ---- the weight's main directions


def an_update(seed: int, o: int, d: int) -> tuple[LowRankUpdate, Tensor]:
    g = torch.Generator().manual_seed(seed)
    left, right = torch.randn(o, 3, generator=g).double(), torch.randn(3, d, generator=g).double()
    return LowRankUpdate(left, right), torch.randn(o, d, generator=g).double() * torch.linspace(0.1, 3, d).double()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000), o=st.integers(3, 12), d=st.integers(3, 12),
    energy=st.sampled_from([0.1, 0.5, 0.9, 1.0]), strength=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
)  # fmt: skip
def test_sphere_is_the_dense_formula(seed: int, o: int, d: int, energy: float, strength: float) -> None:
    update, weight = an_update(seed, o, d)
    unit = weight / weight.norm(dim=1, keepdim=True)
    mu, vectors = torch.linalg.eigh(unit.T @ unit / o)
    mu, vectors = mu.flip(0).clamp(min=0), vectors.flip(1)
    count = next(r for r in range(1, d + 1) if mu[:r].sum() >= energy * mu.sum() * (1 - 1e-12))
    main = vectors[:, :count]
    directions = unit_row_directions(weight, energy)
    kept = torch.eye(d, dtype=torch.float64) - strength * main @ main.T
    torch.testing.assert_close(deflect(update, directions, strength).dense(), update.dense() @ kept, rtol=0, atol=1e-9)
    assert deflect(update, directions, strength).rank == update.rank


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), o=st.integers(3, 12), d=st.integers(3, 12), energy=st.sampled_from([0.1, 0.5, 0.9]))
def test_revive_is_the_dense_sum(seed: int, o: int, d: int, energy: float) -> None:
    update, weight = an_update(seed, o, d)
    u, s, v = torch.linalg.svd(weight, full_matrices=True)
    k = next(r for r in range(1, len(s) + 1) if s[:r].square().sum() >= energy * s.square().sum())
    expected = torch.zeros(o, d, dtype=torch.float64)
    for i in range(k, o):
        for j in range(k, d):
            expected += torch.outer(u[:, i], u[:, i]) @ update.dense() @ torch.outer(v[j], v[j])
    found = revive(update, *leading_directions(weight, energy))
    torch.testing.assert_close(found.dense(), expected, rtol=0, atol=1e-9)
    assert found.rank == update.rank


@pytest.mark.parametrize("shape", [(24, 200), (200, 24)])
def test_a_weight_is_decomposed_by_its_smaller_gram_matrix(shape: tuple[int, int]) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double() * torch.linspace(0.5, 2, shape[1])
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    with Operations() as operations:
        left, right = leading_directions(weight, 0.5)
        norm = largest_singular_value(weight)
    assert operations.factorizations == {"_linalg_eigh": 2}
    k = left.shape[1]
    assert 1 < k < 24
    torch.testing.assert_close(left @ left.T, u[:, :k] @ u[:, :k].T, rtol=0, atol=1e-12)
    torch.testing.assert_close(right @ right.T, v[:k].T @ v[:k], rtol=0, atol=1e-12)
    assert norm == pytest.approx(float(s[0]), rel=1e-14)
    assert leading_directions(weight.float(), 0.5)[1].dtype == torch.float32


def test_directions_that_squaring_would_blur_are_found_without() -> None:
    g = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 6, generator=g, dtype=torch.float64)).Q for n in (6, 30))
    weight = u * torch.logspace(0, -6, 6, dtype=torch.float64) @ v.T
    left, right = leading_directions(weight, 1.0)
    assert left.shape[1] == 6
    torch.testing.assert_close(right @ right.T, v @ v.T, rtol=0, atol=1e-9)
    torch.testing.assert_close(left.T @ left, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-12)


def test_error_texts() -> None:
    update, weight = an_update(0, 4, 5)
    with pytest.raises(InputError, match=r"energy above 0 and at most 1, got 0\.0; pass 0\.5"):
        leading_directions(weight, 0.0)
    with pytest.raises(InputError, match=r"strength between 0 and 1, got 2\.0"):
        deflect(update, unit_row_directions(weight, 0.5), 2.0)
    masked = LowRankUpdate(update.left, update.right, torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(InputError, match="an update without a mask, got a sparsified one; treat an update once"):
        revive(masked, *leading_directions(weight, 0.5))

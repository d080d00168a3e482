"""The four lemmas of AlphaEdit+ (https://aclanthology.org/2026.findings-acl.728/), against dense formulas in float64.

Lemmas 1 and 2 are stated in closed form. Lemmas 3 and 4 are reconstructed: `docs/paper.md` names the sources and says
what they leave open. The paper's Eq. 4 and 15 carry another λ in the coefficient `1 / (λ + ‖P k‖²)` used here, which
follows from the normal equations: `Δ = r kᵀP (P k kᵀ P + λ I)⁻¹ = r (P k)ᵀ / (λ + ‖P k‖²)`.
"""

import dense_reference as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aeplus.functional import (
    conflict,
    prior_weights,
    relax_filter,
    smoothing_coefficients,
    smoothing_threshold,
    solve_update,
)

SEEDS = range(10)


def residual_left(case: dense.Case, mask: Tensor, **prior: object) -> Tensor:
    """The residual that an update leaves, `R - Δ K1`, `[o, n]`."""
    update = solve_update(case.residual, case.keys, case.spectrum, mask, case.ridge, **prior)
    return case.residual - update.dense() @ case.keys


def inverse_gram(case: dense.Case, mask: Tensor, weights: Tensor) -> Tensor:
    """`(Kᵀ P K + λ I)⁻¹` of the new keys and the weighted previous ones, `[n + m, n + m]`, plainly."""
    keys = torch.cat([case.keys, case.prior_keys @ torch.diag((case.prior_strength * weights).sqrt())], 1)
    gram = keys.T @ dense.projector(case, mask) @ keys
    return torch.linalg.inv(gram + case.ridge * torch.eye(len(gram), dtype=gram.dtype))


# Lemma 1


@pytest.mark.parametrize("seed", SEEDS)
def test_lemma_1_conflict_with_preserved_knowledge(seed: int) -> None:
    """A single edit is `Δ = r (P k)ᵀ / (λ + ‖P k‖²)` and leaves the residual `λ / (λ + ‖P k‖²) · r`.

    So the closer a key is to the preserved subspace (`‖P k‖ → 0`), the less of the edit is carried out.
    """
    case = dense.make_case(seed, n=1, m=0)
    r, k, Pk, ridge = dense.single_edit(case)
    delta = solve_update(*case.problem).dense()
    torch.testing.assert_close(delta, torch.outer(r, Pk) / (ridge + Pk @ Pk))
    torch.testing.assert_close(r - delta @ k, ridge / (ridge + Pk @ Pk) * r)


def test_lemma_1_a_key_in_the_preserved_subspace_cannot_be_edited() -> None:
    case = dense.make_case(0, n=1, m=0)
    r, k, Pk, _ = dense.single_edit(case)
    left = []
    for share in (1.0, 0.3, 0.1, 0.03, 0.0):
        case.keys = (k - Pk + share * Pk)[:, None]  # same preserved part, less and less of the null space
        delta = solve_update(*case.problem).dense()
        left.append(float((r - delta @ case.keys[:, 0]).norm() / r.norm()))
    assert left == sorted(left)
    assert left[0] < 0.5
    assert left[-1] == pytest.approx(1, abs=1e-12)


# Lemma 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [0.0, 1.0, 100.0])
def test_lemma_2_conflict_with_a_previous_edit(seed: int, beta: float) -> None:
    """With one previous key `p`, the residual left is `λ / (λ + ‖P k‖² - β (kᵀ P p)² / (λ + β ‖P p‖²)) · r`.

    The denominator is the Schur complement of the previous key in the 2 x 2 system. The larger the overlap
    `kᵀ P p`, the less of the edit is carried out.
    """
    case = dense.make_case(seed, n=1, m=1)
    r, k, Pk, ridge = dense.single_edit(case)
    p = case.prior_keys[:, 0]
    Pp = dense.projector(case) @ p
    delta = solve_update(*case.problem, case.prior_keys, prior_strength=beta).dense()
    schur = ridge + Pk @ Pk - beta * (k @ Pp) ** 2 / (ridge + beta * (Pp @ Pp))
    torch.testing.assert_close(r - delta @ k, ridge / schur * r)
    alone = r - solve_update(*case.problem).dense() @ k
    assert (r - delta @ k).norm() >= alone.norm() * (1 - 1e-12)


def test_lemma_2_a_collinear_previous_key_blocks_the_edit() -> None:
    case = dense.make_case(1, n=1, m=0)
    r, k, _, _ = dense.single_edit(case)
    left = []
    for beta in (0.0, 1.0, 1e2, 1e6):
        delta = solve_update(*case.problem, 2 * case.keys, prior_strength=beta).dense()
        left.append(float((r - delta @ k).norm() / r.norm()))
    assert left == sorted(left)
    assert left[0] < 0.5
    assert left[-1] > 1 - 1e-5


# Lemma 3, reconstructed: inconsistent edits (a large ‖r‖) harm themselves and, through cross terms, their batch


@settings(deadline=None, max_examples=30)
@given(dense.cases())
def test_lemma_3_reconstructed_residuals_mix_within_a_batch(case: dense.Case) -> None:
    """`R - Δ K1 = λ R [(Kᵀ P K + λ I)⁻¹]_(n x n)`: edit i keeps `λ S_ii r_i`, and `λ S_ji r_j` of every other edit.

    Both are linear in the residuals, so the larger ‖r_j‖, the larger the error that edit j leaves in edit i.
    """
    S = inverse_gram(case, case.filter, case.prior_weights)
    n = case.keys.shape[1]
    left = residual_left(case, case.filter, **case.prior)
    torch.testing.assert_close(left, case.ridge * case.residual @ S[:n, :n], rtol=1e-7, atol=1e-9)
    case.residual = torch.cat([case.residual[:, :-1], 10 * case.residual[:, -1:]], 1)  # the last edit is inconsistent
    cross_term = 0.9 * case.ridge * torch.outer(case.residual[:, -1], S[n - 1, :n])
    harmed = residual_left(case, case.filter, **case.prior)
    torch.testing.assert_close(harmed - left, cross_term, rtol=1e-7, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 10.0]))
def test_lemma_3_reconstructed_cross_term_of_two_edits(seed: int, ridge: float) -> None:
    """For two edits, `r_1' = λ ((λ + ‖P k_2‖²) r_1 - (k_1ᵀ P k_2) r_2) / det`, with the determinant of `G + λ I`.

    Keys that are orthogonal in the null space do not disturb one another, whatever the residuals.
    """
    case = dense.make_case(seed, n=2, m=0, ridge=ridge)
    P = dense.projector(case)
    (r1, r2), (k1, k2) = case.residual.T, case.keys.T
    a, b, c = k1 @ P @ k1, k2 @ P @ k2, k1 @ P @ k2
    determinant = (ridge + a) * (ridge + b) - c**2
    expected = ridge * ((ridge + b) * r1 - c * r2) / determinant
    torch.testing.assert_close(residual_left(case, case.filter)[:, 0], expected)
    case.keys = torch.stack([k1, k2 - c / a * (P @ k1)], 1)
    torch.testing.assert_close(residual_left(case, case.filter)[:, 0], ridge / (ridge + a) * r1)


# Lemma 4, reconstructed: what P̃, Λp and smoothing repair of Lemmas 1, 2 and 3


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 10.0]))
def test_lemma_4_reconstructed_a_relaxed_projector_leaves_less_of_a_single_edit(seed: int, ridge: float) -> None:
    """`P_mod = P + P̃` leaves `λ / (λ + ‖P_mod k‖²) · r`, less than Lemma 1's since `‖P_mod k‖² = ‖P k‖² + ‖P̃ k‖²`."""
    case = dense.make_case(seed, n=1, m=0, null=3, ridge=ridge)
    relaxed, trace = relax_filter(*case.problem, epsilon=0.0, max_rank=4)
    assert len(trace) == int((relaxed - case.filter).sum()) == 4
    r, k, Pk, _ = dense.single_edit(case)
    added = dense.projector(case, relaxed - case.filter) @ k
    left = residual_left(case, relaxed)[:, 0]
    torch.testing.assert_close(left, ridge / (ridge + Pk @ Pk + added @ added) * r)
    assert left.norm() < ridge / (ridge + Pk @ Pk) * r.norm()


@settings(deadline=None, max_examples=30)
@given(dense.cases())
def test_lemma_4_reconstructed_a_relaxed_projector_never_raises_the_objective(case: dense.Case) -> None:
    """Eq. 7 at its optimum is `λ tr(R S Rᵀ)`, and no larger with `P_mod` than with `P`, for any batch and history."""
    relaxed, _ = relax_filter(*case.problem, epsilon=0.0, **case.prior)
    objectives, n = [], case.keys.shape[1]
    for mask in (case.filter, relaxed):
        delta = solve_update(case.residual, case.keys, case.spectrum, mask, case.ridge, **case.prior).dense()
        S = inverse_gram(case, mask, case.prior_weights)[:n, :n]
        objectives.append(float(dense.objective(case, delta)))
        expected = case.ridge * float(torch.trace(case.residual @ S @ case.residual.T))
        assert objectives[-1] == pytest.approx(expected, rel=1e-7)
    assert objectives[1] <= objectives[0] * (1 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([1.0, 100.0]))
def test_lemma_4_reconstructed_conflict_weights_leave_less_of_a_single_edit(seed: int, m: int, beta: float) -> None:
    """With `Λp = 1 - s` the residual is `λ S_11 r`, strictly between Lemma 1's (alone) and Lemma 2's (`Λp = I`)."""
    case = dense.make_case(seed, n=1, m=m, beta=beta)
    weights = prior_weights(case.prior_keys, case.keys)
    r, k = case.residual[:, 0], case.keys[:, 0]
    torch.testing.assert_close(weights, 1 - (k @ case.prior_keys).abs() / (k.norm() * case.prior_keys.norm(dim=0)))
    left = residual_left(case, case.filter, prior_keys=case.prior_keys, prior_weights=weights, prior_strength=beta)[
        :, 0
    ]
    torch.testing.assert_close(left, case.ridge * inverse_gram(case, case.filter, weights)[0, 0] * r)
    alone = residual_left(case, case.filter)[:, 0].norm()
    equal = residual_left(case, case.filter, prior_keys=case.prior_keys, prior_strength=beta)[:, 0].norm()
    assert alone <= left.norm() * (1 + 1e-12)
    assert left.norm() < equal


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 5), st.sampled_from([-3.0, 0.5, 2.0]))
def test_lemma_4_reconstructed_no_weight_for_a_collinear_previous_edit(seed: int, m: int, factor: float) -> None:
    """`Λp` is 0 for a previous key collinear with the new one: the residual is the one without that previous edit.

    With no other previous edit it is Lemma 1's, `λ / (λ + ‖P k‖²) · r`.
    """
    case = dense.make_case(seed, n=1, m=m, beta=100.0)
    previous = torch.cat([factor * case.keys, case.prior_keys], 1)
    assert conflict(case.keys, previous).item() == pytest.approx(1)
    weights = prior_weights(previous, case.keys)
    left = residual_left(case, case.filter, prior_keys=previous, prior_weights=weights, prior_strength=100.0)[:, 0]
    without = case.ridge * inverse_gram(case, case.filter, weights[1:])[0, 0] * case.residual[:, 0]
    torch.testing.assert_close(left, without, rtol=1e-7, atol=1e-9)
    if not m:
        r, _, Pk, ridge = dense.single_edit(case)
        torch.testing.assert_close(left, ridge / (ridge + Pk @ Pk) * r)


@settings(deadline=None, max_examples=30)
@given(dense.cases(), st.integers(1, 10))
def test_lemma_4_reconstructed_smoothing_shortens_what_inconsistent_edits_disturb(case: dense.Case, T: int) -> None:
    """`R^t = (1 - β(t)) R` for the edits above `τ_r`, so `Δ^t` is the other edits' update and `1 - β(t)` of theirs.

    What the inconsistent edits do to any key, of the batch (Lemma 3), of previous edits or of others, starts at half
    and grows by equal steps of `1 / 2T` until the last iteration is the unsmoothed update.
    """
    current = case.weight @ case.keys  # v0
    targets = current + case.residual
    norms = case.residual.norm(dim=0)
    threshold = smoothing_threshold(norms)
    smoothed = norms > threshold
    probes = torch.cat([case.keys, case.prior_keys, case.spectrum.vectors], 1)
    whole = dense.alphaedit(case) @ probes
    kept = case.residual
    case.residual = torch.where(smoothed, torch.zeros_like(kept), kept)
    consistent = dense.alphaedit(case) @ probes  # what the consistent edits do
    for t in range(T + 1):
        beta = smoothing_coefficients(norms, t, T, threshold)
        case.residual = targets + beta * (current - targets) - current
        moved = solve_update(*case.problem, **case.prior).dense() @ probes
        torch.testing.assert_close(moved, consistent + (0.5 + t / (2 * T)) * (whole - consistent), rtol=1e-7, atol=1e-8)

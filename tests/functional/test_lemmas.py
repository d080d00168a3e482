"""The paper's four lemmas, in the form used here, with the coefficient `1 / (λ + ‖P k‖²)`.

The paper's Eq. 4 and 15 carry another λ in that coefficient. The first lemma is derived from the normal
equations: `Δ = r kᵀP (P k kᵀ P + λ I)⁻¹ = r (P k)ᵀ / (λ + ‖P k‖²)`.
"""

import dense_reference as dense
import pytest
import torch
from torch import Tensor

from aeplus.functional import conflict, prior_weights, solve_update

SEEDS = range(10)


def single(seed: int, m: int = 0) -> dense.Case:
    return dense.make_case(seed, n=1, m=m)


def parts(case: dense.Case) -> tuple[Tensor, Tensor, Tensor, float]:
    """`r`, `k`, `P k` and λ of a single edit."""
    r, k = case.residual[:, 0], case.keys[:, 0]
    return r, k, dense.projector(case) @ k, case.ridge


@pytest.mark.parametrize("seed", SEEDS)
def test_lemma_1_conflict_with_preserved_knowledge(seed: int) -> None:
    """A single edit is `Δ = r (P k)ᵀ / (λ + ‖P k‖²)` and leaves the residual `λ / (λ + ‖P k‖²) · r`.

    So the closer a key is to the preserved subspace (`‖P k‖ → 0`), the less of the edit is carried out.
    """
    case = single(seed)
    r, k, Pk, ridge = parts(case)
    delta = solve_update(*case.problem).dense()
    torch.testing.assert_close(delta, torch.outer(r, Pk) / (ridge + Pk @ Pk))
    torch.testing.assert_close(r - delta @ k, ridge / (ridge + Pk @ Pk) * r)


def test_lemma_1_a_key_in_the_preserved_subspace_cannot_be_edited() -> None:
    case = single(0)
    r, k, Pk, _ = parts(case)
    left = []
    for share in (1.0, 0.3, 0.1, 0.03, 0.0):
        case.keys = (k - Pk + share * Pk)[:, None]  # same preserved part, less and less of the null space
        delta = solve_update(*case.problem).dense()
        left.append(float((r - delta @ case.keys[:, 0]).norm() / r.norm()))
    assert left == sorted(left)
    assert left[0] < 0.5
    assert left[-1] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [0.0, 1.0, 100.0])
def test_lemma_2_conflict_with_an_earlier_edit(seed: int, beta: float) -> None:
    """With one earlier key `p`, the residual left is `λ / (λ + ‖P k‖² - β (kᵀ P p)² / (λ + β ‖P p‖²)) · r`.

    The denominator is the Schur complement of the earlier key in the 2 x 2 system. The larger the overlap
    `kᵀ P p`, the less of the edit is carried out.
    """
    case = single(seed, m=1)
    r, k, Pk, ridge = parts(case)
    p = case.prior_keys[:, 0]
    Pp = dense.projector(case) @ p
    delta = solve_update(*case.problem, case.prior_keys, prior_strength=beta).dense()
    schur = ridge + Pk @ Pk - beta * (k @ Pp) ** 2 / (ridge + beta * (Pp @ Pp))
    torch.testing.assert_close(r - delta @ k, ridge / schur * r)
    alone = r - solve_update(*case.problem).dense() @ k
    assert (r - delta @ k).norm() >= alone.norm() * (1 - 1e-12)


def test_lemma_2_a_collinear_earlier_key_blocks_the_edit() -> None:
    case = single(1)
    r, k, _, _ = parts(case)
    left = []
    for beta in (0.0, 1.0, 1e2, 1e6):
        delta = solve_update(*case.problem, 2 * case.keys, prior_strength=beta).dense()
        left.append(float((r - delta @ k).norm() / r.norm()))
    assert left == sorted(left)
    assert left[0] < 0.5
    assert left[-1] > 1 - 1e-5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [1.0, 100.0])
def test_lemma_3_disturbance_of_the_earlier_edit(seed: int, beta: float) -> None:
    """The earlier key moves by `Δ p = λ kᵀPp / ((λ + ‖Pk‖²)(λ + w ‖Pp‖²) - w (kᵀPp)²) · r`, `w = β Λp`.

    A larger weight disturbs the earlier edit less, and (Lemma 2) carries out less of the new one.
    """
    case = single(seed, m=1)
    r, k, Pk, ridge = parts(case)
    p = case.prior_keys[:, 0]
    Pp = dense.projector(case) @ p
    moved, left = [], []
    for weight in (1.0, 0.5, 0.0):
        w = beta * weight
        weights = torch.tensor([weight]).double()
        delta = solve_update(*case.problem, case.prior_keys, weights, beta).dense()
        determinant = (ridge + Pk @ Pk) * (ridge + w * (Pp @ Pp)) - w * (k @ Pp) ** 2
        torch.testing.assert_close(delta @ p, ridge * (k @ Pp) / determinant * r)
        moved.append(float((delta @ p).norm()))
        left.append(float((r - delta @ k).norm()))
    assert moved == sorted(moved)
    assert left == sorted(left, reverse=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_lemma_3_no_weight_for_a_collinear_earlier_key_restores_lemma_1(seed: int) -> None:
    """`Λp` is 0 for an earlier key collinear with the new one, and the edit is as if it were alone."""
    case = single(seed)
    prior = -3 * case.keys
    assert conflict(case.keys, prior).item() == pytest.approx(1)
    weights = prior_weights(prior, case.keys)
    with_prior = solve_update(*case.problem, prior, weights, 100.0).dense()
    r, k, Pk, ridge = parts(case)
    torch.testing.assert_close(r - with_prior @ k, ridge / (ridge + Pk @ Pk) * r)


@pytest.mark.parametrize("seed", SEEDS)
def test_lemma_4_an_inconsistent_edit_disturbs_in_proportion_to_its_residual(seed: int) -> None:
    """`‖Δ‖_F = ‖r‖ ‖P k‖ / (λ + ‖P k‖²)`, and another key moves by at most `‖Δ‖_F ‖P k'‖`.

    Both grow linearly with the residual, which smoothing shortens.
    """
    case = single(seed)
    r, _, Pk, ridge = parts(case)
    P = dense.projector(case)
    others = torch.randn(16, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    others[:, 0] = Pk  # the bound is attained
    for scale in (1.0, 10.0):
        case.residual = scale * r[:, None]
        delta = solve_update(*case.problem).dense()
        size = scale * r.norm() * Pk.norm() / (ridge + Pk @ Pk)
        torch.testing.assert_close(delta.norm(), size)
        moved, bound = (delta @ others).norm(dim=0), size * (P @ others).norm(dim=0)
        assert (moved <= bound * (1 + 1e-12)).all()
        torch.testing.assert_close(moved[0], bound[0])

"""What a new edit does to other keys: previous edits and unrelated ones move in proportion to its residual."""

import dense_reference as dense
import pytest
import torch

from aeplus.functional import solve_update

SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [1.0, 100.0])
def test_a_previous_edit_moves_less_the_more_it_weighs(seed: int, beta: float) -> None:
    """The previous key moves by `Δ p = λ kᵀPp / ((λ + ‖Pk‖²)(λ + w ‖Pp‖²) - w (kᵀPp)²) · r`, `w = β Λp`.

    A larger weight disturbs the previous edit less, and (Lemma 2) carries out less of the new one.
    """
    case = dense.make_case(seed, n=1, m=1)
    r, k, Pk, ridge = dense.single_edit(case)
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
def test_other_keys_move_in_proportion_to_the_residual(seed: int) -> None:
    """`‖Δ‖_F = ‖r‖ ‖P k‖ / (λ + ‖P k‖²)`, and another key moves by at most `‖Δ‖_F ‖P k'‖`.

    Both grow linearly with the residual, which smoothing shortens.
    """
    case = dense.make_case(seed, n=1, m=0)
    r, _, Pk, ridge = dense.single_edit(case)
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

"""The moment of earlier keys in place of the keys: the same updates, whatever their number."""

import dense_reference as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aeplus.errors import InputError
from aeplus.functional import (
    add_moment,
    aligned_basis,
    conflict,
    forbidden_directions,
    moment_factor,
    mutual_conflict,
    relax_filter,
    solve_update,
    weighted_moment,
)


def moment_of(case: dense.Case) -> torch.Tensor:
    return case.prior_keys @ torch.diag(case.prior_weights) @ case.prior_keys.T


@settings(deadline=None, max_examples=50)
@given(d=st.integers(1, 9), m=st.integers(0, 20), seed=st.integers(0, 100))
def test_a_moment_is_the_dense_product(d: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(d, m, generator=generator)
    weights = torch.randn(m, generator=generator, dtype=torch.float64)
    found = add_moment(torch.eye(d, dtype=torch.float64), keys, weights)
    torch.testing.assert_close(found, torch.eye(d).double() + keys.double() @ torch.diag(weights) @ keys.double().T)
    assert torch.equal(found, found.T)


def test_more_keys_than_are_cast_at_a_time() -> None:
    keys = torch.randn(5, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(add_moment(torch.zeros(5, 5).double(), keys), keys @ keys.T)


@pytest.mark.parametrize("other", [0, 2, 9, 10])
def test_few_or_many_weights_that_are_not_one(other: int) -> None:
    generator = torch.Generator().manual_seed(other)
    keys = torch.randn(6, 10, generator=generator, dtype=torch.float64)
    weights = torch.ones(10).double()
    weights[torch.randperm(10, generator=generator)[:other]] = 0.25
    whole = keys @ keys.T
    before = whole.clone()
    found = weighted_moment([keys[:, :4], keys[:, 4:4], keys[:, 4:]], weights, whole)
    torch.testing.assert_close(found, keys @ torch.diag(weights) @ keys.T)
    assert torch.equal(whole, before)  # it is kept for the batches to come
    assert (found is whole) == (other == 0)


@settings(deadline=None, max_examples=50)
@given(case=dense.cases())
def test_the_update_from_a_moment_is_the_papers_formula(case: dense.Case) -> None:
    problem = (*case.problem,)
    update = solve_update(*problem, prior_moment=moment_of(case), prior_strength=case.prior_strength)
    assert dense.relative_error(update.dense(), dense.alphaedit(case)) <= 1e-9


@settings(deadline=None, max_examples=25)
@given(case=dense.cases())
def test_with_aligned_directions_too(case: dense.Case) -> None:
    directions = aligned_basis(case.keys, case.spectrum, case.filter, share=0.9)
    expected = solve_update(*case.problem, **case.prior, relaxation=directions, form="dual").dense()
    strength = case.prior_strength
    update = solve_update(*case.problem, prior_moment=moment_of(case), prior_strength=strength, relaxation=directions)
    assert dense.relative_error(update.dense(), expected) <= 1e-8


@settings(deadline=None, max_examples=25)
@given(case=dense.cases(), epsilon=st.sampled_from([0.0, 1e-3, 0.1]))
def test_the_search_from_a_moment_accepts_the_same(case: dense.Case, epsilon: float) -> None:
    arguments = (*case.problem, epsilon)
    expected, trace = relax_filter(*arguments, **case.prior, max_growth=3.0)
    found, other = relax_filter(
        *arguments, prior_moment=moment_of(case), prior_strength=case.prior_strength, max_growth=3.0
    )
    assert torch.equal(found, expected)
    torch.testing.assert_close(other, trace)


@pytest.mark.parametrize("rank", [0, 3, 6])
def test_a_factor_has_the_rank_of_its_moment(rank: int) -> None:
    keys = torch.randn(6, rank, dtype=torch.float64)
    factor = moment_factor(keys @ keys.T)
    assert factor.shape == (6, rank)
    torch.testing.assert_close(factor @ factor.T, keys @ keys.T)


def test_conflicts_both_ways() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, others = torch.randn(8, 3, generator=generator), torch.randn(8, 20, generator=generator)
    keys[:, 1] = 0
    others[:, 7] = 0
    others[:, 9] = -3 * keys[:, 0]
    ours, theirs = mutual_conflict(keys, [others[:, :5], others[:, 5:5], others[:, 5:]])
    torch.testing.assert_close(ours, conflict(keys, others))
    torch.testing.assert_close(theirs, conflict(others, keys))
    assert ours[1] == theirs[7] == 0
    assert theirs[9] <= 1
    none, nobody = mutual_conflict(keys, [])
    assert none.tolist() == [0, 0, 0]
    assert nobody.shape == (0,)


def test_bad_input() -> None:
    case = dense.make_case(0)
    moment = moment_of(case)
    directions = forbidden_directions(case.prior_keys, case.spectrum, case.filter)
    with pytest.raises(InputError, match=r"expected prior_moment without prior_keys and prior_weights, got both; pass"):
        solve_update(*case.problem, prior_keys=case.prior_keys, prior_moment=moment)
    with pytest.raises(InputError, match=r"expected prior_moment without prior_keys and prior_weights, got both; pass"):
        relax_filter(*case.problem, 0.0, prior_keys=case.prior_keys, prior_moment=moment)
    for further in ({"form": "dual"}, {"forbidden": directions}):
        with pytest.raises(InputError, match=r"expected form 'primal' or 'auto' and no forbidden .* pass prior_keys"):
            solve_update(*case.problem, prior_moment=moment, **further)
    with pytest.raises(InputError, match=r"prior_moment of shape \[16, 16\], got \[2, 2\]"):
        solve_update(*case.problem, prior_moment=torch.eye(2))
    with pytest.raises(InputError, match=r"prior_moment of shape \[16, 16\], got \[2, 2\]"):
        relax_filter(*case.problem, 0.0, prior_moment=torch.eye(2))
    with pytest.raises(InputError, match="expected finite prior_moment"):
        solve_update(*case.problem, prior_moment=moment / 0)
    with pytest.raises(InputError, match=r"a block of shape \[16, any\], got \[4, 2\]"):
        mutual_conflict(case.keys, [torch.ones(4, 2)])

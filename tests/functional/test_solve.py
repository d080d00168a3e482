import dataclasses

import dense_reference as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aeplus.errors import InputError
from aeplus.functional import (
    LowRankUpdate,
    Spectrum,
    filtered,
    null_space_filter,
    prior_weights,
    relax_filter,
    ridge_filter,
    smoothing_coefficients,
    solve_update,
)

FORMS = ["auto", "dual", "primal"]


@settings(deadline=None, max_examples=50)
@given(case=dense.cases(), form=st.sampled_from(FORMS))
def test_every_form_is_the_papers_formula(case: dense.Case, form: str) -> None:
    update = solve_update(*case.problem, **case.prior, form=form)
    assert update.rank == case.keys.shape[1]
    assert dense.relative_error(update.dense(), dense.alphaedit(case)) <= 1e-9


@settings(deadline=None, max_examples=25)
@given(case=dense.cases(), form=st.sampled_from(FORMS), seed=st.integers(0, 100))
def test_scattered_zero_one_filters(case: dense.Case, form: str, seed: int) -> None:
    mask = (torch.rand(len(case.filter), generator=torch.Generator().manual_seed(seed)) < 0.5).double()
    update = solve_update(case.residual, case.keys, case.spectrum, mask, case.ridge, **case.prior, form=form)
    expected = dense.alphaedit(case, mask)
    assert (update.dense() - expected).norm() <= 1e-9 * expected.norm() + 1e-12


@settings(deadline=None, max_examples=25)
@given(case=dense.cases(), form=st.sampled_from(FORMS), alpha=st.sampled_from([0.5, 3.0, 200.0]))
def test_memit_is_a_filter(case: dense.Case, form: str, alpha: float) -> None:
    soft = ridge_filter(case.spectrum, alpha)
    update = solve_update(case.residual, case.keys, case.spectrum, soft, 1.0, form=form)
    assert dense.relative_error(update.dense(), dense.memit(case, alpha)) <= 1e-9


def test_the_solution_is_a_minimum_of_the_objective() -> None:
    case = dense.make_case(0)
    best = solve_update(*case.problem, **case.prior).dense()
    lowest = dense.objective(case, best)
    for seed in range(20):
        step = torch.randn(best.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert dense.objective(case, best + 1e-2 * step @ dense.projector(case)) > lowest


def test_weights_default_to_ones_and_no_prior_keys_to_none() -> None:
    case = dense.make_case(1)
    ones = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(
        solve_update(*case.problem, prior_keys=case.prior_keys).dense(),
        solve_update(*case.problem, prior_keys=case.prior_keys, prior_weights=ones).dense(),
    )
    torch.testing.assert_close(
        solve_update(*case.problem).dense(),
        solve_update(*case.problem, prior_keys=case.prior_keys[:, :0], prior_weights=ones[:0]).dense(),
    )


def test_alphaedit_plus_with_everything_off_is_alphaedit() -> None:
    case = dense.make_case(2)
    case.prior_weights, case.prior_strength = torch.ones(4, dtype=torch.float64), 1.0
    base = null_space_filter(case.spectrum, float(case.spectrum.values[9]))
    # no P̃: an infinite ε; no Λp: ones; no smoothing: the last iteration's coefficients
    mask, trace = relax_filter(case.residual, case.keys, case.spectrum, base, case.ridge, float("inf"))
    beta = smoothing_coefficients(case.residual.norm(dim=0), 3, 3, 0.0)
    plus = solve_update(
        (1 - beta) * case.residual,
        case.keys,
        case.spectrum,
        mask,
        case.ridge,
        case.prior_keys,
        case.prior_weights,
    )
    assert not len(trace)
    assert dense.relative_error(plus.dense(), dense.alphaedit(case)) <= 1e-12
    # and each part on its own does change the update
    weights = prior_weights(case.prior_keys, case.keys)
    assert (solve_update(*case.problem, case.prior_keys, weights).dense() - plus.dense()).norm() > 1e-3
    wider, _ = relax_filter(case.residual, case.keys, case.spectrum, base, case.ridge, 0.0)
    assert (wider - base).sum() == 7


def test_another_residual_needs_no_new_solve() -> None:
    case = dense.make_case(3)
    other = 0.5 * case.residual + 1
    update = dataclasses.replace(solve_update(*case.problem, **case.prior), left=other)
    again = solve_update(other, *case.problem[1:], **case.prior)
    torch.testing.assert_close(update.dense(), again.dense())


def test_an_update_does_not_change_with_its_residual() -> None:
    case = dense.make_case(3)
    update = solve_update(*case.problem)
    before = update.dense()
    case.residual.zero_()
    torch.testing.assert_close(update.dense(), before)


def test_a_filter_of_zeros_gives_no_update() -> None:
    case = dense.make_case(4)
    for form in FORMS:
        update = solve_update(case.residual, case.keys, case.spectrum, 0 * case.filter, 1.0, form=form)
        assert not update.dense().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_dtype_is_kept(dtype: torch.dtype, form: str) -> None:
    case = dense.make_case(5)
    low = [x.to(dtype) for x in (case.residual, case.keys, case.filter, case.prior_keys, case.prior_weights)]
    spectrum = case.spectrum.to(dtype)
    update = solve_update(low[0], low[1], spectrum, low[2], case.ridge, low[3], low[4], 2.0, form=form)
    assert update.left.dtype == update.right.dtype == update.dense().dtype == dtype
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 1e-1, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert dense.relative_error(update.dense().double(), dense.alphaedit(case)) < tolerance


def test_half_precision_is_computed_in_float32() -> None:
    """Rounded inputs, exact otherwise: only the rounding of the result may show."""
    case = dense.make_case(6)
    bf16 = torch.bfloat16
    R, K, S, f = case.residual.to(bf16), case.keys.to(bf16), case.spectrum.to(bf16), case.filter.to(bf16)
    update = solve_update(R, K, S, f, 0.01)
    exact = solve_update(R.double(), K.double(), S.to(torch.float64), f.double(), 0.01)
    torch.testing.assert_close(update.right.double(), exact.right, rtol=2**-8, atol=1e-4)


def test_a_wider_dtype_among_the_arguments_decides_the_computation() -> None:
    case = dense.make_case(7)
    update = solve_update(case.residual.float(), *case.problem[1:])
    exact = solve_update(case.residual.float().double(), *case.problem[1:])
    assert update.right.dtype == torch.float32
    torch.testing.assert_close(update.right, exact.right.float(), rtol=0, atol=0)


def test_rank_and_dense() -> None:
    update = LowRankUpdate(torch.ones(3, 2), torch.ones(2, 4))
    assert update.rank == 2
    assert update.dense().tolist() == [[2.0] * 4] * 3


nan = float("nan")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"residual": torch.ones(5, 2)},
            r"residual of shape \[any, 3\], got \[5, 2\]; pass one resid",
        ),
        (
            {"keys": torch.ones(7, 3)},
            r"keys of shape \[16, any\], got \[7, 3\]; pass one key of d",
        ),
        ({"keys": torch.ones(16, 0)}, "at least one edit in keys, got 0 columns"),
        (
            {"keys": torch.ones(16, 3, dtype=torch.int64)},
            "keys in floating point, got",
        ),
        ({"filter": torch.ones(4)}, r"filter of shape \[16\], got \[4\]; pass one factor per"),
        ({"filter": -torch.ones(16)}, "no negative entry in filter, got -1; clamp it"),
        ({"ridge": 0.0}, r"ridge above 0 and finite, got 0\.0; change ridge"),
        ({"ridge": nan}, "ridge above 0 and finite, got nan"),
        (
            {"residual": torch.full((5, 3), nan)},
            "finite residual, got 15 of 15 entries NaN or inf",
        ),
        ({"keys": torch.full((16, 3), float("inf"))}, "finite keys, got 48 of 48"),
        ({"prior_keys": torch.ones(7, 4)}, r"prior_keys of shape \[16, any\], got \[7, 4\]"),
        (
            {"prior_weights": torch.ones(3)},
            r"prior_weights of shape \[4\], got \[3\]; pass one weight",
        ),
        ({"prior_weights": -torch.ones(4)}, "no negative entry in prior_weights"),
        ({"prior_weights": torch.full((4,), nan)}, "finite prior_weights, got 4 of 4"),
        ({"prior_strength": -1.0}, r"prior_strength of at least 0, got -1\.0"),
        ({"prior_keys": None}, "prior_keys beside prior_weights, got none; pass the previous keys"),
        ({"form": "fast"}, "form 'auto', 'dual' or 'primal', got 'fast'"),
    ],
)
def test_error_texts(change: dict, text: str) -> None:
    case = dense.make_case(0)
    names = ("residual", "keys", "spectrum", "filter", "ridge")
    arguments = dict(zip(names, case.problem, strict=True)) | case.prior | change
    with pytest.raises(InputError, match=text):
        solve_update(**arguments)


def test_indefinite_by_rounding_is_refused() -> None:
    keys = torch.full((2, 3), 1e8)
    spectrum = Spectrum(torch.tensor([0.1, 0.2]), torch.eye(2))
    with pytest.raises(
        InputError,
        match=r"indefinite one by rounding in torch\.float32; raise the ridge \(alpha, for MEMIT\'s filter\), or pass",
    ):
        solve_update(torch.ones(1, 3), keys, spectrum, torch.ones(2), 1e-9, form="dual")


@settings(deadline=None, max_examples=60)
@given(case=dense.cases(), rank=st.integers(0, 3), forbids=st.booleans(), part=st.booleans())
def test_products_of_previous_keys_that_are_known_change_nothing(
    case: dense.Case, rank: int, forbids: bool, part: bool
) -> None:
    if not case.prior_keys.shape[1]:
        return
    spectrum = case.spectrum.leading(int((case.filter == 0).sum())) if part else case.spectrum
    gram = case.prior_keys.T @ filtered(case.prior_keys, spectrum, case.filter)
    relaxation = torch.randn(len(case.filter), rank, generator=torch.Generator().manual_seed(rank)).double()
    inside = case.spectrum.vectors[:, case.filter == 1][:, :1]
    more = {**case.prior, "relaxation": relaxation, "forbidden": 0.5 * inside if forbids else None}
    arguments = case.residual, case.keys, spectrum, case.filter, case.ridge
    expected, found = (solve_update(*arguments, **more, prior_gram=g).dense() for g in (None, gram))
    assert dense.relative_error(found, expected) < 1e-8


def test_error_texts_beside_products_of_previous_keys() -> None:
    case = dense.make_case(0)
    gram = torch.eye(case.prior_keys.shape[1]).double()
    with pytest.raises(InputError, match="expected form 'dual' or 'auto' beside prior_gram, got 'primal'"):
        solve_update(*case.problem, **case.prior, prior_gram=gram, form="primal")
    with pytest.raises(InputError, match=r"expected prior_gram of shape \[.*\], got \[2, 2\]; pass the products of"):
        solve_update(*case.problem, **case.prior, prior_gram=torch.eye(2).double())

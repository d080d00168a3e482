"""A spectrum that holds only the eigenvectors outside the null space gives what the whole one gives."""

import dense_reference as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aeplus.errors import InputError
from aeplus.functional import (
    LowRankUpdate,
    Spectrum,
    aligned_basis,
    forbidden_directions,
    leakage,
    null_share,
    null_soft_filter,
    priced_filter,
    relax_filter,
    soft_filter,
    solve_update,
)


def outside(case: dense.Case) -> Spectrum:
    return case.spectrum.leading(int((case.filter == 0).sum()))


@settings(deadline=None, max_examples=60)
@given(
    case=dense.cases(),
    form=st.sampled_from(["auto", "dual", "primal"]),
    priced=st.booleans(),
    inside=st.sampled_from([1.0, 0.3]),
)
def test_updates_are_those_of_the_whole_spectrum(case: dense.Case, form: str, priced: bool, inside: float) -> None:
    part, f = outside(case), case.filter
    if priced:
        f = priced_filter(case.spectrum, float(case.spectrum.values[int(f.sum())]), 3.0, case.ridge)
    f = torch.where(case.filter == 1, inside, f)
    plain = case.residual, case.keys
    Q = aligned_basis(case.keys, case.spectrum, case.filter, share=0.9, power=1.0, floor=0.1)
    for more in ({}, {"relaxation": Q} if not priced else {}):
        found = solve_update(*plain, part, f, case.ridge, **case.prior, form=form, **more).dense()  # type: ignore[arg-type]
        whole = solve_update(*plain, case.spectrum, f, case.ridge, **case.prior, form=form, **more).dense()  # type: ignore[arg-type]
        assert dense.relative_error(found, whole) < 1e-8
    if case.prior_keys.shape[1]:
        moment = case.prior_keys @ torch.diag(case.prior_weights) @ case.prior_keys.T
        both = [
            solve_update(*plain, s, f, case.ridge, prior_moment=moment, prior_strength=case.prior_strength).dense()
            for s in (part, case.spectrum)
        ]
        assert dense.relative_error(*both) < 1e-8


@settings(deadline=None, max_examples=40)
@given(case=dense.cases())
def test_what_is_found_outside_the_null_space_is_the_same(case: dense.Case) -> None:
    part = outside(case)
    torch.testing.assert_close(
        null_share(case.keys, part, case.filter), null_share(case.keys, case.spectrum, case.filter)
    )
    bases = [aligned_basis(case.keys, s, case.filter, share=0.9, power=1.0, floor=0.1) for s in (part, case.spectrum)]
    torch.testing.assert_close(*bases)
    B, whole = (forbidden_directions(case.prior_keys, s, case.filter) for s in (part, case.spectrum))
    torch.testing.assert_close(B @ B.T, whole @ whole.T, atol=1e-8, rtol=1e-6)
    arguments = case.filter, case.ridge, 1e-9
    widened = [relax_filter(case.residual, case.keys, s, *arguments, **case.prior)[0] for s in (part, case.spectrum)]
    assert torch.equal(*widened)


@settings(deadline=None, max_examples=40)
@given(case=dense.cases(), seed=st.integers(0, 100))
def test_leakage_takes_the_null_space_at_its_mean(case: dense.Case, seed: int) -> None:
    part = outside(case)
    generator = torch.Generator().manual_seed(seed)
    d = case.spectrum.dimension
    W = torch.randn(4, d, generator=generator, dtype=torch.float64)
    update = LowRankUpdate(W[:, :2], torch.randn(2, d, generator=generator, dtype=torch.float64))
    values = case.spectrum.values.clone()
    values[: part.missing] = values[: part.missing].mean()
    even = Spectrum(values, case.spectrum.vectors)
    torch.testing.assert_close(leakage(update, part, W), leakage(update, even, W))


def test_a_filter_that_needs_the_null_space_is_refused() -> None:
    case = dense.make_case(0)
    part, text = (
        outside(case),
        "expected a filter that is one number on the eigenvectors that the spectrum does not hold",
    )
    threshold = float(case.spectrum.values[int(case.filter.sum())])
    for f in (soft_filter(case.spectrum, 3.0, 1.0), null_soft_filter(case.spectrum, threshold, 3.0, 1.0)):
        with pytest.raises(InputError, match=text):
            solve_update(case.residual, case.keys, part, f, 1.0)
    with pytest.raises(InputError, match=r"expected a spectrum with the eigenvector of eigenvalue .* keep all"):
        part.columns(torch.tensor([0]))
    assert part.vectors.untyped_storage().nbytes() == part.vectors.numel() * part.vectors.element_size()

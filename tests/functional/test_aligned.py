"""P̃ as one direction per conflicting edit: the dense formula, and what it is for in closed form."""

import dense_reference as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aeplus.errors import InputError
from aeplus.functional import (
    Spectrum,
    aligned_basis,
    aligned_floor,
    leakage,
    null_share,
    null_space_filter,
    outside_coordinates,
    relax_filter,
    solve_update,
)
from aeplus.methods.compositions import named_method
from aeplus.methods.layer import LayerSolver
from aeplus.methods.method import Method
from aeplus.preserved.statistics import LayerStatistics

IDENTITY = torch.eye(24, dtype=torch.float64)


def dense_directions(case: dense.Case, share: float, power: float, floor: float) -> Tensor:
    """`(I − P) (C + c I)⁻ᵖ (I − P) k` of the conflicting keys, dense."""
    projector = dense.projector(case)
    outside = torch.eye(len(projector), dtype=torch.float64) - projector
    damped = case.spectrum.vectors @ torch.diag((case.spectrum.values + floor) ** -power) @ case.spectrum.vectors.T
    chosen = [k for k in case.keys.T if float((projector @ k).norm() / k.norm()) < share]
    columns = [outside @ damped @ outside @ k for k in chosen]
    return torch.stack(columns, 1) if columns else torch.zeros(len(projector), 0, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(
    case=dense.cases(),
    share=st.sampled_from([0.0, 0.4, 0.7, 0.9, 1.0]),
    power=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    floor=st.sampled_from([1e-3, 0.1, 1.0]),
)
def test_basis_is_orthonormal_outside_the_support_and_spans_the_dense_directions(
    case: dense.Case, share: float, power: float, floor: float
) -> None:
    basis = aligned_basis(case.keys, case.spectrum, case.filter, share=share, power=power, floor=floor)
    expected = dense_directions(case, share, power, floor)
    assert basis.shape[1] <= expected.shape[1]
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64), rtol=0, atol=1e-10)
    assert float((dense.projector(case) @ basis).abs().max() if basis.numel() else 0.0) < 1e-10
    kept = basis @ (basis.T @ expected)
    torch.testing.assert_close(
        kept, expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()) if len(expected.T) else 0
    )


def test_keys_in_one_direction_share_it_and_a_zero_key_has_none() -> None:
    case = dense.make_case(0, d=24, n=4, null=4)
    keys = torch.stack([case.keys[:, 0], -3 * case.keys[:, 0], 0 * case.keys[:, 0]], 1)
    assert aligned_basis(keys, case.spectrum, case.filter, share=1.0).shape == (24, 1)
    assert null_share(keys, case.spectrum, case.filter)[2] == 1


def test_one_floor_per_key_and_none_for_a_floor_of_0() -> None:
    case = dense.make_case(1, d=24, n=2, null=4)
    floors = torch.tensor([0.3, 0.0], dtype=torch.float64)
    basis = aligned_basis(case.keys, case.spectrum, case.filter, share=1.0, floor=floors)
    alone = aligned_basis(case.keys[:, :1], case.spectrum, case.filter, share=1.0, floor=0.3)
    torch.testing.assert_close(basis.abs(), alone.abs())


@settings(deadline=None, max_examples=40)
@given(case=dense.cases(), form=st.sampled_from(["dual", "primal", "auto"]))
def test_coordinates_that_are_known_change_nothing(case: dense.Case, form: str) -> None:
    problem = case.keys, case.spectrum, case.filter
    outside = outside_coordinates(*problem)
    norms, bound = case.residual.norm(dim=0), 1.0
    floors = [aligned_floor(*problem, 1.0, 0.2, 1.0, norms, bound, known) for known in (None, outside)]
    assert torch.equal(*floors)
    bases = [aligned_basis(*problem, share=0.9, floor=floors[0], outside=known) for known in (None, outside)]
    assert torch.equal(*bases)
    for spectrum in (case.spectrum, case.spectrum.leading(int((case.filter == 0).sum()))):
        arguments = {"relaxation": bases[0], **case.prior, "form": form}
        one, other = (
            solve_update(case.residual, case.keys, spectrum, case.filter, case.ridge, **arguments, outside=known)
            for known in (None, outside)
        )
        assert dense.relative_error(one.dense(), other.dense()) < 1e-10


@settings(deadline=None, max_examples=60)
@given(case=dense.cases(), rank=st.integers(0, 5), seed=st.integers(0, 100))
def test_solve_with_a_relaxation_is_the_dense_one(case: dense.Case, rank: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    relaxation = torch.randn(len(case.filter), rank, generator=g, dtype=torch.float64)
    F = dense.projector(case) + relaxation @ relaxation.T
    prior = case.prior_strength * case.prior_keys @ torch.diag(case.prior_weights) @ case.prior_keys.T
    inner = prior @ F + case.keys @ case.keys.T @ F + case.ridge * torch.eye(len(F), dtype=F.dtype)
    expected = case.residual @ case.keys.T @ F @ torch.linalg.inv(inner)
    for form in ("dual", "primal", "auto"):
        update = solve_update(*case.problem, **case.prior, form=form, relaxation=relaxation)
        assert dense.relative_error(update.dense(), expected) < 1e-8


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), left=st.sampled_from([0.05, 0.15, 0.4]), power=st.sampled_from([0.5, 1.0, 2.0]))
def test_floor_leaves_what_it_promises_and_no_smaller_one_does(seed: int, left: float, power: float) -> None:
    """A single edit, solved."""
    case = dense.make_case(seed, d=24, null=4, n=1, m=0, ridge=1.0)
    floor = float(aligned_floor(case.keys, case.spectrum, case.filter, 1.0, left, power))
    plain = solve_update(*case.problem).dense() @ case.keys
    without = float((case.residual - plain).norm() / case.residual.norm())
    assert (floor == 0.0) == (without <= left)  # none where none is needed
    if floor == 0.0:
        return

    def remaining(c: float) -> float:
        basis = aligned_basis(case.keys, case.spectrum, case.filter, share=1.0, power=power, floor=c)
        update = solve_update(*case.problem, relaxation=basis)
        return float((case.residual - update.dense() @ case.keys).norm() / case.residual.norm())

    whole = float(case.keys.square().sum())
    if 1 / (1 + whole) < 0.99 * left:
        assert remaining(floor) <= left + 1e-9
    if floor > 2e-6 * float(case.spectrum.values[-1]):  # not the smallest one tried
        assert remaining(floor / 1.13) > min(left, 1 / (1 + whole))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.5, 2.0, 8.0]))
def test_floor_leaves_what_it_promises_with_a_soft_filter(seed: int, scale: float) -> None:
    case = dense.make_case(seed, d=24, null=12, n=1, m=0, ridge=1.0)
    keys, values = scale * case.keys, case.spectrum.values
    soft = torch.where(case.filter > 0, 1 / (1 + 30 * (values + 0.05)), 0.0)
    problem = (case.residual, keys, case.spectrum, soft, 1.0)
    floor = float(aligned_floor(keys, case.spectrum, soft, 1.0, 0.15))
    update = solve_update(*problem).dense()
    without = float((case.residual - update @ keys).norm() / case.residual.norm())
    assert (floor == 0.0) == (without <= 0.15)
    free = float((keys * (case.spectrum.vectors @ (soft[:, None] * (case.spectrum.vectors.T @ keys)))).sum())
    outside = float((case.spectrum.vectors.T @ keys)[soft == 0].square().sum())
    if floor > 0 and 1 / (1 + free + outside) < 0.149:
        basis = aligned_basis(keys, case.spectrum, soft, share=1.0, floor=floor)
        update = solve_update(*problem, relaxation=basis).dense()
        assert float((case.residual - update @ keys).norm() / case.residual.norm()) <= 0.15 + 1e-9


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), factor=st.sampled_from([0.0, 0.3, 0.9, 2.0]))
def test_the_bound_on_an_edits_leakage_holds(seed: int, factor: float) -> None:
    case = dense.make_case(seed, d=24, null=4, n=1, m=0, ridge=1.0)
    norms = case.residual.norm(dim=0)

    def leaked(floor: Tensor) -> float:
        """What the edit leaks through its direction: all it leaks but for the null space's part."""
        basis = aligned_basis(case.keys, case.spectrum, case.filter, share=1.0, floor=floor)
        delta = solve_update(*case.problem, relaxation=basis).dense() @ basis @ basis.T
        return float(dense.leakage(case, delta))

    free = aligned_floor(case.keys, case.spectrum, case.filter, 1.0, 0.05)
    bound = factor * leaked(free)
    floor = aligned_floor(case.keys, case.spectrum, case.filter, 1.0, 0.05, 1.0, norms, bound)
    assert leaked(floor) <= bound * (1 + 1e-9)
    if factor == 2.0:
        assert torch.equal(floor, free)
    if factor == 0.0:
        assert float(floor) == 0.0
    assert (float(free) == 0.0) == (float(1 / (1 + (dense.projector(case) @ case.keys).square().sum())) <= 0.05)


# ---- in closed form: two of ten keys conflict with K0, s(k, K0) = 0.99


def conflicting_batch(seed: int, scale: float = 1.0) -> tuple[Spectrum, Tensor, Tensor, Tensor, Tensor]:
    """Spectrum, keys, residuals, weight and K0; the first two keys nearly are keys of K0, which lie outside."""
    g = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    d, n, o = 160, 10, 12
    vectors = torch.linalg.qr(randn(d, d)).Q
    # as measured on a small model: from a fifth of the threshold to one, and one direction far above
    values = torch.cat([0.004 * 250 ** (torch.linspace(0, 1, d - 1).double() ** 2), torch.tensor([47.0]).double()])
    null = values < 0.02
    preserved = vectors @ torch.where(null[:, None], torch.zeros(1).double(), values.sqrt()[:, None] * randn(d, 60))
    keys = []
    for i in range(n):
        inside = vectors @ torch.where(null, randn(d), torch.zeros(1).double())
        share = 0.99 if i < 2 else 0.6
        outside = preserved[:, i] / preserved[:, i].norm()
        keys.append(8 * (share * outside + (1 - share**2) ** 0.5 * inside / inside.norm()))
    residual = randn(o, n)
    weight = randn(o, d) / d**0.5
    return Spectrum(scale * values, vectors), torch.stack(keys, 1), 3 * residual, weight, preserved


def measured(spectrum: Spectrum, keys: Tensor, residual: Tensor, weight: Tensor, delta: object) -> tuple[Tensor, float]:
    left = (residual - delta.dense() @ keys).norm(dim=0) / residual.norm(dim=0)  # type: ignore[attr-defined]
    return left, float(leakage(delta, spectrum, weight))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_default_fits_conflicting_edits_at_a_tenth_of_algorithm_1s_leakage(seed: int, scale: float) -> None:
    spectrum, keys, residual, weight, preserved = conflicting_batch(seed, scale)
    statistics = LayerStatistics(spectrum, preserved, 60)

    def solved(method: Method) -> tuple[Tensor, float, int]:
        solver = LayerSolver(0, method, statistics, weight, torch.zeros(160, 0))
        update = solver.solve(residual, keys)
        report = solver.report(update, residual, keys)
        return *measured(spectrum, keys, residual, weight, update), report.rank

    numbers = {"ridge": 1.0, "threshold": 0.02 * scale}
    left, leaked, rank = solved(named_method("alphaedit_plus", **numbers))
    plain, before, none = solved(named_method("alphaedit_plus", relax="none", **numbers))
    paper, most, _ = solved(named_method("alphaedit_plus_paper", **numbers))
    assert float(plain[:2].min()) > 0.35  # Lemma 1: without P̃ they keep most of their residual
    assert none == 0
    assert float(paper[:2].max()) < 0.1
    assert float(left[:2].max()) <= 0.2
    assert leaked <= most / 10
    torch.testing.assert_close(left[2:], plain[2:], rtol=0, atol=0.02)
    assert 0 < rank <= 2
    # the bound on the leakage of an edit is one that acts on it
    tight, less, _ = solved(named_method("alphaedit_plus", aligned_leakage=(leaked - before) / 20, **numbers))
    assert float(tight[:2].mean()) > float(left[:2].mean())
    assert less < leaked


def test_where_nothing_conflicts_nothing_changes() -> None:
    spectrum, keys, residual, weight, preserved = conflicting_batch(0)
    statistics = LayerStatistics(spectrum, preserved, 60)
    updates = [
        LayerSolver(0, named_method("alphaedit_plus", ridge=1.0, relax=relax), statistics, weight, torch.zeros(160, 0))
        .solve(residual[:, 2:], keys[:, 2:])
        .dense()
        for relax in ("aligned", "none")
    ]
    assert torch.equal(*updates)


def test_growth_bounds_nothing_that_a_conflicting_edit_needs() -> None:
    """Why `bounded` is no longer the default: 5 % more than next to nothing is nothing."""
    spectrum, keys, residual, _, _ = conflicting_batch(0)
    base = null_space_filter(spectrum, 0.02)
    problem = (residual[:, :2], keys[:, :2], spectrum, base, 1.0)
    bounded, _ = relax_filter(*problem, 3e-4, max_growth=1.05)
    free, _ = relax_filter(*problem, 3e-4)
    assert int((bounded - base).sum()) < int((free - base).sum()) / 4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"share": 1.5}, r"share between 0 and 1, got 1\.5; pass 0\.5"),
        ({"power": -1.0}, "power of at least 0"),
        ({"floor": 0.0}, r"floor above 0 and finite, got 0\.0"),
        ({"floor": torch.ones(2)}, r"floor of shape \[3\], got \[2\]; pass one floor per key"),
        ({"keys": torch.full((16, 3), float("nan"))}, "finite keys, got 48 of 48"),
        ({"filter": torch.ones(9)}, r"filter of shape \[16\], got \[9\]"),
    ],
)
def test_error_texts_of_the_basis(change: dict, text: str) -> None:
    case = dense.make_case(0)
    arguments = {"keys": case.keys, "spectrum": case.spectrum, "filter": case.filter} | change
    with pytest.raises(InputError, match=text):
        aligned_basis(**arguments)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"left": 1.0}, r"left above 0 and below 1, got 1\.0"),
        ({"ridge": 0.0}, "ridge above 0 and finite"),
        ({"max_leakage": 1.0}, "residual_norms and max_leakage together, got one of them; pass both"),
        ({"residual_norms": torch.ones(2), "max_leakage": 1.0}, r"residual_norms of shape \[3\]"),
    ],
)
def test_error_texts_of_the_floor(change: dict, text: str) -> None:
    case = dense.make_case(0)
    arguments = {"keys": case.keys, "spectrum": case.spectrum, "filter": case.filter, "ridge": 1.0, "left": 0.2}
    with pytest.raises(InputError, match=text):
        aligned_floor(**(arguments | change))


def test_error_text_of_a_relaxation_of_another_shape() -> None:
    case = dense.make_case(0)
    with pytest.raises(InputError, match=r"relaxation of shape \[16, any\], got \[9, 2\]"):
        solve_update(*case.problem, relaxation=torch.ones(9, 2))

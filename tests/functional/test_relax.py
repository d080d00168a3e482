import dense_reference as dense
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aeplus.errors import InputError
from aeplus.functional import relax_filter, solve_update


@settings(deadline=None, max_examples=25)
@given(case=dense.cases())
def test_objective_never_rises_and_is_the_dense_one(case: dense.Case) -> None:
    mask, trace = relax_filter(*case.problem, 0.0, **case.prior)
    assert len(trace) == int((mask - case.filter).sum())
    start = dense.objective(case, dense.alphaedit(case))
    # λ tr(Q S) is Eq. 7 at its optimum
    current, grown = start, case.filter.clone()
    for index, value in zip((case.filter == 0).nonzero().flatten(), trace, strict=False):
        assert value <= current
        grown[index] = 1
        expected = dense.objective(case, dense.alphaedit(case, grown))
        assert abs(value - expected) <= 1e-9 * start
        current = value
    assert torch.equal(grown, mask)


@settings(deadline=None, max_examples=60)
@given(case=dense.cases(), epsilon=st.sampled_from([1e-3, 1e-2, 0.1, 1.0]), relative=st.booleans())
def test_filter_is_the_brute_force_searchs(case: dense.Case, epsilon: float, relative: bool) -> None:
    if not relative:
        epsilon *= float(case.residual.square().sum())
    expected, values = dense.search(case, epsilon, relative)
    mask, trace = relax_filter(*case.problem, epsilon, **case.prior, relative=relative)
    assert torch.equal(mask, expected)
    torch.testing.assert_close(trace, values, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    case=dense.cases(),
    epsilon=st.sampled_from([1e-4, 1e-3, 1e-2, 0.1]),
    relative=st.booleans(),
    block=st.integers(2, 11),
    share=st.none() | st.floats(0.01, 0.99),
)
def test_filter_of_a_search_by_blocks_is_the_brute_force_ones(
    case: dense.Case, epsilon: float, relative: bool, block: int, share: float | None
) -> None:
    bound = None
    if share is not None:
        ends = (float(dense.leakage(case, dense.alphaedit(case, f))) for f in (case.filter, case.filter * 0 + 1))
        start, end = ends
        bound = start + share * (end - start)
        assume(bound > 0)
    if not relative:
        epsilon *= float(case.residual.square().sum())
    expected, values = dense.search(case, epsilon, relative, bound, block)
    mask, trace = relax_filter(
        *case.problem, epsilon, **case.prior, relative=relative, max_leakage=bound, search_block=block
    )
    assert torch.equal(mask, expected)
    torch.testing.assert_close(trace, values, rtol=1e-9, atol=1e-12)


def test_a_block_is_accepted_or_refused_as_a_whole() -> None:
    case = dense.make_case(0, d=40, null=8, n=6, m=9, o=4)  # 32 candidates: three blocks of ten and one of two
    drops = []
    whole = relax_filter(*case.problem, 0.0, **case.prior)[1]
    start = dense.objective(case, dense.alphaedit(case))
    for before, after in ((start, whole[9]), (whole[9], whole[19]), (whole[19], whole[29]), (whole[29], whole[31])):
        drops.append(float(before - after))
    assert drops[3] < min(drops) + 1e-12
    for epsilon, count in ((0.999 * drops[3] / 10, 32), (1.001 * drops[3] / 10, 30), (1.001 * max(drops) / 10, 0)):
        mask, trace = relax_filter(*case.problem, epsilon, **case.prior, search_block=10)
        assert len(trace) == count
        assert int((mask - case.filter).sum()) == count
    # of a block cut short by the rank, ε is still that of a whole one
    assert len(relax_filter(*case.problem, 0.0, **case.prior, search_block=10, max_rank=13)[1]) == 13
    cut = float(whole[9] - whole[12]) / 10
    for epsilon, count in ((0.999 * cut, 13), (1.001 * cut, 10)):
        found = relax_filter(*case.problem, epsilon, **case.prior, search_block=10, max_rank=13)[1]
        assert len(found) == (count if drops[0] / 10 > epsilon else 0)


def test_a_search_longer_than_the_largest_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 1, 2, 4, 8, 8 … candidates must join without a seam."""
    monkeypatch.setattr("aeplus.functional.relax._LARGEST_BLOCK", 8)
    case = dense.make_case(0, d=60, null=8, n=6, m=9, o=4)
    for together in (1, 3):
        expected, values = dense.search(case, 1e-7, block=together)
        assert len(values) > 40
        mask, trace = relax_filter(*case.problem, 1e-7, **case.prior, search_block=together)
        assert torch.equal(mask, expected)
        torch.testing.assert_close(trace, values, rtol=1e-9, atol=1e-12)


def test_relative_and_absolute_epsilon() -> None:
    case = dense.make_case(1)
    case.residual *= 10
    start = dense.objective(case, dense.alphaedit(case))
    one = relax_filter(*case.problem, 0.0, **case.prior, max_rank=1)[1]
    share = float((start - one[0]) / start)
    for epsilon, relative in ((share, True), (share * float(start), False)):
        accepted = [
            len(relax_filter(*case.problem, factor * epsilon, **case.prior, relative=relative)[1])
            for factor in (0.999, 1.001)
        ]
        assert accepted[0] >= 1
        assert accepted[1] == 0
    # a relative ε does not see the residual's scale
    louder = (100 * case.residual, *case.problem[1:])
    for epsilon, relative in ((1.001 * share, True), (1.001 * share * float(start), False)):
        quiet, _ = relax_filter(*case.problem, epsilon, **case.prior, relative=relative)
        loud, _ = relax_filter(*louder, epsilon, **case.prior, relative=relative)
        assert torch.equal(quiet, loud) == relative


def test_a_decrease_equal_to_epsilon_is_refused() -> None:
    case = dense.make_case(2)
    case.residual.zero_()  # J is 0 and stays 0
    mask, trace = relax_filter(*case.problem, 0.0, **case.prior)
    assert torch.equal(mask, case.filter)
    assert trace.shape == (0,)


def test_max_rank() -> None:
    case = dense.make_case(3)
    for rank in (0, 1, 3, 7, 100):
        mask, trace = relax_filter(*case.problem, 0.0, **case.prior, max_rank=rank)
        assert len(trace) == min(rank, 7)
        assert mask.tolist() == [1] * (9 + len(trace)) + [0] * (7 - len(trace))


@settings(deadline=None, max_examples=40)
@given(case=dense.cases(), share=st.floats(0.01, 0.99))
def test_leakage_bound_is_the_dense_one(case: dense.Case, share: float) -> None:
    everything = torch.ones_like(case.filter)
    start, end = (float(dense.leakage(case, dense.alphaedit(case, f))) for f in (case.filter, everything))
    bound = start + share * (end - start)
    assume(bound > 0)
    expected, values = dense.search(case, 1e-12, max_leakage=bound)
    mask, trace = relax_filter(*case.problem, 1e-12, **case.prior, max_leakage=bound)
    assert torch.equal(mask, expected)
    torch.testing.assert_close(trace, values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("o", [2, 40])
def test_leakage_bound_over_several_blocks_and_relative_to_the_weight(o: int) -> None:
    case = dense.make_case(4, d=40, null=2, n=6, m=9, o=o)
    energy = float(dense.leakage(case, case.weight))
    start, end = (float(dense.leakage(case, dense.alphaedit(case, f))) for f in (case.filter, case.filter * 0 + 1))
    lengths = []
    for bound in (0.9 * start, *(start + share * (end - start) for share in (0.1, 0.3, 0.6, 0.9))):
        expected, _ = dense.search(case, 0.0, max_leakage=bound)
        absolute, _ = relax_filter(*case.problem, 0.0, **case.prior, max_leakage=bound)
        relative, trace = relax_filter(*case.problem, 0.0, **case.prior, max_leakage=bound / energy, weight=case.weight)
        assert torch.equal(absolute, expected)
        assert torch.equal(relative, expected)
        if bound >= start > 0:
            grown, _ = relax_filter(*case.problem, 0.0, **case.prior, max_growth=bound / start)
            assert torch.equal(grown, expected)
        update = solve_update(*case.problem[:3], relative, case.ridge, **case.prior)
        assert dense.leakage(case, update.dense()) <= (bound if len(trace) else start) * (1 + 1e-12)
        lengths.append(len(trace))
    assert lengths[0] == 0
    assert 3 < max(lengths) < 38  # the bound cut a search short, beyond its first blocks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept_and_inputs_stay(dtype: torch.dtype) -> None:
    case = dense.make_case(5)
    low = [x.to(dtype) for x in (case.residual, case.keys, case.filter, case.prior_keys)]
    spectrum = case.spectrum.to(dtype)
    before = [x.clone() for x in low]
    mask, trace = relax_filter(low[0], low[1], spectrum, low[2], 0.7, 0.0, low[3], max_leakage=100.0)
    assert mask.dtype == trace.dtype == dtype
    assert len(trace) == 7
    assert all(torch.equal(x, y) for x, y in zip(low, before, strict=True))
    _, exact = relax_filter(*case.problem, 0.0, case.prior_keys)
    torch.testing.assert_close(trace.double(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epsilon": -1.0}, r"epsilon of at least 0, got -1\.0"),
        ({"epsilon": float("nan")}, "epsilon of at least 0, got nan"),
        ({"max_leakage": -0.1}, "max_leakage of at least 0"),
        ({"max_growth": 0.9}, "max_growth of at least 1, got 0.9"),
        ({"max_rank": -1}, "max_rank of at least 0"),
        ({"search_block": 0}, "search_block of at least 1, got 0; pass 1 to try one eigenvector at a time"),
        ({"weight": torch.ones(5, 16)}, "max_leakage beside weight, got none; pass the bound"),
        (
            {"weight": torch.ones(5, 9), "max_leakage": 1.0},
            r"weight of shape \[5, 16\], got \[5, 9\]",
        ),
        ({"ridge": -1.0}, "ridge above 0 and finite"),
        ({"residual": torch.full((5, 3), float("nan"))}, "finite residual, got 15 of 15"),
    ],
)
def test_error_texts(change: dict, text: str) -> None:
    case = dense.make_case(0)
    names = ("residual", "keys", "spectrum", "filter", "ridge")
    arguments = dict(zip(names, case.problem, strict=True)) | {"epsilon": 0.0} | change
    with pytest.raises(InputError, match=text):
        relax_filter(**arguments)

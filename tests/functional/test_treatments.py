"""RECT's and PRUNE's treatments against their formulas on dense matrices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aeplus import functional as fn
from aeplus.errors import InputError


def update(o: int, d: int, r: int, seed: int = 0) -> fn.LowRankUpdate:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(o, r, generator=generator, dtype=torch.float64)
    return fn.LowRankUpdate(left, torch.randn(r, d, generator=generator, dtype=torch.float64))


@settings(deadline=None)
@given(
    o=st.integers(1, 9), d=st.integers(1, 9), r=st.integers(1, 4), share=st.floats(0.05, 1.0), seed=st.integers(0, 9)
)
def test_sparsify_keeps_the_largest_relative_changes(o: int, d: int, r: int, share: float, seed: int) -> None:
    whole = update(o, d, r, seed)
    weight = update(o, d, r, seed + 100).dense()
    kept = fn.sparsify(whole, weight, share)
    change = (whole.dense() / weight).abs()
    count = max(1, round(share * (o * d)))
    assert kept.mask is not None
    assert int(kept.mask.sum()) == count
    if count < o * d:
        assert change[kept.mask].min() >= change[~kept.mask].max()
    torch.testing.assert_close(kept.dense(), torch.where(kept.mask, whole.dense(), torch.zeros(())))


def test_sparsify_counts_a_change_of_nothing_as_the_largest() -> None:
    whole = fn.LowRankUpdate(torch.ones(1, 1), torch.tensor([[0.0, 0.1, 5.0, 6.0]]))
    kept = fn.sparsify(whole, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 0.5)  # 0/0, 0.1/0, 5, 6
    assert kept.dense().tolist() == [[0.0, pytest.approx(0.1), 0.0, 6.0]]


def restrained(total: torch.Tensor, bound: float, base: float) -> torch.Tensor:
    """PRUNE's formula on a dense matrix."""
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    formula = s.log() / math.log(base) - math.log(bound) / math.log(base) + bound
    return u @ torch.diag(torch.where(s > bound, torch.minimum(formula, s), s)) @ v


@settings(deadline=None)
@given(
    o=st.integers(2, 9),
    d=st.integers(2, 9),
    ranks=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    bound=st.floats(0.1, 5.0),
    base=st.sampled_from([math.e, 2.0, 1.5, 1.2]),
)
def test_restrain_is_prunes_formula(o: int, d: int, ranks: list[int], bound: float, base: float) -> None:
    updates = [update(o, d, r, i) for i, r in enumerate(ranks)]
    total = torch.stack([u.dense() for u in updates]).sum(0)
    correction = fn.restrain(updates, bound, base)
    torch.testing.assert_close(total + correction.dense(), restrained(total, bound, base), rtol=1e-9, atol=1e-9)
    assert correction.rank == int((torch.linalg.svdvals(total) > bound).sum())


def test_restrain_takes_masked_updates_and_never_lengthens() -> None:
    whole = update(5, 7, 2)
    masked = fn.sparsify(whole, torch.ones(5, 7, dtype=torch.float64), 0.4)
    corrected = masked.dense() + fn.restrain([masked], 0.5, 1.2).dense()
    torch.testing.assert_close(corrected, restrained(masked.dense(), 0.5, 1.2))
    assert bool((torch.linalg.svdvals(corrected) <= torch.linalg.svdvals(masked.dense()) + 1e-12).all())


def test_leakage_of_a_masked_update_is_that_of_its_entries() -> None:
    weight = update(5, 7, 5, 3).dense()
    keys = update(7, 50, 7, 4).dense()
    covariance = keys @ keys.T / 50
    masked = fn.sparsify(update(5, 7, 2), weight, 0.4)
    expected = torch.trace(masked.dense() @ covariance @ masked.dense().T) / torch.trace(weight @ covariance @ weight.T)
    torch.testing.assert_close(fn.leakage(masked, fn.Spectrum.from_covariance(covariance), weight), expected)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda u: fn.sparsify(u, torch.ones(2, 2), 0.4), r"weight of shape \[3, 4\], got \[2, 2\]"),
        (lambda u: fn.sparsify(u, torch.ones(3, 4), 0.0), "share above 0 and at most 1, got 0.0"),
        (lambda u: fn.restrain([], 1.0), "at least one update for restrain, got none"),
        (lambda u: fn.restrain([u, update(2, 4, 1)], 1.0), r"an update of shape \[3, any\]"),
        (lambda u: fn.restrain([u], 0.0), "bound above 0 and finite, got 0.0"),
        (lambda u: fn.restrain([u], 1.0, 1.0), "base above 1, got 1.0"),
    ],
)
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(update(3, 4, 1))  # type: ignore[operator]

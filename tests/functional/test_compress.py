"""Sums of updates as factors, against a dense singular value decomposition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate, compress, sparsify


def updates(seed: int, count: int, o: int, d: int, rank: int) -> list[LowRankUpdate]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return [LowRankUpdate(draw(o, rank), draw(rank, d)) for _ in range(count)]


@settings(deadline=None)
@given(
    st.integers(0, 1000), st.integers(1, 3), st.integers(2, 12), st.integers(2, 12), st.integers(1, 4), st.booleans()
)
def test_it_is_the_best_of_its_rank(seed: int, count: int, o: int, d: int, rank: int, masked: bool) -> None:
    parts = updates(seed, count, o, d, rank)
    if masked:
        parts = [sparsify(part, torch.ones(o, d, dtype=torch.float64), 0.5) for part in parts]
    total = sum((part.dense() for part in parts), torch.zeros(o, d, dtype=torch.float64))
    values = torch.linalg.svdvals(total)
    joined, lost = compress(parts, tolerance=1e-9)
    torch.testing.assert_close(joined.dense(), total, atol=1e-7, rtol=1e-7)
    assert joined.rank == max(1, int((values > 1e-8 * values[0]).sum()))
    assert lost <= 1e-9
    for kept in range(1, len(values) + 1):
        best, lost = compress(parts, rank=kept)
        error = torch.linalg.matrix_norm(best.dense() - total)
        torch.testing.assert_close(error, values[kept:].square().sum().sqrt(), atol=1e-7, rtol=1e-6)
        assert lost == pytest.approx(float(error / torch.linalg.matrix_norm(total)), abs=1e-7)


def test_a_tolerance_takes_the_smallest_rank_that_meets_it() -> None:
    values = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    update = LowRankUpdate(torch.diag(values), torch.eye(4, dtype=torch.float64))
    for kept in range(1, 5):
        behind = float(values[kept:].square().sum().sqrt() / values.square().sum().sqrt())
        joined, lost = compress([update], tolerance=behind + 1e-9)
        assert joined.rank == kept
        assert lost == pytest.approx(behind)


def test_a_sum_of_nothing_has_rank_one() -> None:
    part = updates(0, 1, 3, 4, 2)[0]
    joined, lost = compress([part, LowRankUpdate(-part.left, part.right)])
    assert joined.rank == 1
    assert lost == 0
    torch.testing.assert_close(joined.dense(), torch.zeros(3, 4, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"updates": []}, "expected at least one update, got none; give some."),
        ({"rank": 0}, "expected a rank of at least 1, got 0; raise it."),
        ({"tolerance": 1.0}, r"expected a tolerance from 0 to below 1, got 1.0; choose a small one such as 1e-6."),
    ],
)
def test_bad_arguments(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        compress(**{"updates": updates(0, 1, 2, 2, 1), **options})  # type: ignore[arg-type]

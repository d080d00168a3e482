"""What a treatment has added to an update, found again in the update's columns."""

import pytest
import torch

from aeplus.functional import LowRankUpdate, without
from aeplus.methods.compositions import named_method
from aeplus.methods.treatments import added_last


def factors(o: int, d: int, rank: int) -> LowRankUpdate:
    return LowRankUpdate(torch.randn(o, rank).double(), torch.randn(rank, d).double())


def beside(first: LowRankUpdate, second: LowRankUpdate) -> LowRankUpdate:
    return LowRankUpdate(torch.cat([first.left, second.left], 1), torch.cat([first.right, second.right]))


@pytest.mark.parametrize("edits", [3, 7, 12])  # 12 are more than there are outputs
def test_the_last_correction_is_found_where_updates_are_stored_dense(edits: int) -> None:
    o, d = 8, 14
    method = named_method("prune", restrain_every=1, feedback=True)
    updates: list[LowRankUpdate] = []
    correction: LowRankUpdate | None = None
    for rank in (3, 2, 4):
        solved = factors(o, d, edits)
        correction, last = factors(o, d, rank), correction
        updates.append(beside(solved if last is None else without(solved, last), correction))
        found = added_last(method, updates, [u.rank for u in updates], [torch.zeros(d, edits)] * len(updates))
        assert found is not None
        assert found.rank == rank
        torch.testing.assert_close(found.dense(), correction.dense())

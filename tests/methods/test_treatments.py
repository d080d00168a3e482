"""What a treatment has added to an update, found again in the update's columns."""

import pytest
import torch

from aeplus.functional import LowRankUpdate, without
from aeplus.methods.compositions import named_method
from aeplus.methods.treatments import Restraint, added_last
from aeplus.models.decoder import Decoder
from aeplus.run.unedited import UneditedModel
from counting import Operations
from tiny import tiny_model


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


def test_calls_for_one_model_find_its_bounds_once() -> None:
    decoder = Decoder(tiny_model("llama"))
    sites, unedited = decoder.select([1, 2]), UneditedModel(decoder)
    with Operations() as operations:
        for _ in range(2):
            restraint = Restraint(named_method("prune"), sites, unedited.once)
    assert operations.factorizations == {"_linalg_eigh": 2}
    for site in sites:
        expected = float(torch.linalg.matrix_norm(site.weight.double(), 2))
        assert restraint._bounds[site.layer] == pytest.approx(expected, rel=1e-12)

import sys

import pytest
import torch

from aeplus import functional as fn
from aeplus.functional import nearest


@pytest.mark.parametrize("block", [3, 8192])
@pytest.mark.parametrize("own", [False, True])
def test_the_nearest_key_of_others(monkeypatch: pytest.MonkeyPatch, block: int, own: bool) -> None:
    monkeypatch.setattr(sys.modules["aeplus.functional.conflict"], "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(6, 10, generator=generator)
    others = keys if own else torch.randn(6, 8, generator=generator)
    s, place = nearest(keys, others, own)
    for i in range(10):
        cosines = [float(torch.cosine_similarity(keys[:, i], o, dim=0).abs()) for o in others.T]
        if own:
            cosines[i] = -1
        assert int(place[i]) == cosines.index(max(cosines))
        assert float(s[i]) == pytest.approx(max(cosines), abs=1e-6)
    if not own:
        torch.testing.assert_close(s, fn.conflict(keys, others))


def test_nothing_to_compare_with() -> None:
    keys = torch.ones(3, 1)
    assert [t.tolist() for t in nearest(keys, torch.zeros(3, 0))] == [[0.0], [-1]]
    assert [t.tolist() for t in nearest(keys, keys, own=True)] == [[0.0], [-1]]
    assert [t.tolist() for t in nearest(keys, torch.zeros(3, 2))] == [[0.0], [0]]  # a key of 0 is like nothing

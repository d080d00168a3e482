"""The journal gives back what was put in, and the same weights."""

import pytest
import torch

from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate, sparsify
from aeplus.models.decoder import Decoder, Snapshot
from aeplus.run.journal import Entry, Journal
from tiny import tiny_model


def journal(decoder: Decoder) -> Journal:
    generator = torch.Generator().manual_seed(0)
    entries = []
    for batch in range(2):
        updates, keys = {}, {}
        for site in decoder.sites[:2]:
            o, d = site.weight.shape
            plain = LowRankUpdate(torch.randn(o, 3, generator=generator), torch.randn(3, d, generator=generator))
            updates[site.layer] = sparsify(plain, site.weight, 0.4) if batch else plain
            keys[site.layer] = torch.randn(d, 3, generator=generator)
        entries.append(Entry([{"prompt": "{}"}], updates, keys, {"edits": 3}))
    return Journal(entries)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_masks_and_factors_survive_a_checkpoint(kind: str) -> None:
    decoder = Decoder(tiny_model(kind))
    sites, before = decoder.sites[:2], Snapshot(decoder.sites[:2])
    first = journal(decoder)
    first.apply(sites)
    edited = Snapshot(sites)
    before.restore()
    tensors = first.tensors()
    assert tensors["batch_1.layer_0.mask"].numel() == -(-sites[0].weight.numel() // 8)  # a bit per entry
    Journal.restore(first.notes(), tensors).apply(sites)
    assert all(torch.equal(site.weight, weight) for site, weight in zip(sites, edited.weights, strict=True))


def test_the_total_is_the_sum_of_all_updates() -> None:
    decoder = Decoder(tiny_model("gpt2"))
    site, before = decoder.sites[0], Snapshot(decoder.sites[:1])
    edits = journal(decoder)
    assert Journal().total(site) is None
    total = edits.total(site)
    edits.apply(decoder.sites[:1])
    assert total is not None
    torch.testing.assert_close(total, site.weight - before.weights[0], atol=1e-5, rtol=1e-4)


def test_a_checkpoint_that_lacks_a_tensor() -> None:
    edits = journal(Decoder(tiny_model("llama")))
    tensors = edits.tensors()
    del tensors["batch_1.layer_0.left"]
    with pytest.raises(InputError, match=r"expected a whole checkpoint, got one without 'batch_1.layer_0.left'"):
        Journal.restore(edits.notes(), tensors)

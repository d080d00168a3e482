"""Committed batches give back what was put in, and the same weights."""

import pytest
import torch

from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate, sparsify
from aeplus.models.decoder import Decoder
from aeplus.models.sites import Snapshot
from aeplus.run.committed.entries import Entries, Entry, plain_edit, request_from
from tiny import tiny_model


def committed(decoder: Decoder) -> Entries:
    generator = torch.Generator().manual_seed(0)
    entries = Entries()
    for batch in range(2):
        updates, keys = {}, {}
        for site in decoder.sites[:2]:
            o, d = site.weight.shape
            plain = LowRankUpdate(torch.randn(o, 3, generator=generator), torch.randn(3, d, generator=generator))
            updates[site.layer] = sparsify(plain, site.weight, 0.4) if batch else plain
            keys[site.layer] = torch.randn(d, 3, generator=generator)
        entries.append(Entry([{"prompt": str(i)} for i in range(3)], updates, keys, {"edits": 3}))
    return entries


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_masks_and_factors_survive_a_file(kind: str) -> None:
    decoder = Decoder(tiny_model(kind))
    sites, before = decoder.sites[:2], Snapshot(decoder.sites[:2])
    first = committed(decoder)
    first.apply(sites)
    edited = Snapshot(sites)
    before.restore()
    tensors = [entry.tensors() for entry in first]
    assert tensors[1]["layer_0.mask"].numel() == -(-sites[0].weight.numel() // 8)  # a bit per entry
    again = Entries(Entry.restore(e.edits, [0, 1], e.report, t) for e, t in zip(first, tensors, strict=True))
    again.apply(sites)
    assert all(torch.equal(site.weight, weight) for site, weight in zip(sites, edited.weights, strict=True))


def test_the_total_is_the_sum_of_all_updates() -> None:
    decoder = Decoder(tiny_model("gpt2"))
    site, before = decoder.sites[0], Snapshot(decoder.sites[:1])
    edits = committed(decoder)
    assert Entries().totals([site]) == []
    (total,) = edits.totals([site])
    edits.apply(decoder.sites[:1])
    torch.testing.assert_close(total, site.weight - before.weights[0], atol=1e-5, rtol=1e-4)


def test_a_batch_without_one_edit_lacks_its_part_of_the_sum() -> None:
    for entry in committed(Decoder(tiny_model("llama"))):
        rest = entry.without([1])
        assert entry.separable
        assert [edit["prompt"] for edit in rest.edits] == ["0", "2"]
        for layer, update in entry.updates.items():
            part = torch.outer(update.left[:, 1], update.right[1])
            part = part if update.mask is None else part * update.mask
            torch.testing.assert_close(rest.updates[layer].dense(), update.dense() - part)
            assert torch.equal(rest.keys[layer], entry.keys[layer][:, [0, 2]])


@pytest.mark.parametrize("rank", [1, 3])
def test_a_batch_solved_as_a_whole_is_not_separable(rank: int) -> None:
    """With fewer columns than edits, or with more, as PRUNE's correction of the sum has them."""
    update = LowRankUpdate(torch.ones(2, rank), torch.ones(rank, 3))
    assert not Entry([{}, {}], {0: update}, {0: torch.ones(3, 2)}, {}).separable


def test_damaged_tensors() -> None:
    (entry, _) = committed(Decoder(tiny_model("llama")))
    tensors = entry.tensors()
    lacking = {name: tensor for name, tensor in tensors.items() if name != "layer_0.left"}
    with pytest.raises(InputError, match=r"expected a whole entry of a journal, got one without 'layer_0.left'"):
        Entry.restore(entry.edits, [0, 1], {}, lacking)
    with pytest.raises(InputError, match="expected factors that fit each other in a journal, got others at layer 1"):
        Entry.restore(entry.edits, [0, 1], {}, {**tensors, "layer_1.left": torch.ones(4, 2)})


def test_requests_survive_as_plain_values() -> None:
    probes = (Probe("a", "b", ("c",), "axis"), Probe("d"))
    edit = EditRequest(
        "{} is", "x", "y", ("r",), probes, probes, ("g",), ("z",), "true", "fact", "case", "id", turns=(("user", "x"),)
    )
    assert request_from(plain_edit(edit)) == edit
    assert request_from(plain_edit(EditRequest("{} is", "x", "y"))) == EditRequest("{} is", "x", "y")


def test_what_is_recorded_is_read_when_it_is_needed() -> None:
    entries = committed(Decoder(tiny_model("llama")))
    read: list[int] = []

    def reader(index: int) -> Entry:
        read.append(index)
        return entries[index]

    light = Entries(entry.recorded(lambda index=index: reader(index)) for index, entry in enumerate(entries))
    site = Decoder(tiny_model("llama")).sites[0]
    updates = light.updates(site)
    assert updates.ranks == [3, 3]
    assert all(entry.separable for entry in light)
    assert not read
    assert torch.equal(updates[-1].dense(), entries[1].updates[site.layer].dense())
    assert read == [1]
    assert len(updates[1:]) == 1
    assert dict(light[0].updates).keys() == {0, 1}


def test_masks_are_kept_in_bits() -> None:
    for entry in committed(Decoder(tiny_model("llama"))):
        packed = entry.packed()
        assert packed.packed() is packed
        assert packed.ranks == entry.ranks
        for layer, update in packed.updates.items():
            assert torch.equal(update.dense(), entry.updates[layer].dense())
            bits = packed.updates._bits.get(layer)
            assert bits is None or 8 * bits.numel() < update.dense().numel() + 8


def test_keys_are_kept_once() -> None:
    decoder = Decoder(tiny_model("llama"))
    entries, site = committed(decoder), decoder.sites[0]
    plain = [entry.keys[site.layer].clone() for entry in entries]
    keys = entries.keys(site)
    assert all(torch.equal(a, b) for a, b in zip(keys, plain, strict=True))
    assert [entry.keys[site.layer].data_ptr() for entry in entries] == [own.data_ptr() for own in keys]
    entries.append(committed(decoder)[0])
    assert entries.keys(site) is keys
    assert len(keys) == 3

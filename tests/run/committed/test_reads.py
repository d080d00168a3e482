"""How often what is committed is digested, copied and read, counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import aeplus
from aeplus.functional import LowRankUpdate
from aeplus.run.committed.chain import Chain
from aeplus.run.committed.entries import Entry
from aeplus.utils import cache, fingerprint
from small import SMALL, records
from tiny import tiny_model, tiny_tokenizer


def batch() -> Entry:
    updates = {layer: LowRankUpdate(torch.randn(8, 2), torch.randn(2, 16)) for layer in range(2)}
    return Entry([{"prompt": "a"}, {"prompt": "b"}], updates, {layer: torch.randn(16, 2) for layer in range(2)}, {})


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of each tensor that is digested."""
    counts: list[int] = []
    original = fingerprint._sums

    def sums(tensor: Tensor) -> Tensor:
        counts.append(tensor.numel())
        return original(tensor)

    monkeypatch.setattr(fingerprint, "_sums", sums)
    return counts


def test_a_batch_is_digested_once_and_copied_never(
    tmp_path: Path, digested: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, entry = Chain.create(tmp_path / "journal", {}), batch()
    saved: dict[str, Tensor] = {}
    original = cache.save_file

    def save_file(tensors: dict[str, Tensor], *rest: Any) -> None:
        saved.update(tensors)
        original(tensors, *rest)

    monkeypatch.setattr(cache, "save_file", save_file)
    record = chain.append("batch", {}, entry)
    numbers = 2 * (8 * 2 + 2 * 16 + 16 * 2)
    assert sum(digested) == numbers
    assert {t.data_ptr() for t in saved.values()} == {t.data_ptr() for t in entry.tensors().values()}
    digested.clear()
    chain.entry(record)
    assert sum(digested) == numbers


def test_layers_may_share_a_factor(tmp_path: Path) -> None:
    chain, entry = Chain.create(tmp_path / "journal", {}), batch()
    left = entry.updates[0].left
    shared = {layer: LowRankUpdate(left, update.right) for layer, update in entry.updates.items()}
    record = chain.append("batch", {}, Entry(entry.edits, shared, entry.keys, {}))
    read = Chain.open(chain.folder).entry(record)
    assert all(torch.equal(update.left, left) for update in read.updates.values())


@pytest.mark.parametrize(("method", "reads"), [("alphaedit", 3), ("prune", 2 + 3)])
def test_a_run_reads_its_batches_once_for_all_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, reads: int
) -> None:
    read: list[int] = []
    original = Chain._entry

    def entry(self: Chain, record: Any) -> Entry:
        read.append(record.number)
        return original(self, record)

    monkeypatch.setattr(Chain, "_entry", entry)
    options: dict[str, Any] = {**SMALL, "steps": 1, "batch_size": 1, "journal": tmp_path / "journal"}
    if method == "alphaedit":
        options |= {"threshold": 0.5, "threshold_kind": "dimensions"}
    result = aeplus.edit(tiny_model(num_hidden_layers=3), tiny_tokenizer(), records()[:3], method, **options)
    assert len(read) == reads  # the correction's, and the leakage's at the end
    result.undo()

"""What stays in memory does not grow with the batches before, but for their keys."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import aeplus
from aeplus.callbacks import BatchCommit, EditCallback
from aeplus.functional import LowRankUpdate
from small import SMALL, records
from tiny import tiny_model, tiny_tokenizer


class Alive(EditCallback):
    """How many of the committed updates are in memory when the last batch is."""

    def __init__(self) -> None:
        self.updates: list[weakref.ref[LowRankUpdate]] = []
        self.left = 0

    def on_batch_committed(self, trainer: Any, module: Any, commit: BatchCommit) -> None:
        gc.collect()
        self.left = sum(update() is not None for update in self.updates)
        self.updates += [weakref.ref(edit.update) for edit in commit.candidate.layers]


@pytest.mark.parametrize("method", ["alphaedit", pytest.param("prune", marks=pytest.mark.slow)])
def test_updates_in_a_journal_are_not_in_memory(method: str, tmp_path: Path) -> None:
    alive, own = Alive(), {"threshold": 0.8, "threshold_kind": "dimensions"} if method == "alphaedit" else {}
    options: dict[str, Any] = {**SMALL, **own, "batch_size": 1, "journal": tmp_path / "kept", "callbacks": [alive]}
    model, unedited = tiny_model("llama"), tiny_model("llama")
    result = aeplus.edit(model, tiny_tokenizer(), records()[:4], method, **options)
    assert len(alive.updates) == 8
    assert alive.left == 0
    assert len([update for batch in result.updates for update in batch.values()]) == 8
    aeplus.Journal.open(tmp_path / "kept").apply(unedited)
    for found, expected in zip(model.parameters(), unedited.parameters(), strict=True):
        assert torch.equal(found, expected)

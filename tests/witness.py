"""Watches each process of a run of several: what its edited weights are, or an error where a test wants one."""

import json
from pathlib import Path
from typing import Any

from lightning import Trainer

from aeplus.errors import InputError
from aeplus.run.batches import BatchCommit
from aeplus.run.committed.store import weights_digests
from aeplus.run.hooks import EditCallback, EditingModule
from aeplus.utils.shards import local


class Witness(EditCallback):
    """Writes ``rank_N.json`` at the end of a run.

    Args:
        folder: Where to.
        failing: The process that fails when the first batch is committed.
        kind: ``input`` for an error of the user's, ``bug`` for another.
    """

    def __init__(self, folder: str, failing: int | None = None, kind: str = "input") -> None:
        self.folder, self.failing, self.kind = Path(folder), failing, kind

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        if trainer.global_rank == self.failing:
            text = f"expected process {trainer.global_rank} to succeed, got a test; leave it out."
            raise InputError(text) if self.kind == "input" else OSError(text)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        session = pl_module.session
        seen = {
            "world": trainer.world_size,
            "weights": weights_digests(session.sites),
            "after": session.report.after,
            "held": {name: local(weight).numel() for name, weight in session.model.named_parameters()},
            "ranks": [list(entry.ranks.values()) for entry in session.entries],
            "updates": [
                float(entry.updates[site.layer].left.sum()) for entry in session.entries for site in session.sites
            ],
        }
        (self.folder / f"rank_{trainer.global_rank}.json").write_text(json.dumps(seen))

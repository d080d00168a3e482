"""Checkpoints that hold whole batches."""

from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from aeplus.errors import require_count
from aeplus.run.hooks import EditingModule


class EditCheckpoint(ModelCheckpoint):
    """Writes a checkpoint, which points at the run's journal of edits, whenever a batch has been committed.

    Args:
        every_n_batches: Write after every N batches, and after the last.
        keep_all: Keep every checkpoint rather than the newest only.
        filename: Name of the file; ``{step}`` is the number of batches committed.
        dirpath: Folder; by default ``checkpoints`` beside the logs.
    """

    def __init__(
        self,
        every_n_batches: int = 1,
        keep_all: bool = False,
        filename: str = "{step}-batches",
        dirpath: str | None = None,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            save_top_k=-1 if keep_all else 1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
        )
        self.every_n_batches = every_n_batches
        require_count(every_n_batches, "EditCheckpoint's every_n_batches", 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if this smoothing iteration was the last of its batch."""
        module = cast("EditingModule", pl_module)
        session = module.session
        committed = len(session.entries) - module.uncounted
        whole = not session.in_batch and committed == trainer.global_step
        if whole and (committed % self.every_n_batches == 0 or trainer.should_stop):
            super().on_train_epoch_end(trainer, pl_module)

    def on_exception(self, *args: Any) -> None:
        """Writes nothing: what is not committed must not be resumed."""

"""Writes what remains of a run: ``metrics.json``, the final table and, optionally, the edited model.

It asks the session to :meth:`~aeplus.run.session.EditSession.finish`, which measures the edited model.
"""

import sys
import time
from pathlib import Path

from lightning import LightningModule, Trainer

from aeplus.models.loading import save_model
from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback, EditingModule, opened_session, session_of
from aeplus.run.report import print_summary
from aeplus.run.session import EditSession
from aeplus.utils.paths import check_output


def run_folder(trainer: Trainer) -> Path:
    """The run's folder, ``lightning_logs/<name>/version_N``."""
    return Path(trainer.log_dir or trainer.default_root_dir)


class JournalWriter(EditCallback):
    """Writes ``metrics.json`` after every batch, and the edited model at the end.

    Args:
        save_model: Whether to save the edited model and its tokenizer as a Hugging Face folder, ``model``.
        table: Whether to print the final table.
    """

    def __init__(self, save_model: bool = False, table: bool = True) -> None:
        self.save_model = save_model
        self.table = table

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the clock, and makes sure that nothing of the user's is in the way."""
        self._began = time.perf_counter()
        if stage == "fit" and trainer.is_global_zero:
            check_output(run_folder(trainer) / "metrics.json", "the run's")
            if self.save_model:
                check_output(run_folder(trainer) / "model", "the run's", folder=True)

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """Brings ``metrics.json`` up to date, so that a run cut short leaves its figures."""
        self.write(trainer, module.session)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures all edits, writes everything and prints the table."""
        session = session_of(pl_module)
        session.finish()
        self.write(trainer, session)
        folder = run_folder(trainer)
        model = folder / "model"
        if self.save_model:
            save_model(session.model, session.tokenizer, model)
        if self.table:
            print_summary(session.report, folder, model if self.save_model else None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After Ctrl-C, saves the batches committed so far, whole; what was under way is removed first."""
        session = opened_session(pl_module)
        if session is None:
            return
        session.rollback()
        committed = len(session.journal.entries)
        if not committed or not isinstance(exception, KeyboardInterrupt):
            return
        if self.save_model:
            save_model(session.model, session.tokenizer, run_folder(trainer) / "model")
        checkpoints = sorted(run_folder(trainer).glob("checkpoints/*.ckpt"), key=lambda p: p.stat().st_mtime)
        how = f"; resume with --ckpt_path {checkpoints[-1]}" if checkpoints else ""
        total = committed + session.data.batches
        print(f"\ninterrupted: {committed} of {total} batches committed{how}", file=sys.stderr)

    def write(self, trainer: Trainer, session: EditSession) -> None:
        """Writes ``metrics.json`` as the report now is; for callbacks that add to it."""
        if trainer.is_global_zero and trainer.log_dir is not None:
            session.report.seconds["total"] = time.perf_counter() - self._began
            session.report.write(run_folder(trainer) / "metrics.json")

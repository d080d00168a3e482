"""Writes what remains of a run: ``metrics.json``, the final table and, optionally, the edited model.

It asks the session to :meth:`~aeplus.run.session.EditSession.finish`, which measures the edited model.
"""

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from aeplus.errors import InputError
from aeplus.models.loading import edited_weights, save_model, whole_state
from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback, EditingModule, opened_session, session_of
from aeplus.run.report import environment, print_summary
from aeplus.run.session import EditSession
from aeplus.utils.paths import check_output
from aeplus.utils.tables import counted

_REST = 5.0, 20.0  # seconds between two writes while batches are committed, and times what the last one took

_LOGS: "WeakKeyDictionary[Trainer, str | None]" = WeakKeyDictionary()


def log_folder(trainer: Trainer) -> str | None:
    """Where the run's logger writes, if it writes files.

    Lightning asks process 0 for it, which all have to do together. It is asked once, in ``setup``, so that one process
    can know it by itself, whatever happens to the others.
    """
    if trainer not in _LOGS:
        _LOGS[trainer] = trainer.log_dir
    return _LOGS[trainer]


def run_folder(trainer: Trainer) -> Path:
    """The run's folder, ``lightning_logs/<name>/version_N``."""
    return Path(log_folder(trainer) or trainer.default_root_dir)


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be written is said, where another error is under way already."""
    try:
        yield
    except InputError as error:
        print(f"aeplus: error: {error}", file=sys.stderr)


def resume_command(trainer: Trainer) -> str | None:
    """What goes on from the run's last checkpoint; ``None`` if it has none."""
    folder = run_folder(trainer)
    checkpoints = sorted(folder.glob("checkpoints/*.ckpt"), key=lambda p: p.stat().st_mtime)
    if not checkpoints:
        return None
    config = folder / "config.yaml"
    command = ["aeplus", "fit", "--config", str(config)] if config.is_file() else []
    return shlex.join([*command, "--ckpt_path", str(checkpoints[-1])])


class JournalWriter(EditCallback):
    """Writes ``metrics.json`` after a batch if it has not for some seconds, and with the edited model at the end.

    The file is written as a whole, so to write it after every batch would take the more, the more there are. What it
    lacks when a run is killed is in the journal; a run that ends in any other way writes everything.

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
        self._due = 0.0
        log_folder(trainer)
        if stage == "fit" and trainer.is_global_zero:
            check_output(run_folder(trainer) / "metrics.json", "the run")
            if self.save_model:
                check_output(run_folder(trainer) / "model", "the run", folder=True)

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """Brings ``metrics.json`` up to date every few seconds, so that a run that is killed leaves its figures."""
        if time.monotonic() >= self._due:
            self.write(trainer, module.session)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures all edits, while the model is still on its device."""
        session_of(pl_module).finish()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes everything, the edits measured first where nothing was left to train."""
        session = session_of(pl_module)
        session.finish()
        self.write(trainer, session)
        if not self.save_model:
            return
        state = whole_state(session.model, keep=trainer.is_global_zero)  # all processes gather
        if trainer.is_global_zero:
            edited = edited_weights(session.sites)
            save_model(session.model, session.tokenizer, run_folder(trainer) / "model", edited, state)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prints the table, now that everything is saved."""
        session = opened_session(pl_module)
        if stage == "fit" and self.table and session is not None and trainer.is_global_zero:
            folder = run_folder(trainer)
            boards = [logger.log_dir for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
            print_summary(
                session.report,
                folder,
                folder / "model" if self.save_model else None,
                *boards[:1],
                earlier=sum(len(entry.edits) for entry in session.entries[: session.resumed]),
                journal=session.recording.folder if session.entries else None,
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves the batches committed so far, whole, and reports how to resume; the one under way is rolled back."""
        session = opened_session(pl_module)
        if session is None or not session.has_data:
            return
        session.rollback()
        if not trainer.is_global_zero:
            return
        committed = len(session.entries)
        interrupted = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if not committed and not interrupted:
            return
        if committed:
            with _told():
                self.write(trainer, session)
        if committed and self.save_model and not session.decoder.ranks.sharded:  # whose parts the others have
            with _told():
                edited = edited_weights(session.sites)
                save_model(session.model, session.tokenizer, run_folder(trainer) / "model", edited)
        command = resume_command(trainer) if committed else None
        how = f"; resume with {command}" if command is not None else ""
        total = committed + session.data.batches
        what = "interrupted" if interrupted else "stopped"
        edits = f"{session.report.edits_done} of {counted(len(session.data.requests), 'edit')}"
        print(f"\n{what}: {committed} of {total} batches committed, {edits}{how}", file=sys.stderr)

    def write(self, trainer: Trainer, session: EditSession) -> None:
        """Writes ``metrics.json`` as the report now is; for callbacks that add to it."""
        if trainer.is_global_zero and log_folder(trainer) is not None:
            began = time.monotonic()
            session.report.seconds["total"] = time.perf_counter() - self._began
            session.report.environment = environment(trainer.strategy.root_device)
            session.report.write(run_folder(trainer) / "metrics.json")
            least, times = _REST
            self._due = time.monotonic() + max(least, times * (time.monotonic() - began))

"""One bar for the stream: batch b of B, smoothing t of T, targets converged, current score."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm

from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback, EditingModule, session_of
from aeplus.run.session import EditSession


class EditProgressBar(EditCallback, ProgressBar):
    """Shows how far the stream is, in place of Lightning's bar per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._on = True
        self._text = ""

    def disable(self) -> None:
        """Shows nothing from now on."""
        self._on = False

    def enable(self) -> None:
        """Shows the bar again."""
        self._on = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar."""
        data = session_of(pl_module).data
        self._bar = tqdm(
            total=len(data.requests), initial=len(data.edited), unit="edit", disable=not self._on, dynamic_ncols=True
        )

    def on_targets_step(self, trainer: Trainer, module: EditingModule, step: int, steps: int, converged: int) -> None:
        """Shows the targets' progress."""
        self._show(
            module.session, f"targets {converged}/{len(module.session.data.current)} converged, step {step}/{steps}"
        )

    def on_candidate(self, trainer: Trainer, module: EditingModule, iteration: int, iterations: int) -> None:
        """Shows the smoothing iteration and the last score."""
        self._text = f"smoothing {iteration}/{iterations - 1}" if iterations > 1 else "solved"
        self._show(module.session, self._text)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the candidate's score."""
        score = trainer.callback_metrics.get("validation/score")
        if score is not None:
            self._show(session_of(pl_module), f"{self._text}, score {float(score):.1f}")

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """Advances by a batch."""
        if self._bar is not None:
            self._bar.update(len(commit.requests))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the bar."""
        self._close()

    def _show(self, session: EditSession, text: str) -> None:
        if self._bar is not None:
            done = len(session.entries)
            self._bar.set_description_str(f"batch {done + 1}/{done + session.data.batches}", refresh=False)
            self._bar.set_postfix_str(text)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

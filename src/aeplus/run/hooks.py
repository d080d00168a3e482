"""What a callback can hear from an editing run, beside Lightning's own hooks."""

import warnings
from typing import Any, Protocol, cast

from lightning import Callback, LightningModule, Trainer

from aeplus.run.batches import BatchCommit
from aeplus.run.session import EditSession


class EditingModule(Protocol):
    """What a callback may ask of the module; :class:`~aeplus.module.EditModule` is one.

    Attributes:
        session: The run.
        monitor: The logged value that candidates are chosen by.
        uncounted: How many of the session's batches a journal held before the first step of the run.
        settings: The hyperparameters, as plain values.
    """

    session: EditSession
    monitor: str
    uncounted: int

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters, as plain values."""


def session_of(module: LightningModule) -> EditSession:
    """The run that a module of Lightning's hooks drives."""
    return cast("EditingModule", module).session


def opened_session(module: LightningModule) -> EditSession | None:
    """The same; ``None`` where a run failed before its model was loaded."""
    return getattr(module, "session", None)


def goes_on(module: LightningModule) -> bool:
    """Whether the module has begun to edit in an earlier fit."""
    session = opened_session(module)
    return session is not None and session.ready


def came_late(callback: Callback, what: str) -> None:
    """Says what a callback leaves out, as it did not see the unedited model."""
    warnings.warn(
        f"{type(callback).__name__} {what}: the model was edited before this callback was there; give it to the first "
        "fit of a module",
        stacklevel=3,
    )


class EditCallback(Callback):
    """A Lightning callback that also hears what happens within and after a batch. Override what you need."""

    def on_unedited_model(self, trainer: Trainer, module: EditingModule) -> None:
        """The model is loaded and measured, and holds no edit yet, not even those of a checkpoint."""

    def on_targets_step(self, trainer: Trainer, module: EditingModule, step: int, steps: int, converged: int) -> None:
        """A gradient step of the targets is done; ``converged`` edits have left."""

    def on_candidate(self, trainer: Trainer, module: EditingModule, iteration: int, iterations: int) -> None:
        """The model holds a smoothing candidate, which validation will score."""

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """A batch has become part of the model."""

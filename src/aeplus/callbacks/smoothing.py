"""Early stopping of a batch's smoothing: sets the rule of :mod:`aeplus.run.selection` that the session decides by."""

import logging
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from aeplus.errors import InputError
from aeplus.methods.registry import Selections
from aeplus.run.hooks import EditingModule, session_of
from aeplus.run.selection import MEASURED, SELECTIONS, Decision, Selection, SelectionOptions

log = logging.getLogger(__name__)


class SmoothingStop(EarlyStopping):
    """Early stopping of each batch's smoothing: it ends the batch, and the run only when the stream is empty.

    The rules are those of :mod:`aeplus.run.selection`; this callback sets them for a run.

    Args:
        selection: By default the method's (``model.method.selection``). ``best``: commit the candidate with the best
            validation, ties to the least smoothed. ``converge`` (Algorithm 1, line 19): commit the first whose
            score differs from the one before by at most ``min_delta``. With a small validation set two scores are
            easily equal, and ``converge`` then commits half-smoothed targets. ``highest``: commit the candidate with
            the highest mean of Efficacy and Generalization, ties to the most smoothed, after all were scored.
        min_delta: δ of ``converge``, in points of the score (0 to 100).
        tie: For ``best``: scores this close to the best, in points, are a tie, unless no candidate had a lower one.
            The default asks for none: probabilities tell candidates apart. Top-1 hits do not; with
            ``monitor: validation/score`` one of twenty preserved prompts is 1.7 points.
        patience: For ``best``: iterations below the best before the search ends. A tie is not below.
        monitor: What to watch; by default ``validation/probability`` for ``best`` (the mean probability of the
            expected answers), ``validation/score`` (top-1 hits, as in Algorithm 1) for ``converge`` and
            ``validation/efficacy+generalization`` (the mean of both) for ``highest``. Any other value has to be logged
            during validation by a callback of one's own.
        verbose: Log each decision.

    Raises:
        InputError: If a number is out of range or the selection unknown.
    """

    def __init__(
        self,
        selection: Selections | None = None,
        min_delta: float = 0.02,
        tie: float = 0.0,
        patience: int = 2,
        monitor: str | None = None,
        verbose: bool = False,
    ) -> None:
        if selection is not None and selection not in SELECTIONS:
            choices = ", ".join(SELECTIONS)
            msg = f"expected SmoothingStop's selection out of {choices}, got {selection!r}; choose one of these."
            raise InputError(msg)
        super().__init__(
            monitor=monitor or "validation/score", min_delta=min_delta, patience=patience, mode="max", strict=False
        )
        self.selection = selection
        made = _Logging if verbose else SelectionOptions
        self._options = {name: made(name, tie, patience, min_delta, monitor) for name in SELECTIONS}
        for make in self._options.values():
            make()  # bad numbers are reported before the run

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets how the run chooses its candidates."""
        session = session_of(pl_module)
        session.select = options = self._options[self.selection or session.method.selection]
        watched = options.watched
        self.monitor = f"validation/{watched}" if watched in MEASURED else str(options.monitor)
        session.monitor = watched
        cast("EditingModule", pl_module).monitor = self.monitor

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the session has decided already, in the module's own hook."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: a score does not end the run."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a checkpoint lies between two batches."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


class _Logging(SelectionOptions):
    """Options whose rules log what they decide."""

    def __call__(self) -> Selection:
        return _Logged(super().__call__())


class _Logged:
    """A rule that logs what it decides."""

    def __init__(self, rule: Selection) -> None:
        self._rule, self._iteration = rule, 0

    def observe(self, score: float) -> Decision:
        decision = self._rule.observe(score)
        log.info("smoothing %d: score %.2f, keep %s, done %s", self._iteration, score, decision.keep, decision.done)
        self._iteration += 1
        return decision

"""When a batch's smoothing ends."""

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from aeplus.errors import InputError

if TYPE_CHECKING:
    from aeplus.module import EditModule


class SmoothingStop(EarlyStopping):
    """Early stopping of each batch's smoothing: it ends the batch, and the run only when the stream is empty.

    Args:
        selection: ``best``: commit the candidate with the best validation score, ties to the least smoothed.
            ``converge`` (Algorithm 1, line 19): commit the first whose score differs from the one before by at
            most ``min_delta``. With a small validation set two scores are easily equal, and ``converge`` then
            commits half-smoothed targets.
        min_delta: δ, in points of the score (0 to 100). For ``best``, what counts as worse.
        patience: For ``best``: iterations without improvement before the search ends. A tie is an improvement,
            since the later candidate is smoothed less.
        monitor: What to watch.
        verbose: Log each decision.
    """

    def __init__(
        self,
        selection: Literal["best", "converge"] = "best",
        min_delta: float = 0.02,
        patience: int = 2,
        monitor: str = "validation/score",
        verbose: bool = False,
    ) -> None:
        if patience < 1 or min_delta < 0:
            msg = (
                "SmoothingStop needs patience of at least 1 and min_delta of at least 0, but "
                f"patience={patience} and min_delta={min_delta} came."
            )
            raise InputError(msg)
        super().__init__(
            monitor=monitor,
            # EarlyStopping asks for more than min_delta of improvement; a tie must pass, so it is negative.
            min_delta=-1e-6 if selection == "best" else min_delta,
            patience=patience,
            mode="max",
            strict=False,
            verbose=verbose,
            check_on_train_epoch_end=True,
        )
        self.selection = selection
        self.tolerance = min_delta
        self._last: torch.Tensor | None = None

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        module = cast("EditModule", trainer.lightning_module)
        score = trainer.callback_metrics.get(self.monitor)
        if self._batch_is_done(module, score):
            self._forget()
            module.commit()
            trainer.should_stop = module.data.exhausted

    def _batch_is_done(self, module: "EditModule", score: torch.Tensor | None) -> bool:
        last = module.iteration + 1 >= module.batch.iterations
        if score is None:  # no validation: nothing to choose by, so the unsmoothed targets
            return last
        if self.selection == "converge":
            settled = self._last is not None and bool((score - self._last).abs() <= self.tolerance)
            self._last = score.clone()
            return last or settled
        stop, _ = self._evaluate_stopping_criteria(score.squeeze())
        if self.wait_count == 0:
            module.keep_candidate()
        return last or stop

    def _forget(self) -> None:
        """Ready for the next batch."""
        self.wait_count = 0
        self.best_score = torch.tensor(-torch.inf)
        self._last = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing was stopped early: the stream is done."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a checkpoint lies between two batches."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""

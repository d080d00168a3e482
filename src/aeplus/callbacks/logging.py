"""Logs every committed batch to the run's logger (TensorBoard unless another is set)."""

import json
from itertools import accumulate
from typing import Any, Literal, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from aeplus.errors import InputError, require_count
from aeplus.run.batches import BatchCommit
from aeplus.run.hooks import EditCallback, EditingModule, session_of
from aeplus.run.session import EditSession

_LAYER = ("rank", "sigma_max", "leakage", "prior_weight_norm", "conflict_preserved", "conflict_prior")


class MetricsWriter(EditCallback):
    """Logs every committed batch: scores, conflict, residuals, P̃, Λp, smoothing and seconds.

    The step of every curve is the number of batches committed.

    Args:
        evaluate_every: Measure all edits so far on their test prompts after every N batches; 0 for never, ``growing``
            for whenever they are a tenth more than when last measured, and after the last batch: after each of the
            first ten batches, ever more seldom then, so that a run asks about eleven times what its last measurement
            asks. These figures are for the reader: nothing in the run depends on them.

    Raises:
        InputError: If ``evaluate_every`` is something else.
    """

    def __init__(self, evaluate_every: int | Literal["growing"] = "growing") -> None:
        self.evaluate_every = evaluate_every
        self._measured = 0  # edits
        if evaluate_every == "growing":
            return
        if isinstance(evaluate_every, str):
            msg = (
                f"expected MetricsWriter.evaluate_every to be a number of batches or growing, got {evaluate_every!r}; "
                "choose one of these."
            )
            raise InputError(msg)
        require_count(evaluate_every, "MetricsWriter's evaluate_every")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the hyperparameters and the unedited model."""
        session = session_of(pl_module)
        self._measured = 0
        for done in accumulate(len(entry.edits) for entry in session.entries):
            self._grown(done)
        for logger in trainer.loggers:
            settings = {
                "model": cast("EditingModule", pl_module).settings,
                "data": cast(Any, trainer).datamodule.settings,
            }
            logger.log_hyperparams(settings)
            if isinstance(logger, TensorBoardLogger):
                text = json.dumps(settings, indent=2)
                logger.experiment.add_text("hyperparameters", f"```\n{text}\n```", 0)
        if not session.entries:
            self._log(trainer, {f"edits/{k}": v for k, v in session.report.before.items()}, 0)

    def on_batch_committed(self, trainer: Trainer, module: EditingModule, commit: BatchCommit) -> None:
        """Logs the batch."""
        report, step = commit.report, commit.index + 1
        values: dict[str, float | None] = {f"validation/{k}": v for k, v in commit.validation.items()}
        if self._due(module.session, step):
            so_far = module.session.measuring.score(module.session.data.edited).summary()
            values |= {f"edits/{k}": v for k, v in so_far.items()}
        values |= {
            "conflict/preserved_mean": report["conflict_preserved"],
            "conflict/preserved_max": report["conflict_preserved_max"],
            "conflict/prior_mean": report["conflict_prior"],
            "conflict/prior_max": report["conflict_prior_max"],
            "residual/mean": report["residual_norm"],
            "residual/max": report["residual_norm_max"],
            "relaxation/rank": report["rank"],
            "relaxation/sigma_max": report["sigma_max"],
            "leakage": report["leakage"],
            "prior_weights/norm": report["prior_weight_norm"],
            "smoothing/iterations": report["smoothing_iterations"],
            "smoothing/committed": report["committed_iteration"],
            "targets/converged": commit.targets_converged,
        }
        values |= {f"seconds/{k}": v for k, v in report["seconds"].items()}
        for layer in report["layers"]:
            values |= {f"layer_{layer['layer']}/{name}": layer[name] for name in _LAYER}
        self._log(trainer, values, step)

    def _due(self, session: EditSession, step: int) -> bool:
        if isinstance(self.evaluate_every, int):
            return self.evaluate_every > 0 and step % self.evaluate_every == 0
        return self._grown(session.report.edits_done) or session.data.exhausted

    def _grown(self, done: int) -> bool:
        """Whether the edits done are a tenth more than those last measured, which they are from then on."""
        grown = 10 * done >= 11 * self._measured
        if grown:
            self._measured = done
        return grown

    @staticmethod
    def _log(trainer: Trainer, values: dict[str, float | None], step: int) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(known, step=step)

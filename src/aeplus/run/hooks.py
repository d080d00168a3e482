"""What a callback can hear from an editing run, beside Lightning's own hooks."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning import Callback, Trainer

from aeplus.edits import EditRequest

if TYPE_CHECKING:
    from aeplus.methods.batch import Candidate
    from aeplus.module import EditModule


@dataclass(frozen=True)
class BatchCommit:
    """A sequential batch that has just become part of the model.

    Attributes:
        index: Number of the batch, from 0.
        requests: Its edits.
        candidate: What was committed: for each layer the update (factors), the keys and the measurements
            (conflict, rank of P̃, leakage and so on).
        report: The batch's entry in ``metrics.json``.
        residual_norms: ``‖r‖`` of each edit.
        validation: Efficacy, Generalization, Specificity and Score on the validation set.
        targets_converged: How many targets came below the stopping loss.
    """

    index: int
    requests: list[EditRequest]
    candidate: "Candidate"
    report: dict[str, Any]
    residual_norms: list[float]
    validation: dict[str, float | None] = field(default_factory=dict)
    targets_converged: int = 0


class EditCallback(Callback):
    """A Lightning callback that is also told what happens within and after a batch. Override what you need."""

    def on_unedited_model(self, trainer: Trainer, module: "EditModule") -> None:
        """The model is loaded and measured, and holds no edit yet, not even those of a checkpoint."""

    def on_targets_step(self, trainer: Trainer, module: "EditModule", step: int, steps: int, converged: int) -> None:
        """A gradient step of the targets is done; ``converged`` edits have left."""

    def on_candidate(self, trainer: Trainer, module: "EditModule", iteration: int, iterations: int) -> None:
        """The model holds a smoothing candidate, which validation will score."""

    def on_batch_committed(self, trainer: Trainer, module: "EditModule", commit: BatchCommit) -> None:
        """A batch has become part of the model."""

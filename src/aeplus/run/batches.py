"""What a session takes and what it gives: a stream of edits in batches, and the batch that was committed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from aeplus.data.readability import ModelLimits
from aeplus.data.validation import ValidationSet
from aeplus.edits import EditRequest
from aeplus.methods.batch import Candidate


class Stream(Protocol):
    """Edits in sequential batches; :class:`~aeplus.data.datamodule.EditDataModule` is one.

    Attributes:
        requests: All edits, in order.
        validation: What scores the candidates.
        overlap: Test prompts that do not count, as the validation set holds them.
        cursor: How many edits are committed.
    """

    requests: list[EditRequest]
    validation: ValidationSet
    overlap: frozenset[str]
    cursor: int

    @property
    def batches(self) -> int:
        """How many sequential batches are still to be edited."""

    @property
    def current(self) -> list[EditRequest]:
        """The batch at the cursor."""

    @property
    def edited(self) -> list[EditRequest]:
        """All edits before the cursor."""

    @property
    def exhausted(self) -> bool:
        """Whether every batch has been committed."""


@runtime_checkable
class Adaptable(Protocol):
    """A stream that is made for a model before it is edited; the data module is one.

    Attributes:
        chat_template: Whether the prompts are chats.
    """

    chat_template: bool

    def adapt(self, limits: ModelLimits, corpus: str) -> None:
        """Leaves out, or refuses, what the model cannot read, and renders chats."""

    def check_tests(self, limits: ModelLimits) -> None:
        """Leaves out, or refuses, test prompts that the model cannot read."""

    def adapted(self, requests: Sequence[EditRequest], limits: ModelLimits) -> list[EditRequest]:
        """The same for other edits than the stream's."""


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
    candidate: Candidate
    report: dict[str, Any]
    residual_norms: list[float]
    validation: dict[str, float | None] = field(default_factory=dict)
    targets_converged: int = 0

"""A batch under way: its candidates, what chooses among them, and the seconds that each part takes."""

import time
from typing import Any

from aeplus.errors import InputError
from aeplus.methods.batch import BatchEdit, Candidate
from aeplus.run.by_layer import LayerChoice
from aeplus.run.report import batch_report
from aeplus.run.selection import Selection


class UnderWay:
    """A sequential batch, from its first candidate to what is committed of it.

    Args:
        rule: Chooses the candidate.

    Attributes:
        choice: Decides layer by layer instead, where a method does.
        edit: The batch's edit.
    """

    def __init__(self, rule: Selection) -> None:
        self._rule = rule
        self._began = time.perf_counter()
        self._learning = self._validating = 0.0
        self.choice: LayerChoice | None = None
        self.edit: BatchEdit

    def built(self, edit: BatchEdit, learning: float) -> None:
        """Takes the batch's edit, and the seconds that learning its targets took."""
        self.edit, self._learning = edit, learning

    def spend_validating(self, seconds: float) -> None:
        """Counts the seconds of a validation inside a candidate as validation's."""
        self._validating += seconds
        self.edit.seconds -= seconds

    def scored(self, scores: dict[str, float | None], seconds: float) -> None:
        """Takes what validation made of the present candidate, and the seconds that it took."""
        self._validating += seconds
        self.edit.scores[self.edit.iteration] = scores

    def settle(self, score: float | None) -> bool:
        """Whether the batch is ready to be committed, with this score of the present candidate.

        Args:
            score: ``None`` where it was not validated: there is nothing to choose by, and the batch ends after its last
                candidate, which is committed unless an earlier one was kept.

        Raises:
            InputError: If the batch has no candidate yet.
        """
        self.check_candidate()
        last = self.edit.iteration + 1 >= self.edit.iterations
        if score is None:
            return last
        decision = self._rule.observe(score)
        if decision.keep:
            self.edit.keep()
        return last or decision.done

    def check_candidate(self) -> None:
        """The model holds a candidate.

        Raises:
            InputError: If it does not yet.
        """
        if not self.edit.scores:
            msg = "expected a candidate in the model, got none yet; call candidate() first."
            raise InputError(msg)

    def report(self, edits: int, chosen: Candidate, spared: float) -> dict[str, Any]:
        """The batch's entry in ``metrics.json``.

        Args:
            edits: How many edits it has.
            chosen: What is committed.
            spared: Seconds of learning that another run had spent already; they count as if this one had.
        """
        editor, scores = self.edit.editor, self.edit.scores.values()
        seconds = {
            "targets": self._learning,
            "solve": self.edit.seconds,
            "validate": self._validating,
            "total": time.perf_counter() - self._began + spared,
        }
        report = batch_report(
            edits,
            [layer.report for layer in chosen.layers],
            editor.residual_norms.tolist(),
            editor.steps.tolist(),
            [{"score": found.get("score"), "probability": found.get("probability")} for found in scores],
            chosen.iteration,
            seconds,
        )
        if self.choice is not None:
            report["chosen"] = self.choice.chosen
        return report

"""Choosing a smoothing candidate layer by layer (``selection_scope: layer``), as AlphaEdit+'s published code does."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from aeplus.errors import InputError
from aeplus.run.measuring import Asked
from aeplus.run.selection import MEASURED, Selection, seen

Items = Callable[[], Sequence[Asked]]
"""Gives the validation prompts of the batch under way."""


def check_alone(alone: bool) -> None:
    """One process scores a layer's candidates.

    Raises:
        InputError: If there are several.
    """
    if not alone:
        msg = (
            "expected one process for method.selection_scope: layer, which scores a layer's candidates while it is "
            "edited, got several; set trainer.devices: 1, or selection_scope: batch."
        )
        raise InputError(msg)


class LayerChoice:
    """Decides of each layer of a batch as a rule decides of all layers together.

    Args:
        items: Gives the validation prompts.
        select: Makes the rule of a layer.
        grade: What validation finds for some prompts with the present weights.
        monitor: What of it the rule sees.
        spend: Takes the seconds of each validation.

    Attributes:
        chosen: For each layer so far its iteration, and the scores that it was chosen by.

    Raises:
        InputError: If there are no prompts, or the session does not measure what is to be seen.
    """

    def __init__(
        self,
        items: Items | None,
        select: Callable[[], Selection],
        grade: Callable[[Any], dict[str, float | None]],
        monitor: str,
        spend: Callable[[float], None],
    ) -> None:
        if items is None:
            msg = (
                "expected validation prompts for method.selection_scope: layer, got none; call begin(items) with what "
                "gives them."
            )
            raise InputError(msg)
        if monitor not in MEASURED:
            msg = (
                f"expected a monitor out of {', '.join(MEASURED)} for method.selection_scope: layer, got {monitor!r}; "
                "choose one of these, or selection_scope: batch."
            )
            raise InputError(msg)
        self._items, self._select, self._grade, self._monitor, self._spend = items, select, grade, monitor, spend
        self.chosen: list[dict[str, Any]] = []

    def __call__(self, count: int, put: Callable[[int], object]) -> int:
        """Which of a layer's candidates stays.

        Args:
            count: How many there are; the only one is final, and not validated.
            put: Puts one into the model.
        """
        rule, scores = self._select(), list[float | None]()
        iteration, kept = 0, None
        for iteration in range(count if count > 1 else 0):
            put(iteration)
            began = time.perf_counter()
            scores.append(score := seen(self._grade(self._items()), self._monitor))
            self._spend(time.perf_counter() - began)
            if score is None:
                continue
            decision = rule.observe(score)
            kept = iteration if decision.keep else kept
            if decision.done:
                break
        self.chosen.append({"iteration": iteration if kept is None else kept, "scores": scores})
        return self.chosen[-1]["iteration"]

"""Which smoothing candidate of a batch is committed, decided from the validation scores alone.

A rule sees one score per candidate, the most smoothed first, and answers whether to keep that candidate and whether the
batch is done. A batch begins with a rule of its own. A further rule is a class here and an entry of
:data:`SELECTIONS`; :class:`SelectionOptions` and ``SmoothingStop`` then take it by its name, and ``method.selection``
does once the name is in :data:`~aeplus.methods.registry.Selections`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from aeplus.errors import InputError

_ROUNDING = 1e-3  # points of a score: scores of the same hits may differ by rounding


class Decision(NamedTuple):
    """What follows from a candidate's score.

    Attributes:
        keep: Commit this candidate unless a later one is kept.
        done: No further candidate is needed.
    """

    keep: bool
    done: bool


class Selection(Protocol):
    """A rule for one batch."""

    def observe(self, score: float) -> Decision:
        """Takes the next candidate's score, in percent."""


class Best:
    """Keeps the candidate with the best score, ties to the least smoothed.

    A tie wins over a more smoothed candidate because the paper's target is the unsmoothed one: where validation cannot
    tell two candidates apart, the one that differs less from it is taken. A candidate that nothing scored below is no
    tie, however close it is to the best: the worst of all never wins, unless all are equal.

    Args:
        tie: Scores this close to the best, in points, are a tie. Ties do not add up: the best score stays the bound.
            By default only rounding makes one.
        patience: After this many candidates in a row below the best, the batch is done. A tie is not below.

    Raises:
        InputError: If ``tie`` is negative or ``patience`` below 1.

    Example:
        >>> rule = Best(tie=1.0, patience=2)
        >>> [tuple(rule.observe(score)) for score in (80.0, 90.0, 70.0, 60.0)]
        [(True, False), (True, False), (False, False), (False, True)]

        Three in equal steps down, each within a tie of the one before: the first is kept.

        >>> rule = Best(tie=2.0)
        >>> [rule.observe(score).keep for score in (80.0, 79.0, 78.0)]
        [True, False, False]
    """

    def __init__(self, tie: float = 0.0, patience: int = 2) -> None:
        if patience < 1 or not tie >= 0:
            msg = (
                f"expected patience of at least 1 and a tie of at least 0, got patience={patience} and tie={tie}; "
                "choose others."
            )
            raise InputError(msg)
        self._tie, self._patience = tie, patience
        self._best, self._worst, self._below = -math.inf, math.inf, 0

    def observe(self, score: float) -> Decision:
        """Takes the next candidate's score, in percent.

        One that is not finite is not kept, and ends the batch once another was.
        """
        if not math.isfinite(score):
            return Decision(keep=False, done=self._best > -math.inf)
        tied, equal = score + self._tie + _ROUNDING > self._best, score + _ROUNDING > self._best
        above = score > self._worst + _ROUNDING
        self._best, self._worst = max(self._best, score), min(self._worst, score)
        if tied:
            self._below = 0
            return Decision(keep=equal or above, done=False)
        self._below += 1
        return Decision(keep=False, done=self._below >= self._patience)


class Converge:
    """Keeps every candidate, and is done when the score has settled (Algorithm 1, line 19).

    With a small validation set two scores are easily equal, and half-smoothed targets are then committed.

    Args:
        min_delta: δ: the score has settled if it differs from the one before by at most this, in points.

    Raises:
        InputError: If ``min_delta`` is negative.

    Example:
        >>> rule = Converge(min_delta=0.5)
        >>> [rule.observe(score).done for score in (80.0, 90.0, 90.2)]
        [False, False, True]
    """

    def __init__(self, min_delta: float = 0.02) -> None:
        if not min_delta >= 0:
            msg = f"expected a min_delta of at least 0, got {min_delta}; choose another."
            raise InputError(msg)
        self._min_delta = min_delta
        self._last: float | None = None

    def observe(self, score: float) -> Decision:
        """Takes the next candidate's score, in percent."""
        settled = self._last is not None and abs(score - self._last) <= self._min_delta
        self._last = score
        return Decision(keep=True, done=settled)


class Highest:
    """Keeps the first candidate that no other surpasses, and sees all of them: the published code's rule.

    A tie goes to the most smoothed, however many there are.

    Example:
        >>> rule = Highest()
        >>> [tuple(rule.observe(score)) for score in (80.0, 90.0, 90.0, 70.0)]
        [(True, False), (True, False), (False, False), (False, False)]
    """

    def __init__(self) -> None:
        self._best = -math.inf

    def observe(self, score: float) -> Decision:
        """Takes the next candidate's score, in percent; one that is not a number is not kept."""
        keep = score > self._best + _ROUNDING
        self._best = score if keep else self._best
        return Decision(keep=keep, done=False)


@dataclass(frozen=True)
class SelectionOptions:
    """A rule for every batch as plain values, which a journal keeps; a call makes the rule of one batch.

    Attributes:
        selection: A name in :data:`SELECTIONS`.
        tie: See :class:`Best`.
        patience: See :class:`Best`.
        min_delta: See :class:`Converge`.
        monitor: What the rule sees; by default what is the rule's own.

    Raises:
        InputError: If the selection is unknown; a bad number is refused by the call.
    """

    selection: str = "best"
    tie: float = 0.0
    patience: int = 2
    min_delta: float = 0.02
    monitor: str | None = None

    def __post_init__(self) -> None:
        if self.selection not in SELECTIONS:
            msg = f"expected a selection out of {', '.join(SELECTIONS)}, got {self.selection!r}; choose one of these."
            raise InputError(msg)

    @property
    def watched(self) -> str:
        """What the rule sees, by its name in what ``EditSession.validate`` gives."""
        return (self.monitor or SELECTIONS[self.selection].watched).removeprefix("validation/")

    def __call__(self) -> Selection:
        """The rule of a batch.

        Raises:
            InputError: If a number is out of range.
        """
        rule = SELECTIONS[self.selection]
        return rule.make(**{number: getattr(self, number) for number in rule.numbers})


EDITED = "efficacy+generalization"
"""Their mean, by the name that a rule may watch; of one alone where the other has no prompt."""

MEASURED = ("probability", "score", "efficacy", "generalization", "specificity", EDITED)
"""What a session itself can tell a rule of a candidate."""


@dataclass(frozen=True)
class Rule:
    """An entry of :data:`SELECTIONS`.

    Attributes:
        make: Makes the rule of a batch.
        watched: What it sees of a candidate, by its name in what :func:`seen` takes.
        numbers: The fields of :class:`SelectionOptions` that ``make`` takes.
    """

    make: Callable[..., Selection]
    watched: str
    numbers: tuple[str, ...] = ()


SELECTIONS: dict[str, Rule] = {
    "best": Rule(Best, "probability", ("tie", "patience")),
    "converge": Rule(Converge, "score", ("min_delta",)),
    "highest": Rule(Highest, EDITED),
}
"""The rules by name. The best is found by probabilities, which tell candidates apart, Algorithm 1 compares the Score's
top-1 hits, and the published code the edits' alone."""


def seen(summary: Mapping[str, float | None], name: str) -> float | None:
    """What a rule sees of a candidate, in percent; ``None`` where it was not measured.

    Args:
        summary: What ``EditSession.validate`` gives.
        name: The name of one of its values, or :data:`EDITED`.
    """
    if name != EDITED:
        return summary[name]
    parts = [value for part in EDITED.split("+") if (value := summary[part]) is not None]
    return sum(parts) / len(parts) if parts else None


def logged(values: Mapping[str, Any], monitor: str) -> float | None:
    """What a rule sees of a candidate among what its trainer has logged; ``None`` where it was not measured.

    Args:
        values: The logged values.
        monitor: The name of one.

    Raises:
        InputError: If nothing logs such a value.
    """
    value = values.get(monitor)
    if value is None and monitor.removeprefix("validation/") not in MEASURED:
        msg = (
            f"expected a value logged as {monitor!r}, which candidates are chosen by, got none; log it during "
            f"validation, or watch one out of {', '.join(MEASURED)}."
        )
        raise InputError(msg)
    return None if value is None else float(value)

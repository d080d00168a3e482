"""Efficacy, Generalization, Specificity, Score and success by axis (strict top-1; AlphaEdit+, appendix B.2)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from aeplus.metrics.mean import Average, Interval, Share

ASPECTS = ("efficacy", "generalization", "specificity")
SCORES = (*ASPECTS, "score")
WAYS = {
    "generalization": ("openings", "statements", "rephrasing"),
    "specificity": ("other_subjects", "same_subject"),
}
"""Ways in which an aspect is asked, each reported apart where it is asked: ``generalization_openings`` and so on."""
PARTS = tuple(f"{aspect}_{way}" for aspect, ways in WAYS.items() for way in ways)


def exact_match(predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> Tensor:
    """Which answers are correct in every token.

    Args:
        predicted: Predicted token ids of each answer.
        expected: Expected token ids of each answer; compared over their whole length.

    Returns:
        Booleans ``[b]``.

    Example:
        >>> exact_match([[5, 6], [7, 8]], [[5, 6], [7, 9]]).tolist()
        [True, False]
    """
    hits = [tuple(p[: len(e)]) == tuple(e) for p, e in zip(predicted, expected, strict=True)]
    return torch.tensor(hits, dtype=torch.bool)


def token_match(predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> Tensor:
    """The share of each answer's tokens that are correct (the accuracy of MEND's and EasyEdit's code).

    Args:
        predicted: Predicted token ids of each answer.
        expected: Expected token ids of each answer, at least one.

    Returns:
        Shares between 0 and 1, ``[b]``.

    Example:
        >>> token_match([[5, 6], [7, 8]], [[5, 6], [7, 9]]).tolist()
        [1.0, 0.5]
    """
    pairs = zip(predicted, expected, strict=True)
    shares = [sum(a == b for a, b in zip(p, e, strict=False)) / len(e) for p, e in pairs]
    return torch.tensor(shares, dtype=torch.float32)


class TopOneSuccess(Share):
    """Share of prompts, in percent, whose every expected token is the top-1 prediction.

    Without any prompt the value is NaN.

    Example:
        >>> metric = Efficacy()
        >>> metric.update([[5, 6], [7, 8]], [[5, 6], [7, 9]])
        >>> float(metric.compute())
        50.0

        Two accepted answers of one prompt, one of them correct:

        >>> metric = Efficacy()
        >>> metric.update([[5, 6], [7, 8]], [[5, 6], [7, 9]], prompts=[0, 0])
        >>> float(metric.compute())
        100.0
    """

    def update(
        self,
        predicted: Sequence[Sequence[int]],
        expected: Sequence[Sequence[int]],
        edits: Sequence[int] | None = None,
        prompts: Sequence[int] | None = None,
    ) -> None:
        """Counts prompts.

        Args:
            predicted: Predicted token ids of each row.
            expected: Expected token ids of each row.
            edits: The index of each row's edit.
            prompts: The index of each row's prompt, where prompts have a row for each accepted answer.
        """
        self.record(self.judge(predicted, expected), edits, prompts)

    def judge(self, predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> Tensor:
        """The value of each row, ``[b]``."""
        return exact_match(predicted, expected)


class Efficacy(TopOneSuccess):
    """Share of edit prompts answered with the new target."""


class Generalization(TopOneSuccess):
    """Share of rephrased edit prompts answered with the new target."""


class Specificity(TopOneSuccess):
    """Share of neighborhood prompts that keep the original answer (the unedited model's where none is known)."""


class TokenAccuracy(TopOneSuccess):
    """Mean over the prompts of the share of answer tokens that are the top-1 prediction, in percent.

    Example:
        >>> metric = TokenAccuracy()
        >>> metric.update([[5, 6], [7, 8]], [[5, 6], [7, 9]])
        >>> float(metric.compute())
        75.0
    """

    def judge(self, predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> Tensor:
        """The share of correct tokens in each row, ``[b]``."""
        return token_match(predicted, expected)


class CaseSuccess(Share):
    """Share of cases, in percent, of whose questions any or all are answered right.

    MQuAKE's multi-hop accuracy counts a case if any of its multi-hop questions is right, its instance-wise accuracy if
    all of its single hops are.

    Args:
        join: ``any`` or ``all``.

    Example:
        >>> metric = CaseSuccess(any)
        >>> metric.update([True, False, False], ["first", "first", "second"])
        >>> float(metric.compute())
        50.0
    """

    def __init__(self, join: Callable[[Iterable[bool]], bool] = any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.join = join

    def update(self, right: Sequence[bool], cases: Sequence[str], edits: Sequence[int] | None = None) -> None:
        """Counts cases, each of them whole.

        Args:
            right: Whether each question is answered right.
            cases: The case of each.
            edits: The index of each question's edit; the last one of a case is its own.
        """
        groups: dict[str, list[bool]] = {}
        for hit, case in zip(right, cases, strict=True):
            groups.setdefault(case, []).append(hit)
        values = torch.tensor([self.join(hits) for hits in groups.values()], dtype=torch.float32)
        self.record(values, None if edits is None else list(dict(zip(cases, edits, strict=True)).values()))


class Score(Metric):
    """Arithmetic mean of Efficacy, Generalization and Specificity (of those that have prompts).

    Holds the three as child metrics, so it follows their updates and resets with them; and each way of asking
    (:data:`PARTS`), which does not enter the mean by itself: an aspect is the mean over its prompts, whatever the way.

    Args:
        part: The class of the three, if other than strict success.

    Example:
        >>> score = Score()
        >>> score.efficacy.update([[1]], [[1]])
        >>> score.specificity.update([[1], [1]], [[1], [2]])
        >>> float(score.compute())
        75.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0

    def __init__(self, part: type[TopOneSuccess] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.efficacy = (part or Efficacy)(**kwargs)
        self.generalization = (part or Generalization)(**kwargs)
        self.specificity = (part or Specificity)(**kwargs)
        for name in PARTS:
            setattr(self, name, (part or TopOneSuccess)(**kwargs))

    def update(
        self,
        aspect: str,
        predicted: Sequence[Sequence[int]],
        expected: Sequence[Sequence[int]],
        edits: Sequence[int] | None = None,
        prompts: Sequence[int] | None = None,
    ) -> None:
        """Counts prompts of an aspect: ``"efficacy"``, ``"generalization"`` or ``"specificity"``; or one of PARTS."""
        getattr(self, aspect).update(predicted, expected, edits, prompts)

    def compute(self) -> Tensor:
        """The mean in percent."""
        score = self.summary()["score"]
        return torch.tensor(torch.nan if score is None else score, device=self.device)

    def summary(self) -> dict[str, float | None]:
        """All four values in percent, ``None`` where an aspect has no prompt; and those of the parts that have some."""
        intervals = self.intervals(samples=0)
        values = {name: interval["value"] for name, interval in intervals.items()}
        aspects = {name: values.pop(name) for name in ASPECTS}
        return {**aspects, "score": self.mean(intervals), **values}

    @staticmethod
    def mean(intervals: Mapping[str, Interval]) -> float | None:
        """The Score of what :meth:`intervals` returned."""
        known = [value for name in ASPECTS if (value := intervals[name]["value"]) is not None]
        return sum(known) / len(known) if known else None

    def intervals(
        self, samples: int = 1000, confidence: float = 0.95, seed: int = 0, average: Average = "prompts"
    ) -> dict[str, Interval]:
        """The three aspects, and the parts that have prompts, with their bootstrap intervals.

        See :meth:`~aeplus.metrics.mean.PromptMean.interval`.
        """
        sampling = samples, confidence, seed, average
        found = {name: getattr(self, name).interval(*sampling) for name in (*ASPECTS, *PARTS)}
        return {name: interval for name, interval in found.items() if name in ASPECTS or interval["count"]}

    def hits(self) -> dict[str, dict[str, list[float]]]:
        """The three aspects by edit, those that have prompts; see :meth:`~aeplus.metrics.mean.PromptMean.hits`."""
        found = {name: getattr(self, name).hits() for name in ASPECTS}
        return {name: hits for name, hits in found.items() if hits["edits"]}

    def reset(self) -> None:
        """Forgets everything counted."""
        super().reset()
        for name in (*ASPECTS, *PARTS):
            getattr(self, name).reset()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws the value, or given values as a curve; returns figure and axes."""
        return self._plot(val, ax)


class AxisSuccess(Metric):
    """Share of prompts of each axis, in percent, whose every expected token is the top-1 prediction.

    Args:
        axes: The axes' names, the same on all ranks.
        part: The class of each axis, if other than strict success.

    Example:
        >>> metric = AxisSuccess(["locality", "portability/reasoning"])
        >>> metric.update("locality", [[5], [7]], [[5], [8]])
        >>> float(metric.compute()["locality"])
        50.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0

    def __init__(self, axes: Sequence[str], part: type[TopOneSuccess] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axes = list(axes)
        for number in range(len(self.axes)):
            setattr(self, f"axis_{number}", (part or TopOneSuccess)(**kwargs))

    def update(
        self,
        axis: str,
        predicted: Sequence[Sequence[int]],
        expected: Sequence[Sequence[int]],
        edits: Sequence[int] | None = None,
        prompts: Sequence[int] | None = None,
    ) -> None:
        """Counts prompts of an axis; see :meth:`~aeplus.metrics.success.TopOneSuccess.update`."""
        self._part(axis).update(predicted, expected, edits, prompts)

    def compute(self) -> dict[str, Tensor]:
        """The percentage of each axis; NaN where an axis has no prompt."""
        values = {axis: interval["value"] for axis, interval in self.intervals(samples=0).items()}
        return {a: torch.tensor(torch.nan if v is None else v, device=self.device) for a, v in values.items()}

    def intervals(
        self, samples: int = 1000, confidence: float = 0.95, seed: int = 0, average: Average = "prompts"
    ) -> dict[str, Interval]:
        """Each axis with its bootstrap interval; see :meth:`~aeplus.metrics.mean.PromptMean.interval`."""
        return {axis: self._part(axis).interval(samples, confidence, seed, average) for axis in self.axes}

    def reset(self) -> None:
        """Forgets everything counted."""
        super().reset()
        for axis in self.axes:
            self._part(axis).reset()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws each axis' value; returns figure and axes."""
        return self._plot(val, ax)

    def _part(self, axis: str) -> Any:
        return getattr(self, f"axis_{self.axes.index(axis)}")

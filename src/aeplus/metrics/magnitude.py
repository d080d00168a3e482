"""CounterFact's own protocol: which of two answers is more likely, and by how much (ROME, section 3.4).

As in ROME's code, an answer's probability is ``exp`` of the mean log-probability of its tokens, so that long answers
are at no disadvantage, and the three shares are combined by their harmonic mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from aeplus.metrics.mean import Average, Interval, PromptMean, Share
from aeplus.metrics.success import ASPECTS


def more_likely(target: Tensor, other: Tensor) -> Tensor:
    """Where the target answer is more likely than the other; a tie does not count.

    Args:
        target: Mean log-probabilities of the target answers' tokens, ``[b]``.
        other: Those of the other answers, ``[b]``.

    Returns:
        Booleans ``[b]``.

    Example:
        >>> more_likely(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -2.0])).tolist()
        [True, False]
    """
    return target > other


def probability_gap(target: Tensor, other: Tensor) -> Tensor:
    """By how much the target answer is more likely: the difference of the two probabilities, from -1 to 1.

    Args:
        target: Mean log-probabilities of the target answers' tokens, ``[b]``.
        other: Those of the other answers, ``[b]``.

    Example:
        >>> probability_gap(torch.tensor([0.5]).log(), torch.tensor([0.25]).log()).tolist()
        [0.25]
    """
    return target.exp() - other.exp()


def harmonic_mean(values: Sequence[float | None]) -> float | None:
    """The harmonic mean of values of 0 or more: 0 if one is 0, ``None`` if one is unknown.

    Example:
        >>> harmonic_mean([100.0, 50.0])
        66.66666666666667
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return 0.0 if min(known) == 0 else len(known) / sum(1 / value for value in known)


class Preference(Share):
    """Share of prompts, in percent, where the target answer is more likely than the other.

    Example:
        >>> metric = Preference()
        >>> metric.update(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0]))
        >>> float(metric.compute())
        50.0
    """

    def update(self, target: Tensor, other: Tensor, edits: Sequence[int] | None = None) -> None:
        """Counts prompts by the mean log-probabilities ``[b]`` of their two answers' tokens."""
        self.record(more_likely(target, other), edits)


class ProbabilityGap(PromptMean):
    """Mean difference between the probabilities of the target and the other answer, in percentage points.

    Example:
        >>> metric = ProbabilityGap()
        >>> metric.update(torch.tensor([0.75, 0.25]).log(), torch.tensor([0.25, 0.25]).log())
        >>> float(metric.compute())
        25.0
    """

    scale = 100.0
    plot_lower_bound = -100.0
    plot_upper_bound = 100.0

    def update(self, target: Tensor, other: Tensor, edits: Sequence[int] | None = None) -> None:
        """Counts prompts by the mean log-probabilities ``[b]`` of their two answers' tokens."""
        self.record(probability_gap(target, other), edits)


class MagnitudeScore(Metric):
    """Harmonic mean of ES, PS and NS, in percent; NaN unless there are prompts of all three.

    The target is the new answer on edit prompts (``efficacy``, ES) and rephrased ones (``generalization``, PS), and
    the true answer on neighborhood prompts (``specificity``, NS).

    Example:
        >>> metric = MagnitudeScore()
        >>> sure, unsure = torch.tensor([-1.0]), torch.tensor([-2.0])
        >>> metric.update("efficacy", sure, unsure)
        >>> metric.update("generalization", sure, unsure)
        >>> metric.update("specificity", torch.cat([sure, unsure]), torch.cat([unsure, sure]))
        >>> round(float(metric.compute()), 3)
        75.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ASPECTS:
            setattr(self, name, Preference(**kwargs))
            setattr(self, f"{name}_gap", ProbabilityGap(**kwargs))

    def update(self, aspect: str, target: Tensor, other: Tensor, edits: Sequence[int] | None = None) -> None:
        """Counts prompts of an aspect by the mean log-probabilities ``[b]`` of their two answers' tokens."""
        getattr(self, aspect).update(target, other, edits)
        getattr(self, f"{aspect}_gap").update(target, other, edits)

    def compute(self) -> Tensor:
        """The harmonic mean in percent."""
        score = self.score(self.intervals(samples=0))
        return torch.tensor(torch.nan if score is None else score, device=self.device)

    def intervals(
        self, samples: int = 1000, confidence: float = 0.95, seed: int = 0, average: Average = "prompts"
    ) -> dict[str, Interval]:
        """The three shares and the three gaps (``efficacy_gap`` and so on) with their bootstrap intervals."""
        names = [*ASPECTS, *(f"{name}_gap" for name in ASPECTS)]
        return {name: getattr(self, name).interval(samples, confidence, seed, average) for name in names}

    @staticmethod
    def score(intervals: Mapping[str, Interval]) -> float | None:
        """The harmonic mean of what :meth:`intervals` returned."""
        return harmonic_mean([intervals[name]["value"] for name in ASPECTS])

    def reset(self) -> None:
        """Forgets everything counted."""
        super().reset()
        for part in self.children():
            part.reset()  # type: ignore[operator]

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws the value, or given values as a curve; returns figure and axes."""
        return self._plot(val, ax)

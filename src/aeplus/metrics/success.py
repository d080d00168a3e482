"""Efficacy, Generalization, Specificity and Score as torchmetrics classes (strict Top-1, appendix B.2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def exact_match(predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> Tensor:
    """Which answers are right in every token.

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


class TopOneSuccess(Metric):
    """Share of prompts, in percent, whose every expected token is the top-1 prediction.

    ``update`` takes predicted and expected token ids per prompt. States are sums, so the value is the same on
    any number of ranks. Without any prompt the value is NaN.

    Example:
        >>> metric = Efficacy()
        >>> metric.update([[5, 6], [7, 8]], [[5, 6], [7, 9]])
        >>> float(metric.compute())
        50.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> None:
        """Counts some prompts: their predicted and their expected token ids."""
        match = exact_match(predicted, expected)
        self.hits += int(match.sum())
        self.total += len(match)

    def compute(self) -> Tensor:
        """The percentage so far."""
        return 100.0 * self.hits / self.total


class Efficacy(TopOneSuccess):
    """Share of edit prompts that are answered with the new target."""


class Generalization(TopOneSuccess):
    """Share of rephrased edit prompts that are answered with the new target."""


class Specificity(TopOneSuccess):
    """Share of neighbourhood prompts that keep the original answer (the unedited model's where none is known)."""


class Score(Metric):
    """Arithmetic mean of Efficacy, Generalization and Specificity (of those that have prompts).

    Holds the three as child metrics, so it follows their updates and resets with them.

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

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.efficacy = Efficacy(**kwargs)
        self.generalization = Generalization(**kwargs)
        self.specificity = Specificity(**kwargs)

    def update(self, aspect: str, predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> None:
        """Counts prompts of an aspect: ``"efficacy"``, ``"generalization"`` or ``"specificity"``."""
        getattr(self, aspect).update(predicted, expected)

    def compute(self) -> Tensor:
        """The mean in percent."""
        return torch.stack(list(self._parts().values())).nanmean()

    def summary(self) -> dict[str, float | None]:
        """All four values in percent; ``None`` where an aspect has no prompt."""
        parts = self._parts()
        values = {**parts, "score": torch.stack(list(parts.values())).nanmean()}
        return {name: None if bool(value.isnan()) else float(value) for name, value in values.items()}

    def reset(self) -> None:
        """Forgets everything counted."""
        super().reset()
        for part in (self.efficacy, self.generalization, self.specificity):
            part.reset()

    def _parts(self) -> dict[str, Tensor]:
        parts = {
            "efficacy": self.efficacy,
            "generalization": self.generalization,
            "specificity": self.specificity,
        }
        return {
            n: m.compute() if m.update_called else torch.tensor(torch.nan, device=m.device) for n, m in parts.items()
        }

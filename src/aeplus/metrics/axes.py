"""Success axis by axis: RippleEdits' six, KnowEdit's portability and locality, MQuAKE's multi-hop questions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from aeplus.metrics.mean import Interval
from aeplus.metrics.success import TopOneSuccess


class AxisSuccess(Metric):
    """Share of prompts of each axis, in percent, whose every expected token is the top-1 prediction.

    Args:
        axes: The axes' names; all ranks name the same.

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

    def __init__(self, axes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axes = list(axes)
        for number in range(len(self.axes)):
            setattr(self, f"axis_{number}", TopOneSuccess(**kwargs))

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

    def intervals(self, samples: int = 1000, confidence: float = 0.95, seed: int = 0) -> dict[str, Interval]:
        """Each axis with its bootstrap interval; see :meth:`~aeplus.metrics.mean.PromptMean.interval`."""
        return {axis: self._part(axis).interval(samples, confidence, seed) for axis in self.axes}

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

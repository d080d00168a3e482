"""Retention: whether earlier batches of edits still hold after every later one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def success_matrix(hits: Tensor, total: Tensor) -> Tensor:
    """Percentages; NaN where nothing was counted.

    Args:
        hits: How many edits hold, ``[batches, batches]``: row after which batch, column of which batch.
        total: How many should.

    Example:
        >>> success_matrix(torch.tensor([[1, 0], [1, 1]]), torch.tensor([[1, 0], [2, 1]])).tolist()
        [[100.0, nan], [50.0, 100.0]]
    """
    return 100.0 * hits / total


def retention_curve(matrix: Tensor) -> Tensor:
    """The mean of each row, ``[batches]``: how the edits so far hold, every batch weighing the same.

    Example:
        >>> retention_curve(torch.tensor([[100.0, torch.nan], [50.0, 100.0]])).tolist()
        [100.0, 75.0]
    """
    return matrix.nanmean(1)


class Retention(Metric):
    """Success on the edits of each batch after every batch, in percent: a lower-triangular matrix.

    The states are sums, so the value is the same on any number of ranks.

    Args:
        batches: How many batches the stream has.

    Example:
        >>> metric = Retention(2)
        >>> metric.update(0, [0, 0], [True, True])
        >>> metric.update(1, [0, 0, 1], [True, False, True])
        >>> metric.compute().tolist()
        [[100.0, nan], [50.0, 100.0]]
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self, batches: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.zeros(batches, batches, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(batches, batches, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, after: int, batches: Sequence[int], right: Sequence[bool]) -> None:
        """Counts edits that should hold after a batch.

        Args:
            after: The last batch in the model, from 0.
            batches: The batch of each edit, at most ``after``. An edit whose fact a batch up to ``after`` has edited
                again is not expected to hold and must not be among them.
            right: Whether the model gives each edit's answer.
        """
        columns = torch.tensor(batches, dtype=torch.long, device=self.device)
        self.hits[after].index_add_(0, columns, torch.tensor(right, dtype=torch.long, device=self.device))
        self.total[after].index_add_(0, columns, torch.ones_like(columns))

    def compute(self) -> Tensor:
        """The matrix ``[batches, batches]``: row after which batch, column of which batch; NaN where no edit counts."""
        return success_matrix(self.hits, self.total)

    def plot(self, val: Tensor | None = None, ax: Any = None) -> Any:
        """Draws the matrix as a heat map; returns figure and axes."""
        from matplotlib import pyplot

        matrix = (self.compute() if val is None else val).cpu()
        fig, ax = pyplot.subplots() if ax is None else (ax.get_figure(), ax)
        size = len(matrix)
        image = ax.imshow(
            matrix.numpy(), cmap="Greys_r", vmin=0.0, vmax=100.0, extent=(0.5, size + 0.5, size + 0.5, 0.5)
        )
        ax.set_xlabel("edits of batch")
        ax.set_ylabel("after batch")
        ax.get_figure().colorbar(image, ax=ax, label="success (%)")
        return fig, ax

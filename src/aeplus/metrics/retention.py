"""Retention: whether the edits of previous batches still hold after each batch."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def success_matrix(hits: Tensor, total: Tensor) -> Tensor:
    """Percentages; NaN where nothing was counted.

    Args:
        hits: Number of edits that hold, ``[batches, batches]``: row ``i`` measured after batch ``i``, column ``j`` on
            the edits of batch ``j``.
        total: Number of edits measured, likewise.

    Example:
        >>> success_matrix(torch.tensor([[1, 0], [1, 1]]), torch.tensor([[1, 0], [2, 1]])).tolist()
        [[100.0, nan], [50.0, 100.0]]
    """
    return 100.0 * hits / total


def retention_curve(matrix: Tensor) -> Tensor:
    """The mean of each row, ``[batches]``: success on the edits so far, each batch weighted equally.

    Example:
        >>> retention_curve(torch.tensor([[100.0, torch.nan], [50.0, 100.0]])).tolist()
        [100.0, 75.0]
    """
    return matrix.nanmean(1)


def packed_rows(counts: Tensor) -> Tensor:
    """The lower triangle of counts, up to the last row that has any, in as few bytes as hold the numbers.

    Args:
        counts: Whole numbers ``[batches, batches]``, 0 above the diagonal.

    Returns:
        The ``n (n + 1) / 2`` numbers of the first ``n`` rows, row after row.

    Example:
        >>> packed_rows(torch.tensor([[1, 0, 0], [2, 3, 0], [0, 0, 0]])).tolist()
        [1, 2, 3]
    """
    rows = int(counts.any(1).nonzero().max()) + 1 if counts.any() else 0
    lower = counts[:rows, :rows][_lower(rows)]
    kinds = (torch.uint8, torch.int16, torch.int32, torch.int64)
    return lower.to(next(kind for kind in kinds if not rows or int(lower.max()) <= torch.iinfo(kind).max))


def unpacked_rows(packed: Tensor) -> Tensor:
    """The rows that :func:`packed_rows` packed, ``[n, n]``.

    Example:
        >>> unpacked_rows(torch.tensor([1, 2, 3], dtype=torch.uint8)).tolist()
        [[1, 0], [2, 3]]
    """
    rows = (math.isqrt(8 * len(packed) + 1) - 1) // 2
    counts = torch.zeros(rows, rows, dtype=torch.long)
    counts[_lower(rows)] = packed.long()
    return counts


def _lower(rows: int) -> Tensor:
    return torch.ones(rows, rows, dtype=torch.bool).tril()


class Retention(Metric):
    """Success on the edits of each batch after every batch, in percent: a lower-triangular matrix.

    The states are sums, so the value is the same on any number of ranks.

    Args:
        batches: Number of batches in the stream.

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

    def update(self, after: int, batches: Sequence[int], correct: Sequence[bool]) -> None:
        """Counts edits that should hold after a batch.

        Args:
            after: The last batch in the model, from 0.
            batches: The batch of each edit, at most ``after``. Edits superseded by a batch up to ``after`` must not be
                among them.
            correct: Whether the model gives each edit's answer.
        """
        columns = torch.tensor(batches, dtype=torch.long, device=self.device)
        self.hits[after].index_add_(0, columns, torch.tensor(correct, dtype=torch.long, device=self.device))
        self.total[after].index_add_(0, columns, torch.ones_like(columns))

    def compute(self) -> Tensor:
        """The matrix ``[batches, batches]``, as in :func:`success_matrix`; NaN where no edit counts."""
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

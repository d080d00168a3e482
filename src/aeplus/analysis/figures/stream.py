"""How conflict and inconsistency change along a stream of batches."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aeplus.analysis.figures.conflict import QUANTITIES
from aeplus.analysis.figures.style import finish, new_figure, nothing, series


def conflict_along_stream(
    batches: Sequence[int], values: Mapping[str, Sequence[float | None]], smoothed: Sequence[bool | None]
) -> Figure:
    """A dot per edit over its batch, with each batch's mean; edits that are smoothed are marked at ‖r‖.

    Args:
        batches: The batch of each edit, from 1.
        values: The quantities of :data:`~aeplus.analysis.figures.conflict.QUANTITIES` of each edit.
        smoothed: Which edits are smoothed.
    """
    figure = new_figure(11, 3.4)
    for axes, (name, label) in zip(figure.subplots(1, 3), QUANTITIES.items(), strict=True):
        finish(axes, "batch", label.partition(":")[0])  # no room for what it is
        places = np.array(batches)
        heights = np.array([np.nan if value is None else value for value in values.get(name, ())], dtype=float)
        there = np.isfinite(heights)
        if not there.any():
            nothing(axes)
            continue
        marked = there & np.array([bool(s) and name == "residual" for s in smoothed])
        plain = there & ~marked
        axes.scatter(places[plain], heights[plain], s=14, color="0.6", linewidths=0, label="edit")
        if marked.any():
            look = series(3)
            axes.scatter(
                places[marked], heights[marked], s=26, marker=look.marker, facecolors="none", edgecolors=look.color,
                label="smoothed edit",
            )  # fmt: skip
        numbers = np.unique(places[there])
        means = [heights[there & (places == number)].mean() for number in numbers]
        axes.plot(numbers, means, color=series(0).color, marker="_", lw=1.4, label="mean of the batch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.4, int(places.max()) + 0.6)
        axes.legend(
            fontsize="small", frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0, ncols=3,
            columnspacing=1.0, handletextpad=0.4,
        )  # fmt: skip
    return figure

"""How conflicting edits are: s(k, K0), s(k, Kp) and ‖r‖, as distributions (Fig. 3 of AlphaEdit+) and along a stream."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aeplus.figures.style import finish, known, new_figure, nothing, series

AXIS_LABELS = {
    "s_K0": "s(k, K0): largest |cosine| with preserved keys",
    "s_Kp": "s(k, Kp): largest |cosine| with previous edits' keys",
    "residual": "‖r‖: norm of the residual",
}
"""The quantities by their names in ``edits.jsonl``, with their axis labels."""
_BINS = 25


def conflict_distributions(data: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Figure:
    """Histograms of the three quantities, one line per data set, with its mean.

    Args:
        data: For each data set, by its name, the quantities of :data:`AXIS_LABELS` of its edits; missing
            values and ``None`` are left out.
    """
    figure = new_figure(11, 3.4)
    for axes, (name, label) in zip(figure.subplots(1, 3), AXIS_LABELS.items(), strict=True):
        _histograms(axes, {title: known(values.get(name, ())) for title, values in data.items()}, label)
    return figure


def _histograms(axes: Axes, data: Mapping[str, np.ndarray], label: str) -> None:
    finish(axes, label, "share of edits [%]")
    everything = np.concatenate([*data.values(), np.zeros(0)])
    if not len(everything):
        nothing(axes)
        return
    low, high = float(everything.min()), float(everything.max())
    margin = 0.5 if high == low else 0.0
    edges = np.linspace(low - margin, high + margin, _BINS + 1).tolist()
    for index, (title, values) in enumerate(data.items()):
        if not len(values):
            continue
        look, shares, mean = series(index), np.full(len(values), 100 / len(values)), float(values.mean())
        if len(data) == 1:
            axes.hist(values, edges, weights=shares, color="0.88")
        axes.hist(values, edges, weights=shares, histtype="step", color=look.color, linestyle=look.line, lw=1.6)
        label = f"{title} (n = {len(values)}, mean {mean:.3g})"
        axes.plot(
            [mean, mean],
            [0, 1],
            transform=axes.get_xaxis_transform(),
            color=look.color,
            linestyle=look.line,
            lw=0.9,
            label=label,
        )
    axes.legend(fontsize="small", frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0)


def conflict_along_stream(
    batches: Sequence[int], values: Mapping[str, Sequence[float | None]], smoothed: Sequence[bool | None]
) -> Figure:
    """A dot per edit over its batch, with each batch's mean; smoothed edits are marked at ‖r‖.

    Args:
        batches: The batch of each edit, from 1.
        values: The quantities of :data:`AXIS_LABELS` of each edit.
        smoothed: Which edits are smoothed.
    """
    figure = new_figure(11, 3.4)
    for axes, (name, label) in zip(figure.subplots(1, 3), AXIS_LABELS.items(), strict=True):
        finish(axes, "batch", label.partition(":")[0])  # no room for the description
        positions = np.array(batches)
        heights = np.array([np.nan if value is None else value for value in values.get(name, ())], dtype=float)
        finite = np.isfinite(heights)
        if not finite.any():
            nothing(axes)
            continue
        marked = finite & np.array([bool(s) and name == "residual" for s in smoothed])
        plain = finite & ~marked
        axes.scatter(positions[plain], heights[plain], s=14, color="0.6", linewidths=0, label="edit")
        if marked.any():
            look = series(3)
            axes.scatter(
                positions[marked], heights[marked], s=26, marker=look.marker, facecolors="none", edgecolors=look.color,
                label="smoothed edit",
            )  # fmt: skip
        numbers = np.unique(positions[finite])
        means = [heights[finite & (positions == number)].mean() for number in numbers]
        axes.plot(numbers, means, color=series(0).color, marker="_", lw=1.4, label="mean of the batch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.4, int(positions.max()) + 0.6)
        axes.legend(
            fontsize="small", frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0, ncols=3,
            columnspacing=1.0, handletextpad=0.4,
        )  # fmt: skip
    return figure

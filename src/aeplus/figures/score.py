"""Success of edits against how conflicting they are (Fig. 1 of AlphaEdit+)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aeplus.figures.conflict import AXIS_LABELS
from aeplus.figures.style import finish, new_figure, nothing, series
from aeplus.metrics.mean import bootstrap


@dataclass(frozen=True)
class Bin:
    """Edits of similar conflict.

    Attributes:
        low: The smallest conflict among them.
        high: The largest.
        conflict: The mean.
        score: Mean success, in percent.
        interval: Ends of its 95 % bootstrap interval over the edits.
        count: Number of edits.
    """

    low: float
    high: float
    conflict: float
    score: float
    interval: tuple[float, float]
    count: int


def conflict_bins(
    conflicts: Sequence[float | None], scores: Sequence[float | None], bins: int = 5, seed: int = 0
) -> list[Bin]:
    """Bins edits by conflict, about equally many in each; edits of equal conflict share a bin.

    Args:
        conflicts: Conflict of each edit.
        scores: Its success, in percent; edits that lack either are left out.
        bins: Maximum number of bins.
        seed: Seed of the bootstrap.
    """
    pairs = [(c, s) for c, s in zip(conflicts, scores, strict=True) if c is not None and s is not None]
    if not pairs:
        return []
    conflict, score = np.array(pairs, dtype=float).T
    edges = np.unique(np.quantile(conflict, np.linspace(0, 1, bins + 1)))
    bin_of = np.clip(np.searchsorted(edges, conflict, side="right") - 1, 0, max(len(edges) - 2, 0))
    result = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        values, where = score[inside], conflict[inside]
        interval = bootstrap(torch.from_numpy(values), torch.arange(len(values)), seed=seed)
        low, high, mean = float(where.min()), float(where.max()), float(where.mean())
        result.append(Bin(low, high, mean, float(values.mean()), interval, len(values)))
    return result


def score_by_conflict(
    data: Mapping[str, Mapping[str, Sequence[float | None]]], bins: int = 5, score: str = "score"
) -> Figure:
    """Success against each of the three quantities, in bins of about equally many edits.

    Bars are 95 % bootstrap intervals over the edits; thin lines show the range of each bin.

    Args:
        data: For each run, by its name, the quantities of its edits and their success under the name ``score``.
        bins: Maximum number of bins.
        score: The name of the success, in percent.
    """
    figure = new_figure(11, 3.8)
    panels = figure.subplots(1, 3, sharey=True)
    for index, (axes, (name, label)) in enumerate(zip(panels, AXIS_LABELS.items(), strict=True)):
        finish(axes, label, f"{score} of the edits [%]" if not index else "")
        runs = {
            title: conflict_bins(values[name], values[score], bins)
            for title, values in data.items()
            if name in values and score in values
        }
        _lines(axes, {title: parts for title, parts in runs.items() if parts})
    panels[0].set_ylim(-4, 116)
    panels[0].set_yticks(range(0, 101, 20))
    drawn = [axes for axes in panels if axes.has_data()]
    if drawn:
        handles, titles = drawn[0].get_legend_handles_labels()
        figure.legend(handles, titles, fontsize="small", frameon=False, loc="outside upper center", ncols=6)
    return figure


def _lines(axes: Axes, runs: Mapping[str, Sequence[Bin]]) -> None:
    if not runs:
        nothing(axes)
        return
    every = [b for parts in runs.values() for b in parts]
    gap = 0.012 * (max(b.high for b in every) - min(b.low for b in every))  # so that intervals do not overlap
    same = len({tuple(b.count for b in parts) for parts in runs.values()}) == 1
    crowded = not same and len(runs) > 2  # too many numbers to be told apart
    for index, (title, parts) in enumerate(runs.items()):
        look, shift = series(index), (index - (len(runs) - 1) / 2) * gap
        x, y = np.array([b.conflict for b in parts]) + shift, np.array([b.score for b in parts])
        bars = np.abs(np.array([b.interval for b in parts]).T - y)
        axes.errorbar(
            x, y, bars, label=title, color=look.color, linestyle=look.line, marker=look.marker, capsize=3, lw=1.4, ms=5
        )
        axes.hlines(y, [b.low for b in parts], [b.high for b in parts], color=look.color, lw=0.7, alpha=0.6)
        if index and (same or crowded):
            continue
        if crowded:
            counts = [b.count for b in every]
            text = f"{min(counts)} to {max(counts)} edits in a point"
            axes.annotate(
                text, (0.5, 0.97), xycoords="axes fraction", ha="center", va="top", fontsize="x-small", color="0.3"
            )
            continue
        for number, b in enumerate(parts):  # alternating heights, as adjacent bins can be close
            position = (b.conflict, 104 + 5 * (number % 2) if same else 110 - 5 * index)
            color = "0.3" if same else look.color
            axes.annotate(f"n={b.count}", position, ha="center", va="bottom", fontsize="x-small", color=color)

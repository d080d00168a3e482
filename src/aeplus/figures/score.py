"""How well edits succeed, against how conflicting they are (Fig. 1 of the paper)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aeplus.figures.conflict import QUANTITIES
from aeplus.figures.style import finish, new_figure, nothing, series
from aeplus.metrics.mean import bootstrap


@dataclass(frozen=True)
class Bin:
    """Edits of about the same conflict.

    Attributes:
        low: The smallest conflict among them.
        high: The largest.
        conflict: The mean.
        score: Mean success, in percent.
        interval: Ends of its 95 % bootstrap interval over the edits.
        count: How many edits.
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
    """Edits in bins of about equally many, by conflict; edits of equal conflict are never parted.

    Args:
        conflicts: Conflict of each edit.
        scores: Its success, in percent; edits that lack either are left out.
        bins: How many bins at most.
        seed: Seed of the bootstrap.
    """
    pairs = [(c, s) for c, s in zip(conflicts, scores, strict=True) if c is not None and s is not None]
    if not pairs:
        return []
    conflict, score = np.array(pairs, dtype=float).T
    edges = np.unique(np.quantile(conflict, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, conflict, side="right") - 1, 0, max(len(edges) - 2, 0))
    found = []
    for number in np.unique(place):
        inside = place == number
        values, where = score[inside], conflict[inside]
        interval = bootstrap(torch.from_numpy(values), torch.arange(len(values)), seed=seed)
        low, high, mean = float(where.min()), float(where.max()), float(where.mean())
        found.append(Bin(low, high, mean, float(values.mean()), interval, len(values)))
    return found


def score_by_conflict(
    data: Mapping[str, Mapping[str, Sequence[float | None]]], bins: int = 5, score: str = "score"
) -> Figure:
    """Success against each of the three quantities, in bins of about equally many edits.

    Bars are 95 % bootstrap intervals over the edits, thin lines tell from where to where a bin reaches.

    Args:
        data: For each run, by its name, the quantities of its edits and their success under the name ``score``.
        bins: How many bins at most.
        score: Under which name the success stands, in percent.
    """
    figure = new_figure(11, 3.8)
    panels = figure.subplots(1, 3, sharey=True)
    for index, (axes, (name, label)) in enumerate(zip(panels, QUANTITIES.items(), strict=True)):
        finish(axes, label, f"{score} of the edits [%]" if not index else "")
        runs = {
            title: conflict_bins(values[name], values[score], bins)
            for title, values in data.items()
            if name in values and score in values
        }
        _lines(axes, {title: found for title, found in runs.items() if found})
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
    every = [b for found in runs.values() for b in found]
    apart = 0.012 * (max(b.high for b in every) - min(b.low for b in every))  # so that intervals stand side by side
    same = len({tuple(b.count for b in found) for found in runs.values()}) == 1
    for index, (title, found) in enumerate(runs.items()):
        look, shift = series(index), (index - (len(runs) - 1) / 2) * apart
        x, y = np.array([b.conflict for b in found]) + shift, np.array([b.score for b in found])
        away = np.abs(np.array([b.interval for b in found]).T - y)
        axes.errorbar(
            x, y, away, label=title, color=look.color, linestyle=look.line, marker=look.marker, capsize=3, lw=1.4, ms=5
        )
        axes.hlines(y, [b.low for b in found], [b.high for b in found], color=look.color, lw=0.7, alpha=0.6)
        if same and index:
            continue
        for number, b in enumerate(found):  # one above the other, as neighbours can be close
            place = (b.conflict, 104 + 5 * (number % 2) if same else 110 - 5 * index)
            color = "0.3" if same else look.color
            axes.annotate(f"n={b.count}", place, ha="center", va="bottom", fontsize="x-small", color=color)

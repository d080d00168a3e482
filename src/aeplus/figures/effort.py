"""Wall-clock time by part: targets, search and solve, validation."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aeplus.figures.style import finish, new_figure, nothing, series

PARTS = {"targets": "targets v*", "solve": "search and solve", "validate": "validation", "rest": "the rest"}
"""The parts of a batch, by their names in ``metrics.json``, with their legend labels."""
Seconds = Mapping[str, float]


def effort_by_batch(batches: Sequence[Seconds], committed: Sequence[str] | None = None) -> Figure:
    """Stacked bars, one per batch of a run.

    Args:
        batches: ``seconds`` of each batch, as ``metrics.json`` has them.
        committed: What to write above each bar: the smoothing iteration that was committed, of how many; empty for a
            batch that was not smoothed.
    """
    figure = new_figure(max(5.0, min(12.0, 2.5 + 0.35 * len(batches))), 3.4)
    axes = figure.subplots()
    finish(axes, "batch", "wall-clock time [s]")
    if not batches:
        nothing(axes)
        return figure
    positions = np.arange(1, len(batches) + 1)
    _stack(axes, positions, np.array([_parts(seconds) for seconds in batches]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.4, len(batches) + 0.6)
    for position, seconds, text in zip(positions, batches, committed or (), strict=False):
        place = (float(position), sum(_parts(seconds)))
        axes.annotate(text, place, ha="center", va="bottom", fontsize="x-small", color="0.2")
    return figure


def effort_by_run(runs: Mapping[str, Sequence[Seconds]]) -> Figure:
    """Stacked bars, one per run: its mean time per batch.

    Args:
        runs: For each run, by its name, ``seconds`` of each batch; runs without a batch are left out.
    """
    means = {name: np.array([_parts(s) for s in batches]).mean(0) for name, batches in runs.items() if batches}
    longest = max((len(name) for name in means), default=0)
    figure = new_figure(max(5.0, min(12.0, 2.5 + 1.1 * len(means))), 3.6 + 0.04 * longest)
    axes = figure.subplots()
    finish(axes, "", "wall-clock time per batch [s]")
    if not means:
        nothing(axes)
        return figure
    positions, heights = np.arange(len(means)), np.array(list(means.values()))
    _stack(axes, positions, heights)
    for position, total in zip(positions, heights.sum(1), strict=True):
        axes.annotate(f"{total:.3g} s", (position, total), ha="center", va="bottom", fontsize="small")
    crowded = longest * len(means) > 60
    axes.set_xticks(positions, list(means), rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-0.6, len(means) - 0.4)
    return figure


def _parts(seconds: Seconds) -> list[float]:
    """The parts in the order of :data:`PARTS`; the rest is the total minus the others."""
    named = [seconds.get(name, 0.0) for name in PARTS if name != "rest"]
    return [*named, max(0.0, seconds.get("total", 0.0) - sum(named))]


def _stack(axes: Axes, positions: np.ndarray, heights: np.ndarray) -> None:
    floor = np.zeros(len(positions))
    for index, label in enumerate(PARTS.values()):
        look = series(index)
        axes.bar(
            positions,
            heights[:, index],
            0.7,
            floor,
            label=label,
            facecolor=look.color,
            hatch=look.hatch,
            edgecolor="white",
        )
        floor += heights[:, index]
    axes.bar(positions, floor, 0.7, facecolor="none", edgecolor="0.2", lw=0.6)
    axes.set_ylim(0, float(floor.max()) * 1.3 or 1.0)
    axes.legend(fontsize="small", frameon=False, ncols=2, loc="upper left")

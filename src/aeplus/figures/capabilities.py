"""What later edits do: general capabilities (Fig. 4 of AlphaEdit+), and retention of previous batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aeplus.figures.style import finish, new_figure, nothing, series

_NAMES = {"f1": "weighted F1", "accuracy": "accuracy", "mcc": "Matthews correlation × 100"}
_MAX_NUMBERED = 14  # with more batches than this, the numbers would not fit their cells


def capability_bars(results: Sequence[Mapping[str, Any]], metric: str = "f1") -> Figure:
    """Bars of each task, one per time it was measured.

    Args:
        results: ``{"step": batches committed, "tasks": {name: {"f1": …, "accuracy": …}}}`` for each time, in order, as
            ``capabilities.json`` has them under ``results``; values in percent, ``step`` ``None`` for a model on its
            own. A task without the metric has no bar. ``label``, where a result has one, is what the legend calls it.
        metric: The value to draw.
    """
    tasks = list(dict.fromkeys(name for result in results for name in result["tasks"]))
    figure = new_figure(max(5.0, min(13.0, 1.5 + (0.5 + 0.25 * len(results)) * len(tasks))), 3.6)
    axes = figure.subplots()
    finish(axes, "", f"{_NAMES.get(metric, metric)} [%]")
    if not tasks:
        nothing(axes)
        return figure
    positions, width = np.arange(len(tasks)), 0.84 / len(results)
    for index, result in enumerate(results):
        look, offset = series(index), (index - (len(results) - 1) / 2) * width
        values = [result["tasks"].get(name, {}).get(metric) for name in tasks]
        heights = np.array([np.nan if value is None else value for value in values], dtype=float)
        axes.bar(
            *(positions + offset, heights, width * 0.94),
            label=result.get("label") or _label(result["step"]),
            facecolor=look.color, hatch=look.hatch, edgecolor="white", lw=0.5,
        )  # fmt: skip
    axes.set_xticks(positions, tasks)
    axes.set_xlim(-0.6, len(tasks) - 0.4)
    axes.set_ylim(0, 100)
    figure.legend(fontsize="small", frameon=False, loc="outside upper center", ncols=min(len(results), 5))
    return figure


def _label(step: int | None) -> str:
    if not step:
        return "the model" if step is None else "before editing"
    return f"after {step} batch{'es' if step > 1 else ''}"


def retention_heat_map(matrix: Sequence[Sequence[float | None]], measure: str = "efficacy") -> Figure:
    """Success on each batch after each later one, as a heat map: dark cells are forgotten edits.

    Args:
        matrix: Row ``i``: measured after batch ``i + 1``; column ``j``: on the edits of batch ``j + 1``, in percent;
            ``None`` (or a shorter row) where nothing was measured. There may be fewer rows than columns.
        measure: The measure that was computed.
    """
    rows, columns = len(matrix), max((len(row) for row in matrix), default=0)
    figure = new_figure(max(4.2, min(10.0, 2.2 + 0.45 * columns)), max(3.2, min(9.0, 1.6 + 0.42 * rows)))
    axes = figure.subplots()
    finish(axes, "edits of batch", "after batch")
    axes.grid(visible=False)
    if not rows or not columns:
        nothing(axes)
        return figure
    cells = np.full((rows, columns), np.nan)
    for i, row in enumerate(matrix):
        cells[i, : len(row)] = [np.nan if value is None else value for value in row]
    edges = (0.5, columns + 0.5, rows + 0.5, 0.5)
    image = axes.imshow(np.ma.masked_invalid(cells), cmap="gray", vmin=0, vmax=100, aspect="auto", extent=edges)
    for axis, count in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(range(1, count + 1, 1 + count // 20))
    if max(rows, columns) <= _MAX_NUMBERED:
        for (i, j), value in np.ndenumerate(cells):
            if np.isfinite(value):
                color = "black" if value > 50 else "white"
                axes.text(j + 1, i + 1, f"{value:.0f}", ha="center", va="center", fontsize="small", color=color)
    axes.set_facecolor("#f3ead7")  # never measured: a tint that is not on the gray scale
    figure.colorbar(image, ax=axes, label=f"{measure} [%]")
    return figure

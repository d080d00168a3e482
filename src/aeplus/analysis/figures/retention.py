"""What is left of earlier batches after later ones."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from aeplus.analysis.figures.style import finish, new_figure, nothing

_WRITTEN = 14  # with more batches than this, the numbers would not fit their cells


def retention_heat_map(matrix: Sequence[Sequence[float | None]], measure: str = "efficacy") -> Figure:
    """Success on each batch after each later one, as a heat map: dark is forgotten.

    Args:
        matrix: Row ``i``: measured after batch ``i + 1``; column ``j``: on the edits of batch ``j + 1``, in percent;
            ``None`` (or a missing end of the row) where nothing was measured. Rows may be fewer than columns.
        measure: What was measured.
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
    if max(rows, columns) <= _WRITTEN:
        for (i, j), value in np.ndenumerate(cells):
            if np.isfinite(value):
                color = "black" if value > 50 else "white"
                axes.text(j + 1, i + 1, f"{value:.0f}", ha="center", va="center", fontsize="small", color=color)
    axes.set_facecolor("#f3ead7")  # never measured: a tint that no grey of the scale has
    figure.colorbar(image, ax=axes, label=f"{measure} [%]")
    return figure

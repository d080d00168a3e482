"""What the figures share: series that differ in grey too, and axes and files that look alike.

Figures are made by matplotlib's objects, not by ``pyplot``: no display is needed and nothing global changes.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from aeplus.utils.paths import whole_file

DPI = 150


class Series(NamedTuple):
    """How a series is drawn: a colour of its own lightness, and a line, a marker and a hatch of its own."""

    color: str
    line: Any
    marker: str
    hatch: str


_SERIES = (
    Series("#1b4f72", "-", "o", ""),
    Series("#e08214", "--", "s", "///"),
    Series("#7fb0d6", "-.", "^", "..."),
    Series("#8c2d04", ":", "D", "xxx"),
    Series("#969696", (0, (5, 1, 1, 1, 1, 1)), "v", "\\\\\\"),
    Series("#40004b", (0, (1, 1)), "P", "++"),
)


def series(index: int) -> Series:
    """The look of a series by its place, from 0; the looks repeat."""
    return _SERIES[index % len(_SERIES)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose parts make room for each other."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def finish(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Names the axes, and takes away what only frames them."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9", linewidth=0.6)


def nothing(axes: Axes, text: str = "no data") -> None:
    """Says inside the axes that there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")
    axes.set_xticks([])
    if not axes.get_shared_y_axes().get_siblings(axes)[1:]:
        axes.set_yticks([])


def known(values: Iterable[float | None]) -> np.ndarray:
    """The values that are there and finite, as an array."""
    numbers = np.array([value for value in values if value is not None], dtype=float)
    return numbers[np.isfinite(numbers)]


def png(figure: Figure) -> bytes:
    """The figure as a PNG; drawn anew from the same data it has the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> np.ndarray:
    """Writes the figure as a PNG: all of it, or nothing.

    Returns:
        The picture, ``[height, width, 3]``, from 0 to 1.

    Raises:
        InputError: If it cannot be written.
    """
    content = png(figure)
    with whole_file(path) as scratch:
        scratch.write_bytes(content)
    return imread(io.BytesIO(content))[..., :3]

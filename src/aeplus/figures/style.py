"""What figures share: series that differ in grayscale too, and the same look of axes and files.

Figures use matplotlib's objects, not ``pyplot``: no display is needed and no global state changes.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from aeplus.utils.paths import whole_file

DPI = 150


class Series(NamedTuple):
    """The style of a series: a color of distinct lightness, and a distinct line, marker and hatch."""

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
    """The style of a series by its index; styles repeat."""
    return _SERIES[index % len(_SERIES)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with a constrained layout."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def finish(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Labels the axes and removes the frame."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9", linewidth=0.6)


def nothing(axes: Axes, text: str = "no data") -> None:
    """Writes into the axes that there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")
    axes.set_xticks([])
    if not axes.get_shared_y_axes().get_siblings(axes)[1:]:
        axes.set_yticks([])


def known(values: Iterable[float | None]) -> np.ndarray:
    """The values that are neither ``None`` nor non-finite, as an array."""
    numbers = np.array([value for value in values if value is not None], dtype=float)
    return numbers[np.isfinite(numbers)]


def png(figure: Figure) -> bytes:
    """The figure as a PNG; the same data give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> np.ndarray:
    """Writes the figure as a PNG: all of it, or nothing.

    Returns:
        The image, ``[height, width, 3]``, from 0 to 1.

    Raises:
        InputError: If it cannot be written.
    """
    content = png(figure)
    with whole_file(path) as scratch:
        scratch.write_bytes(content)
    return imread(io.BytesIO(content))[..., :3]


def svg(figure: Figure) -> bytes:
    """The figure as an SVG whose texts are texts; the same data give the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "aeplus"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_svg(figure: Figure, path: Path) -> None:
    """Writes the figure as an SVG: all of it, or nothing.

    Raises:
        InputError: If it cannot be written.
    """
    content = svg(figure)
    with whole_file(path) as scratch:
        scratch.write_bytes(content)

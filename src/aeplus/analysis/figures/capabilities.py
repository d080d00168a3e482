"""General capabilities while the stream goes on (Fig. 4 of the paper)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aeplus.analysis.figures.style import finish, new_figure, nothing, series


def capability_bars(results: Sequence[Mapping[str, Any]], metric: str = "f1") -> Figure:
    """Bars of each task, one per time it was measured.

    Args:
        results: ``{"step": batches committed, "tasks": {name: {"f1": …, "accuracy": …}}}`` for each time, in order, as
            ``capabilities.json`` has them under ``results``; values in percent, ``step`` ``None`` for a model on its
            own. A task without the metric has no bar.
        metric: Which value to draw.
    """
    tasks = list(dict.fromkeys(name for result in results for name in result["tasks"]))
    figure = new_figure(max(5.0, min(13.0, 1.5 + (0.5 + 0.25 * len(results)) * len(tasks))), 3.6)
    axes = figure.subplots()
    finish(axes, "", f"{_NAMES.get(metric, metric)} [%]")
    if not tasks:
        nothing(axes)
        return figure
    places, width = np.arange(len(tasks)), 0.84 / len(results)
    for index, result in enumerate(results):
        look, offset = series(index), (index - (len(results) - 1) / 2) * width
        values = [result["tasks"].get(name, {}).get(metric) for name in tasks]
        heights = np.array([np.nan if value is None else value for value in values], dtype=float)
        axes.bar(
            *(places + offset, heights, width * 0.94),
            label=_when(result["step"]),
            facecolor=look.color, hatch=look.hatch, edgecolor="white", lw=0.5,
        )  # fmt: skip
    axes.set_xticks(places, tasks)
    axes.set_xlim(-0.6, len(tasks) - 0.4)
    axes.set_ylim(0, 100)
    figure.legend(fontsize="small", frameon=False, loc="outside upper center", ncols=min(len(results), 5))
    return figure


def _when(step: int | None) -> str:
    if not step:
        return "the model" if step is None else "before editing"
    return f"after {step} batch{'es' if step > 1 else ''}"


_NAMES = {"f1": "weighted F1", "accuracy": "accuracy", "mcc": "Matthews correlation × 100"}

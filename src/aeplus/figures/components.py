"""What the components of AlphaEdit+ do per data set: σ_max of P̃, ‖Λp‖_F, smoothing iterations (its Fig. 6)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aeplus.figures.style import finish, known, new_figure, nothing, series

QUANTITIES = {
    "sigma_max": "σ_max: largest eigenvalue in P̃",
    "prior_weight_norm": "‖Λp‖_F",
    "smoothing_iterations": "smoothing iterations",
}
"""The quantities by their names in a batch's entry of ``metrics.json``, with their axis labels."""


def components(data: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Bars of each data set's mean over its batches, with a dot per batch.

    Args:
        data: For each data set, by its name, the batches' entries of ``metrics.json``; an entry that lacks a quantity
            is left out of it.
    """
    longest = max((len(name) for name in data), default=0)
    figure = new_figure(11, 3.4 + 0.04 * longest)
    for axes, (name, label) in zip(figure.subplots(1, 3), QUANTITIES.items(), strict=True):
        finish(axes, "", label)
        values = {title: known(batch.get(name) for batch in batches) for title, batches in data.items()}
        if not any(len(numbers) for numbers in values.values()):
            nothing(axes)
            continue
        for position, numbers in enumerate(values.values()):
            look = series(position)
            if not len(numbers):
                continue
            axes.bar(position, float(numbers.mean()), 0.7, facecolor=look.color, hatch=look.hatch, edgecolor="white")
            spread = np.linspace(-0.2, 0.2, len(numbers)) if len(numbers) > 1 else np.zeros(1)
            axes.scatter(
                position + spread, numbers, s=12, facecolors="white", edgecolors="0.2", linewidths=0.7, zorder=3
            )
        crowded = longest * len(values) > 24
        axes.set_xticks(
            range(len(values)), list(values), rotation=30 if crowded else 0, ha="right" if crowded else "center"
        )
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set_ylim(0, None)
    return figure

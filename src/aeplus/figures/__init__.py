"""Figures: each a pure function from plain data to a matplotlib ``Figure``, readable in grayscale."""

from aeplus.figures.capabilities import capability_bars, retention_heat_map
from aeplus.figures.conflict import conflict_along_stream, conflict_distributions
from aeplus.figures.effort import effort_by_batch, effort_by_run
from aeplus.figures.hidden import Projection, hidden_states, project
from aeplus.figures.score import Bin, conflict_bins, score_by_conflict
from aeplus.figures.spectrum import spectrum
from aeplus.figures.style import png, save_figure

__all__ = [
    "Bin",
    "Projection",
    "capability_bars",
    "conflict_along_stream",
    "conflict_bins",
    "conflict_distributions",
    "effort_by_batch",
    "effort_by_run",
    "hidden_states",
    "png",
    "project",
    "retention_heat_map",
    "save_figure",
    "score_by_conflict",
    "spectrum",
]

"""Figures: each a pure function from plain data to a matplotlib ``Figure``, readable in grey."""

from aeplus.analysis.figures.capabilities import capability_bars
from aeplus.analysis.figures.conflict import conflict_distributions
from aeplus.analysis.figures.effort import effort_by_batch, effort_by_run
from aeplus.analysis.figures.hidden import Projection, hidden_states, project
from aeplus.analysis.figures.retention import retention_heat_map
from aeplus.analysis.figures.score import Bin, conflict_bins, score_by_conflict
from aeplus.analysis.figures.spectrum import spectrum
from aeplus.analysis.figures.stream import conflict_along_stream
from aeplus.analysis.figures.style import png, save_figure

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

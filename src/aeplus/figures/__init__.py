"""Figures: each a pure function from plain data to a matplotlib ``Figure``, readable in grayscale."""

from aeplus.figures.capabilities import capability_bars, retention_heat_map
from aeplus.figures.components import components
from aeplus.figures.conflict import conflict_along_stream, conflict_distributions
from aeplus.figures.effort import effort_by_batch, effort_by_run
from aeplus.figures.hidden import Projection, hidden_overlay, hidden_states, project, project_several
from aeplus.figures.score import Bin, conflict_bins, score_by_conflict
from aeplus.figures.spectrum import spectrum
from aeplus.figures.style import png, save_figure, save_svg

__all__ = [
    "Bin",
    "Projection",
    "capability_bars",
    "components",
    "conflict_along_stream",
    "conflict_bins",
    "conflict_distributions",
    "effort_by_batch",
    "effort_by_run",
    "hidden_overlay",
    "hidden_states",
    "png",
    "project",
    "project_several",
    "retention_heat_map",
    "save_figure",
    "save_svg",
    "score_by_conflict",
    "spectrum",
]

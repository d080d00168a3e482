"""How much a run's edits change the outputs on preserved knowledge."""

from collections.abc import Sequence

from aeplus.models.decoder import EditSite
from aeplus.preserved.statistics import LayerStatistics, energy_of
from aeplus.run.committed.entries import Entries


class LeakageMeter:
    """Measures ``tr(Δ C Δᵀ) / tr(W C Wᵀ)``, ``Δ`` the sum of all updates of a layer, ``W`` its unedited weight.

    Args:
        sites: The edited layers, unedited still.
        statistics: Preserved knowledge of each.
    """

    def __init__(self, sites: Sequence[EditSite], statistics: Sequence[LayerStatistics]) -> None:
        self._layers = [(s, stats, energy_of(stats, s.weight)) for s, stats in zip(sites, statistics, strict=True)]

    def measure(self, entries: Entries) -> float | None:
        """The mean over the layers; ``None`` if nothing was edited."""
        shares = []
        for site, statistics, energy in self._layers:
            if (total := entries.total(site)) is not None:
                shares.append(energy_of(statistics, total) / energy)
        return sum(shares) / len(shares) if shares else None

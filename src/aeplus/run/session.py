"""The run as a plain object."""

from collections.abc import Sequence
from typing import Any

import torch

from aeplus.errors import InputError
from aeplus.models.decoder import EditSite
from aeplus.preserved.statistics import LayerStatistics, preserved_energy
from aeplus.run.journal import Journal


def check_trainer(trainer: Any) -> None:
    """One device, and no autocast that would round an update.

    Raises:
        InputError: If the trainer has several devices or another precision.
    """
    if trainer.world_size > 1:
        msg = f"aeplus edits on one device, but the trainer has {trainer.world_size}; set trainer.devices: 1."
        raise InputError(msg)
    if trainer.precision != "32-true":
        msg = (
            f"expected trainer.precision 32-true, but {trainer.precision} came; choose the weights' dtype by "
            "model.dtype instead."
        )
        raise InputError(msg)


def check_weights(sites: Sequence[EditSite]) -> None:
    """The weights to be edited are finite.

    Raises:
        InputError: If one is not; the message names it.
    """
    for site in sites:
        if not bool(torch.isfinite(site.weight).all()):
            msg = f"expected finite weights, but {site.name} holds NaN or infinity; load another checkpoint."
            raise InputError(msg)


class LeakageMeter:
    """Measures ``tr(Δ C Δᵀ) / tr(W C Wᵀ)``, ``Δ`` the sum of all updates of a layer, ``W`` its unedited weight.

    Args:
        sites: The edited layers, unedited still.
        statistics: Preserved knowledge of each.
    """

    def __init__(self, sites: Sequence[EditSite], statistics: Sequence[LayerStatistics]) -> None:
        self._layers = [
            (s, stats, preserved_energy(stats, s.weight)) for s, stats in zip(sites, statistics, strict=True)
        ]

    def measure(self, journal: Journal) -> float | None:
        """The mean over the layers; ``None`` if nothing was edited."""
        shares = []
        for site, statistics, energy in self._layers:
            if (total := journal.total(site)) is not None:
                shares.append(preserved_energy(statistics, total) / energy)
        return sum(shares) / len(shares) if shares else None

"""One sequential batch: its targets, its smoothing candidates, and the way back.

Every candidate starts from the weights that the batch found. Until one is committed, :meth:`BatchEdit.rollback`
leaves the model exactly as it was.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.knowledge.statistics import LayerStatistics
from aeplus.methods.layer import LayerReport, LayerSolver
from aeplus.methods.method import Method
from aeplus.models.sites import Decoder, EditSite
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import Targets
from aeplus.targets.rows import BatchRows


@dataclass(frozen=True)
class LayerEdit:
    """The edit of one layer: its update, the keys it was made with, and what was measured."""

    update: fn.LowRankUpdate
    keys: Tensor
    report: LayerReport


@dataclass(frozen=True)
class Candidate:
    """One smoothing iteration's edit of all layers.

    Attributes:
        iteration: ``t``; 0 is the most smoothed.
        layers: One edit per site.
    """

    iteration: int
    layers: list[LayerEdit]


class BatchEdit:
    """The edit of one batch, up to its commit.

    Args:
        decoder: The model as the batch finds it.
        sites: The edited layers, ascending.
        rows: The batch's token rows.
        targets: The batch's targets at the last site.
        method: The composition.
        statistics: Preserved knowledge of each site.
        prior_keys: Keys of earlier edits of each site, ``[d, m]``.
    """

    def __init__(
        self,
        decoder: Decoder,
        sites: list[EditSite],
        rows: BatchRows,
        targets: Targets,
        method: Method,
        statistics: list[LayerStatistics],
        prior_keys: list[Tensor],
    ) -> None:
        self.sites, self.targets, self.method = sites, targets, method
        self._start = [site.weight.detach().clone() for site in sites]
        self._reader = KeyReader(decoder, rows, sites)
        self._solvers = [
            LayerSolver(site.layer, method, stats, weight, priors)
            for site, stats, weight, priors in zip(sites, statistics, self._start, prior_keys, strict=True)
        ]
        self.residual_norms = (targets.values - targets.initial).norm(dim=0)  # ‖r‖ [n]
        threshold = method.smoothing_threshold
        self._threshold = (
            fn.smoothing_threshold(self.residual_norms, method.smoothing_share)
            if threshold is None
            else torch.tensor(threshold, device=self.residual_norms.device)
        )
        self.smooths = bool(method.smooth and (self.residual_norms > self._threshold).any())
        self.seconds = 0.0

    @property
    def iterations(self) -> int:
        """How many smoothing iterations there can be: ``T + 1``, or 1 if nothing is smoothed."""
        return self.method.smoothing_steps + 1 if self.smooths else 1

    @torch.no_grad()
    def candidate(self, iteration: int) -> Candidate:
        """Edits the model with the targets of smoothing iteration ``t``, from the batch's starting weights.

        The residual at each layer is what the last edited layer still lacks, divided by the layers left (MEMIT).

        Raises:
            InputError: If a residual is not finite; the model is then as the batch found it.
        """
        began = time.perf_counter()
        self.rollback()
        self._reader.restart()
        wanted = self._wanted(iteration)
        edits: list[LayerEdit] = []
        try:
            for left, (site, solver) in enumerate(zip(self.sites, self._solvers, strict=True)):
                keys, values = self._reader.read(site)
                residual = (wanted - values) / (len(self.sites) - left)
                update, report = solver.solve(residual, keys)
                update = fn.LowRankUpdate(update.left.float(), update.right.float())  # as it will be stored
                site.add(update)
                edits.append(LayerEdit(update, keys, report))
        except BaseException:
            self.rollback()
            raise
        self.seconds += time.perf_counter() - began
        return Candidate(iteration, edits)

    @torch.no_grad()
    def rollback(self) -> None:
        """Puts back the weights that the batch found."""
        for site, weight in zip(self.sites, self._start, strict=True):
            site.weight.copy_(weight)

    @torch.no_grad()
    def apply(self, candidate: Candidate) -> None:
        """Sets the model to a candidate made before."""
        self.rollback()
        for site, edit in zip(self.sites, candidate.layers, strict=True):
            site.add(edit.update)

    def _wanted(self, iteration: int) -> Tensor:
        """``v^t = v + β(t) (v0 − v)``, ``[o, n]``."""
        targets = self.targets
        if not self.smooths:
            return targets.values
        beta = fn.smoothing_coefficients(self.residual_norms, iteration, self.method.smoothing_steps, self._threshold)
        return targets.values + beta * (targets.initial - targets.values)

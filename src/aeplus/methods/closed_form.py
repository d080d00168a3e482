"""The closed-form edit of a batch: its targets, its smoothing candidates, layer after layer."""

from collections.abc import Callable

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.methods.layer import LayerEdit, LayerSolver, stored
from aeplus.methods.method import Method
from aeplus.models.decoder import Decoder, EditSite, Snapshot
from aeplus.preserved.statistics import LayerStatistics
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import Targets
from aeplus.targets.rows import BatchRows


def residual_threshold(norms: Tensor, method: Method) -> Tensor:
    """``τ_r`` for a batch's ``‖r‖ [n]``: edits above it are smoothed, if the method smooths at all."""
    if method.smoothing_threshold is None:
        return fn.smoothing_threshold(norms, method.smoothing_share)
    return torch.tensor(method.smoothing_threshold, device=norms.device)


class Aim:
    """What a layer is edited towards.

    Args:
        targets: The batch's targets.
        at: At which site's output they are.
        parts: Into how many parts what is lacking is divided: the layers left.
        method: The composition.
    """

    def __init__(self, targets: Targets, at: EditSite, parts: int, method: Method) -> None:
        self.targets, self.at, self.parts, self._last = targets, at, parts, method.smoothing_steps
        self.norms = (targets.values - targets.initial).norm(dim=0)  # ‖r‖ [n]
        self._threshold = residual_threshold(self.norms, method)
        self.smooths = bool(method.smooth and (self.norms > self._threshold).any())

    def wanted(self, iteration: int) -> Tensor:
        """``v^t = v + β(t) (v0 − v)``, ``[o, n]``."""
        targets = self.targets
        if not self.smooths:
            return targets.values
        beta = fn.smoothing_coefficients(self.norms, iteration, self._last, self._threshold)
        return targets.values + beta * (targets.initial - targets.values)


class ClosedForm:
    """Proposes closed-form edits of a batch.

    Args:
        decoder: The model as the batch finds it.
        snapshot: Its edited weights, and with them the sites.
        rows: The batch's token rows.
        method: The composition.
        statistics: Preserved knowledge of each site.
        prior_keys: Keys of earlier edits of each site, ``[d, m]``.
        find: Learns targets at the output of a layer, with the model's present weights.

    Attributes:
        iterations: How many smoothing iterations there can be: ``T + 1``, or 1 if nothing is smoothed.
        residual_norms: ``‖r‖`` at the last edited layer, ``[n]``.
        converged: Which targets came below the stopping loss (at every layer that has its own), ``[n]``.
    """

    def __init__(
        self,
        decoder: Decoder,
        snapshot: Snapshot,
        rows: BatchRows,
        method: Method,
        statistics: list[LayerStatistics],
        prior_keys: list[Tensor],
        find: Callable[[int], Targets],
    ) -> None:
        self._snapshot, self._sites, self._method = snapshot, snapshot.sites, method
        self._reader = KeyReader(decoder, rows, self._sites)
        self._solvers = [
            LayerSolver(site.layer, method, stats, weight, priors)
            for site, stats, weight, priors in zip(self._sites, statistics, snapshot.weights, prior_keys, strict=True)
        ]
        self._aims = self._own_aims(find) if method.targets == "own" else self._shared_aim(find)
        self.iterations = method.smoothing_steps + 1 if any(aim.smooths for aim in self._aims) else 1
        self.residual_norms = self._aims[-1].norms
        self.converged = torch.stack([aim.targets.converged for aim in self._aims]).all(0)

    def _shared_aim(self, find: Callable[[int], Targets]) -> list[Aim]:
        """One target, at the last site, to which every layer contributes (MEMIT)."""
        targets, count = find(self._sites[-1].layer), len(self._sites)
        return [Aim(targets, self._sites[-1], count - i, self._method) for i in range(count)]

    def _own_aims(self, find: Callable[[int], Targets]) -> list[Aim]:
        """A target for each layer, learnt when the layers below are written (BLUE), unsmoothed."""
        aims: list[Aim] = []
        with self._snapshot:
            for site, solver in zip(self._sites, self._solvers, strict=True):
                aim = Aim(find(site.layer), site, 1, self._method)
                aims.append(aim)
                if site is not self._sites[-1]:
                    keys, values = self._reader.read(site, site)
                    solver.search(aim.wanted(0) - values, keys)  # P̃ belongs to the first iteration (Algorithm 1)
                    site.add(stored(solver.solve(aim.wanted(self._method.smoothing_steps) - values, keys), site.weight))
        return aims

    @torch.no_grad()
    def propose(self, iteration: int) -> list[LayerEdit]:
        """Edits the model with the targets of smoothing iteration ``t``; it must be as the batch found it.

        Raises:
            InputError: If a residual is not finite.
        """
        self._reader.restart()
        edits: list[LayerEdit] = []
        sparse = self._method.treatment == "sparsify"
        for site, solver, aim in zip(self._sites, self._solvers, self._aims, strict=True):
            keys, values = self._reader.read(site, aim.at)
            residual = (aim.wanted(iteration) - values) / aim.parts
            update = stored(solver.solve(residual, keys), site.weight)
            site.add(update)
            if sparse:
                update = fn.sparsify(update, solver.weight, self._method.keep_share)
            edits.append(LayerEdit(update, keys, solver.report(update, residual, keys)))
        if sparse:  # the layers above were edited on top of whole updates, as RECT does
            self._snapshot.restore()
            for site, edit in zip(self._sites, edits, strict=True):
                site.add(edit.update)
        return edits

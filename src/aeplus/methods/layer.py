"""The edit of one layer: its filter, previous edits' weights and P̃, from keys and residual to an update.

The tables :data:`SITES`, :data:`FILTERS`, :data:`RELAXATIONS` and :data:`PRIORS` hold the parts that a method chooses
from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.methods.registry import Part
from aeplus.preserved.statistics import LayerStatistics

if TYPE_CHECKING:
    from aeplus.methods.method import Method

SITES: dict[str, Part[Callable[[list[int]], list[int]]]] = {
    "all": Part(lambda layers: layers),
    "ends": Part(lambda layers: sorted({layers[0], layers[-1]}) if layers else []),
}
"""``method.sites``: which of the layers are edited."""

FILTERS: dict[str, Part[Callable[["Method", fn.Spectrum], Tensor]]] = {
    "null_space": Part(
        lambda method, spectrum: fn.null_space_filter(spectrum, method.threshold, kind=method.threshold_kind),
        ("threshold", "threshold_kind", "ridge"),
    ),
    "covariance": Part(lambda method, spectrum: fn.ridge_filter(spectrum, method.alpha), ("alpha",)),
    "soft": Part(
        lambda method, spectrum: fn.soft_filter(spectrum, method.alpha, method.solver_ridge), ("alpha", "ridge")
    ),
}
"""``method.filter``: the spectral filter ``f [d]`` before any relaxation. Without ``ridge`` it holds its own λ."""

RELAXATIONS: dict[str, Part[Callable[["Method"], dict[str, Any]] | None]] = {
    "none": Part(None),
    "bounded": Part(
        lambda method: {name: getattr(method, name) for name in ("max_rank", "max_leakage", "max_growth")},
        ("epsilon", "relative", "max_rank", "max_leakage", "max_growth"),
    ),
    "paper": Part(lambda method: {}, ("epsilon", "relative")),
}
"""``method.relax``: the bounds of the search for P̃; ``None`` for no search."""

PRIORS: dict[str, Part[Callable[[Tensor, Tensor], Tensor] | None]] = {
    "none": Part(None),
    "equal": Part(lambda prior_keys, keys: prior_keys.new_ones(prior_keys.shape[1]), ("prior_strength",)),
    "conflict": Part(fn.prior_weights, ("prior_strength",)),
}
"""``method.prior``: the weights ``Λp [m]`` of previous keys ``[d, m]`` against new ones ``[d, n]``; ``None`` for no
memory of previous edits."""


@dataclass(frozen=True)
class LayerReport:
    """What was measured when a layer was edited; s is the largest cosine with other keys (Eq. 3).

    Attributes:
        layer: Index of the layer.
        conflict_preserved: Mean s(k, K0) over the edits.
        conflict_preserved_max: Its maximum.
        conflict_prior: Mean s(k, Kp).
        conflict_prior_max: Its maximum.
        residual_norm: Mean norm of the residual spread to this layer.
        rank: Eigenvectors in P̃.
        sigma_max: Largest eigenvalue of C among them (0 if none).
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` of the update as solved: what RECT takes away or PRUNE restrains is in the
            leakage of all updates together only.
        prior_weight_norm: ``‖Λp‖_F``.
        preserved: s(k, K0) of each edit, ``[n]``.
        prior: s(k, Kp) of each edit, ``[n]``.
        added: Which eigenvectors are in P̃, ``[d]``; ``None`` where none was searched.
    """

    layer: int
    conflict_preserved: float
    conflict_preserved_max: float
    conflict_prior: float
    conflict_prior_max: float
    residual_norm: float
    rank: int
    sigma_max: float
    leakage: float
    prior_weight_norm: float
    preserved: Tensor = field(repr=False, compare=False, kw_only=True)
    prior: Tensor = field(repr=False, compare=False, kw_only=True)
    added: Tensor | None = field(repr=False, compare=False, kw_only=True)

    def as_dict(self) -> dict[str, float]:
        """Names and values of what is one number for the layer."""
        numbers = (f.name for f in fields(self) if f.compare)
        return {name: getattr(self, name) for name in numbers}


@dataclass(frozen=True)
class LayerEdit:
    """The edit of one layer: its update, the keys it was made with, and what was measured."""

    update: fn.LowRankUpdate
    keys: Tensor
    report: LayerReport


def solving_dtype(method: "Method", weight: Tensor) -> torch.dtype:
    """What a layer is solved in, whatever dtype its weights have."""
    return torch.float64 if method.double and weight.device.type != "mps" else torch.float32


def stored(update: fn.LowRankUpdate, weight: Tensor) -> fn.LowRankUpdate:
    """An update as it is applied and kept: in float32, or the weight's dtype if that is wider."""
    return update.to(torch.promote_types(weight.dtype, torch.float32))


def base_filter(method: "Method", spectrum: fn.Spectrum) -> Tensor:
    """The filter ``[d]`` before any relaxation.

    Raises:
        InputError: If the threshold leaves no null space or no constraint.
    """
    return FILTERS[method.filter].run(method, spectrum)


def joined_keys(batches: Sequence[Tensor], weight: Tensor) -> Tensor:
    """The keys of previous batches ``[d, n]`` one after another, ``[d, m]``, on the device of a weight ``[o, d]``."""
    if not batches:
        return weight.new_zeros(weight.shape[1], 0, dtype=torch.float32)
    return torch.cat([keys.to(weight.device) for keys in batches], 1)


class LayerSolver:
    """Solves one layer of one batch. The filter is searched once, on the first residual (Algorithm 1).

    Args:
        layer: Index of the layer.
        method: The composition.
        statistics: The layer's preserved knowledge.
        weight: The layer's weight before the batch, ``[o, d]``; it says where and in which dtype to compute.
        prior_keys: Keys of previous edits ``[d, m]``, as they were when those edits were made.
    """

    def __init__(
        self, layer: int, method: "Method", statistics: LayerStatistics, weight: Tensor, prior_keys: Tensor
    ) -> None:
        dtype = solving_dtype(method, weight)
        self.layer = layer
        self.method = method
        self.statistics = statistics.to(weight.device, dtype)
        self.weight = weight.to(dtype)
        self.prior_keys = prior_keys.to(weight.device, dtype)
        self._base = base_filter(method, self.statistics.spectrum)
        self._filter: Tensor | None = None
        self._weights: Tensor | None = None  # Λp of the last solve

    def search(self, residual: Tensor, keys: Tensor) -> None:
        """Fixes the filter by a residual ``[o, n]`` and keys ``[d, n]``; afterwards it does nothing."""
        if self._filter is None:
            self._search(residual, keys, self._priors(keys))

    def _search(self, residual: Tensor, keys: Tensor, priors: dict[str, Any]) -> None:
        method, self._filter = self.method, self._base
        bounds = RELAXATIONS[method.relax].run
        if bounds is None:
            return
        limits = bounds(method)
        self._filter, _ = fn.relax_filter(
            residual.to(self.weight),
            keys.to(self.weight),
            self.statistics.spectrum,
            self._base,
            method.solver_ridge,
            method.epsilon,
            **priors,
            relative=method.relative,
            **limits,
            weight=self.weight if limits.get("max_leakage") is not None else None,
        )

    def solve(self, residual: Tensor, keys: Tensor) -> fn.LowRankUpdate:
        """The update for a residual ``[o, n]`` and keys ``[d, n]``.

        Raises:
            InputError: If the residual or the keys are not finite.
        """
        priors = self._priors(keys)
        if self._filter is None:
            self._search(residual, keys, priors)
        assert self._filter is not None
        self._weights = priors.get("prior_weights")
        return fn.solve_update(
            residual.to(self.weight),
            keys.to(self.weight),
            self.statistics.spectrum,
            self._filter,
            self.method.solver_ridge,
            **priors,
        )

    def report(self, update: fn.LowRankUpdate, residual: Tensor, keys: Tensor) -> LayerReport:
        """What there is to say of the update that was solved last, for a residual and keys."""
        added = None if self._filter is None else self._filter != self._base
        return measure(
            self.layer, self.statistics, self.weight, self.prior_keys, update, residual, keys, added, self._weights
        )

    def _priors(self, keys: Tensor) -> dict[str, Any]:
        weigh = PRIORS[self.method.prior].run
        if weigh is None or not self.prior_keys.shape[1]:
            return {}
        return {
            "prior_keys": self.prior_keys,
            "prior_weights": weigh(self.prior_keys, keys.to(self.weight)),
            "prior_strength": self.method.prior_strength,
        }


def measure(
    layer: int,
    statistics: LayerStatistics,
    weight: Tensor,
    prior_keys: Tensor,
    update: fn.LowRankUpdate,
    residual: Tensor,
    keys: Tensor,
    added: Tensor | None = None,
    prior_weights: Tensor | None = None,
) -> LayerReport:
    """Measures the edit of a layer.

    Args:
        layer: Index of the layer.
        statistics: The layer's preserved knowledge, where and in the dtype in which to compute.
        weight: The weight before the batch, ``[o, d]``.
        prior_keys: Keys of previous edits, ``[d, m]``.
        update: The update.
        residual: What it was made for, ``[o, n]``.
        keys: The batch's keys, ``[d, n]``.
        added: Which eigenvectors are in P̃, ``[d]``.
        prior_weights: ``Λp``, ``[m]``.
    """
    keys, residual, update = keys.to(weight), residual.to(weight), update.to(weight)
    preserved = fn.conflict(keys, statistics.keys)
    prior = fn.conflict(keys, prior_keys)
    none = weight.new_zeros(())
    numbers = torch.stack(
        [
            preserved.mean(),
            preserved.max(),
            prior.mean(),
            prior.max(),
            residual.norm(dim=0).mean(),
            none if added is None else added.sum().to(none),
            none if added is None else (added * statistics.spectrum.values).max(),
            fn.leakage(update, statistics.spectrum, weight),
            none if prior_weights is None else prior_weights.norm(),
        ]
    ).tolist()  # one copy to the host
    numbers[5] = int(numbers[5])
    return LayerReport(layer, *numbers, preserved=preserved, prior=prior, added=added)

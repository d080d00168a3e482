"""The edit of one layer: its filter, previous edits' weights and P̃, from keys and residual to an update.

The tables :data:`SITES`, :data:`FILTERS`, :data:`RELAXATIONS` and :data:`PRIORS` hold the parts that a method chooses
from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.methods.earlier import EarlierKeys
from aeplus.methods.registry import Part
from aeplus.preserved.statistics import LayerStatistics

if TYPE_CHECKING:
    from aeplus.methods.method import Method

SITES: dict[str, Part[Callable[[list[int]], list[int]]]] = {
    "all": Part(lambda layers: layers),
    "ends": Part(lambda layers: sorted({layers[0], layers[-1]}) if layers else []),
}
"""``method.sites``: which of the layers are edited."""

_MIXED = ("threshold", "threshold_kind", "alpha", "ridge")


def _mixed(method: "Method", spectrum: fn.Spectrum, make: Callable[..., Tensor]) -> Tensor:
    """A filter with both a null space and a price."""
    return make(spectrum, method.threshold, method.alpha, method.solver_ridge, kind=method.threshold_kind)


FILTERS: dict[str, Part[Callable[["Method", fn.Spectrum], Tensor]]] = {
    "null_space": Part(
        lambda method, spectrum: fn.null_space_filter(spectrum, method.threshold, kind=method.threshold_kind),
        ("threshold", "threshold_kind", "ridge"),
    ),
    "covariance": Part(lambda method, spectrum: fn.ridge_filter(spectrum, method.alpha), ("alpha",)),
    "soft": Part(
        lambda method, spectrum: fn.soft_filter(spectrum, method.alpha, method.solver_ridge), ("alpha", "ridge")
    ),
    "null_soft": Part(lambda method, spectrum: _mixed(method, spectrum, fn.null_soft_filter), _MIXED),
    "priced": Part(lambda method, spectrum: _mixed(method, spectrum, fn.priced_filter), _MIXED),
}
"""``method.filter``: the spectral filter ``f [d]`` before any relaxation. Without ``ridge`` it holds its own λ."""


@dataclass(frozen=True)
class Relaxed:
    """A filter that has been widened by P̃.

    Attributes:
        filter: The spectral filter, with the eigenvectors that joined it, ``[d]``.
        directions: Further directions Q, so that ``P̃`` holds ``Q Qᵀ``, ``[d, r]``; ``None`` for no others.
    """

    filter: Tensor
    directions: Tensor | None = None


@dataclass(frozen=True)
class Widening:
    """What P̃ is found from: the first residual ``[o, n]`` and keys ``[d, n]`` of a batch at a layer.

    Attributes:
        residual: ``R``.
        keys: ``K1``.
        spectrum: Spectrum of C.
        base: The filter to widen, ``[d]``.
        weight: ``W [o, d]``.
        priors: Previous keys with their weights, as the solver takes them.
    """

    residual: Tensor
    keys: Tensor
    spectrum: fn.Spectrum
    base: Tensor
    weight: Tensor
    priors: dict[str, Any]


def _searched(method: "Method", found: Widening, **bounds: Any) -> Relaxed:
    """Eigenvectors of C, by ascending eigenvalue, while they pay (Algorithm 1)."""
    bounds["weight"] = found.weight if bounds.get("max_leakage") is not None else None
    widened, _ = fn.relax_filter(
        found.residual,
        found.keys,
        found.spectrum,
        found.base,
        method.solver_ridge,
        method.epsilon,
        relative=method.relative,
        **found.priors,
        **bounds,
    )
    return Relaxed(widened)


def _bounded(method: "Method", found: Widening) -> Relaxed:
    bounds = {name: getattr(method, name) for name in ("max_rank", "max_leakage", "max_growth")}
    return _searched(method, found, **bounds)


def _aligned(method: "Method", found: Widening) -> Relaxed:
    """A direction for each edit whose key lies mostly outside the null space."""
    problem, power = (found.keys, found.spectrum, found.base), method.aligned_power
    floor: float | Tensor | None = method.aligned_floor
    if floor is None:
        bound: dict[str, Any] = {}
        if method.aligned_leakage is not None:
            most = method.aligned_leakage * fn.preserved_energy(found.weight, found.spectrum)
            bound = {"residual_norms": found.residual.norm(dim=0), "max_leakage": most}
        floor = fn.aligned_floor(*problem, method.solver_ridge, method.aligned_left, power, **bound)
    return Relaxed(found.base, fn.aligned_basis(*problem, share=method.aligned_share, power=power, floor=floor))


RELAXATIONS: dict[str, Part[Callable[["Method", Widening], Relaxed] | None]] = {
    "none": Part(None),
    "aligned": Part(_aligned, ("aligned_share", "aligned_left", "aligned_power", "aligned_floor", "aligned_leakage")),
    "bounded": Part(_bounded, ("epsilon", "relative", "max_rank", "max_leakage", "max_growth")),
    "paper": Part(_searched, ("epsilon", "relative")),
}
"""``method.relax``: how the filter is widened by P̃; ``None`` for not at all."""


@dataclass(frozen=True)
class Earlier:
    """Previous edits as a prior sees them.

    Attributes:
        conflict: Finds the largest |cosine| of each with the batch's keys, s(kp, K1), ``[m]``.
        rewritten: Which of them are of a fact that the batch edits again, ``[m]``.
    """

    conflict: Callable[[], Tensor]
    rewritten: Tensor


@dataclass(frozen=True)
class Prior:
    """How previous edits are kept.

    Attributes:
        weigh: Their weights ``Λp [m]``; ``None`` where they are not part of the system.
        forbids: Updates must be 0 on their keys, instead of being penalized there.
    """

    weigh: Callable[[Earlier], Tensor] | None = None
    forbids: bool = False


PRIORS: dict[str, Part[Prior]] = {
    "none": Part(Prior()),
    "equal": Part(Prior(lambda earlier: torch.ones_like(earlier.rewritten, dtype=torch.float32)), ("prior_strength",)),
    "conflict": Part(Prior(lambda earlier: 1 - earlier.conflict()), ("prior_strength",)),
    "resolve": Part(Prior(lambda earlier: (~earlier.rewritten).float()), ("prior_strength",)),
    "hard": Part(Prior(forbids=True)),
}
"""``method.prior``: the weights ``Λp [m]`` of previous edits, or that they forbid directions."""


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
        rank: Rank of P̃: its eigenvectors of C, or aligned directions.
        sigma_max: Largest ``qᵀ C q`` among the unit vectors of P̃ (0 if none): the largest eigenvalue that was added.
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` of the update as solved: what RECT takes away or PRUNE restrains is in the
            leakage of all updates together only.
        prior_weight_norm: ``‖Λp‖_F``.
        preserved: s(k, K0) of each edit, ``[n]``.
        prior: s(k, Kp) of each edit, ``[n]``.
        added: Which eigenvectors are in P̃, ``[d]``; ``None`` where it is not made of eigenvectors.
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


class LayerSolver:
    """Solves one layer of one batch. The filter is searched once, on the first residual (Algorithm 1).

    Up to ``d`` previous keys are columns of the system. Of more, only their moment ``Kp Λp Kpᵀ`` enters it, which gives
    the same update; without the weights it is kept up to date from batch to batch.

    Args:
        layer: Index of the layer.
        method: The composition.
        statistics: The layer's preserved knowledge.
        weight: The layer's weight before the batch, ``[o, d]``; it says where and in which dtype to compute.
        prior_keys: Keys of previous edits, ``[d, m]`` or those of each batch, as they were when those edits were made.
        rewritten: Which of them are of a fact that this batch edits again, ``[m]``; none by default.
        removed: What the treatment has added to the last batch's update; this one takes it back (error feedback).
    """

    def __init__(
        self,
        layer: int,
        method: "Method",
        statistics: LayerStatistics,
        weight: Tensor,
        prior_keys: EarlierKeys | Sequence[Tensor] | Tensor,
        rewritten: Tensor | None = None,
        removed: fn.LowRankUpdate | None = None,
    ) -> None:
        dtype = solving_dtype(method, weight)
        self.layer = layer
        self.method = method
        self.statistics = statistics.to(weight.device, dtype)
        self.weight = weight.to(dtype)
        self.earlier = EarlierKeys.of(prior_keys, weight.device)
        self._many = self.earlier.columns > weight.shape[1]
        none = torch.zeros(self.earlier.columns)
        self._rewritten = (none if rewritten is None else rewritten).to(weight.device, torch.bool)
        self._base = base_filter(method, self.statistics.spectrum)
        self._removed = None if removed is None else removed.to(weight.device).to(dtype)
        self._relaxed: Relaxed | None = None
        self._taken: Tensor | None = None  # B of the hard prior
        self._weights: Tensor | None = None  # Λp of the last solve
        self._moment: tuple[Tensor, Tensor] | None = None  # the last Λp and Kp Λp Kpᵀ

    @cached_property
    def prior_keys(self) -> Tensor:
        """Keys of previous edits ``[d, m]``, in what is solved in."""
        return self.earlier.joined(self.weight)

    def search(self, residual: Tensor, keys: Tensor) -> None:
        """Fixes P̃ by a residual ``[o, n]`` and keys ``[d, n]``; afterwards it does nothing."""
        if self._relaxed is None:
            self._search(self._fed_back(residual, keys), keys, self._priors(keys))

    def _search(self, residual: Tensor, keys: Tensor, priors: dict[str, Any]) -> Relaxed:
        spectrum, widen = self.statistics.spectrum, RELAXATIONS[self.method.relax].run
        wide = residual.to(self.weight), keys.to(self.weight)
        found = Widening(*wide, spectrum, self._base, self.weight, priors)
        self._relaxed = Relaxed(self._base) if widen is None else widen(self.method, found)
        return self._relaxed

    def solve(self, residual: Tensor, keys: Tensor) -> fn.LowRankUpdate:
        """The update for a residual ``[o, n]`` and keys ``[d, n]``.

        Raises:
            InputError: If the residual or the keys are not finite.
        """
        priors, residual = self._priors(keys), self._fed_back(residual, keys)
        relaxed = self._relaxed or self._search(residual, keys, priors)
        solved = fn.solve_update(
            residual.to(self.weight),
            keys.to(self.weight),
            self.statistics.spectrum,
            relaxed.filter,
            self.method.solver_ridge,
            **priors,
            relaxation=relaxed.directions,
            forbidden=self._forbidden(relaxed),
        )
        return solved if self._removed is None else fn.without(solved, self._removed)

    def _fed_back(self, residual: Tensor, keys: Tensor) -> Tensor:
        """The residual of a weight from which what a treatment has added, ``D``, is taken back: ``R + D K1``.

        With ``M`` the system of the last batch and ``M + K1 K1ᵀ`` that of this one, the update that then follows less
        ``D`` is ``(R K1ᵀ − D M)(M + K1 K1ᵀ)⁻¹``: error feedback (OTE-SE).
        """
        if self._removed is None:
            return residual
        wide = keys.to(self.weight)
        return residual.to(self.weight) + self._removed.left @ (self._removed.right @ wide)

    def report(self, update: fn.LowRankUpdate, residual: Tensor, keys: Tensor) -> LayerReport:
        """What there is to say of the update that was solved last, for a residual and keys."""
        relaxed = self._relaxed
        added = None
        if relaxed is not None and relaxed.directions is None:
            added = relaxed.filter != self._base
        aligned = None if relaxed is None else relaxed.directions
        prior = self.earlier.nearest(keys)[0] if self._many else fn.conflict(keys.to(self.weight), self.prior_keys)
        parts = (self.layer, self.statistics, self.weight, prior, update, residual, keys)
        return measure(*parts, added, self._weights, aligned)

    def _forbidden(self, relaxed: Relaxed) -> Tensor | None:
        """The directions that previous edits forbid, found once: neither they nor P̃ change within a batch."""
        if not PRIORS[self.method.prior].run.forbids or not self.earlier.columns:
            return None
        if self._taken is None:
            keys = self.earlier.factor(self.weight.dtype) if self._many else self.prior_keys
            spectrum = self.statistics.spectrum
            self._taken = fn.forbidden_directions(keys, spectrum, relaxed.filter, relaxed.directions)
        return self._taken

    def _priors(self, keys: Tensor) -> dict[str, Any]:
        self._weights, weigh = None, PRIORS[self.method.prior].run.weigh
        if weigh is None or not self.earlier.columns:
            return {}
        self._weights = weights = weigh(Earlier(lambda: self._conflict(keys), self._rewritten)).to(self.weight.dtype)
        if self._many:
            earlier: dict[str, Any] = {"prior_moment": self._weighted(weights)}
        else:
            earlier = {"prior_keys": self.prior_keys, "prior_weights": weights}
        return earlier | {"prior_strength": self.method.prior_strength}

    def _conflict(self, keys: Tensor) -> Tensor:
        """s(kp, K1) of each previous edit with the keys ``[d, n]`` of this batch, ``[m]``."""
        if self._many:
            return self.earlier.nearest(keys)[1]
        return fn.conflict(self.prior_keys, keys.to(self.weight))

    def _weighted(self, weights: Tensor) -> Tensor:
        """``Kp Λp Kpᵀ``, ``[d, d]``; at the first layer all candidates of a batch have the same."""
        if self._moment is None or not torch.equal(self._moment[0], weights):
            whole = self.earlier.moment(self.weight.dtype)
            self._moment = weights, fn.weighted_moment(self.earlier.blocks(), weights, whole)
        return self._moment[1]


def measure(
    layer: int,
    statistics: LayerStatistics,
    weight: Tensor,
    prior: Tensor,
    update: fn.LowRankUpdate,
    residual: Tensor,
    keys: Tensor,
    added: Tensor | None = None,
    prior_weights: Tensor | None = None,
    aligned: Tensor | None = None,
) -> LayerReport:
    """Measures the edit of a layer.

    Args:
        layer: Index of the layer.
        statistics: The layer's preserved knowledge, where and in the dtype in which to compute.
        weight: The weight before the batch, ``[o, d]``.
        prior: s(k, Kp) of each edit, ``[n]``.
        update: The update.
        residual: What it was made for, ``[o, n]``.
        keys: The batch's keys, ``[d, n]``.
        added: Which eigenvectors are in P̃, ``[d]``.
        prior_weights: ``Λp``, ``[m]``.
        aligned: The directions of P̃ that are no eigenvectors, ``[d, r]``.
    """
    keys, residual, update = keys.to(weight), residual.to(weight), update.to(weight)
    preserved = fn.conflict(keys.to(statistics.keys), statistics.keys).to(weight)
    prior = prior.to(weight)
    none = weight.new_zeros(())
    rank = none if added is None else added.sum().to(none)
    sigma = none if added is None else (added * statistics.spectrum.values).max()
    if aligned is not None and aligned.shape[1]:
        rank = rank + aligned.shape[1]
        sigma = torch.maximum(sigma, fn.preserved_moment(aligned.T, statistics.spectrum).diagonal().max())
    numbers = torch.stack(
        [
            preserved.mean(),
            preserved.max(),
            prior.mean(),
            prior.max(),
            residual.norm(dim=0).mean(),
            rank,
            sigma,
            fn.leakage(update, statistics.spectrum, weight),
            none if prior_weights is None else prior_weights.norm(),
        ]
    ).tolist()  # one copy to the host
    numbers[5] = int(numbers[5])
    return LayerReport(layer, *numbers, preserved=preserved, prior=prior, added=added)

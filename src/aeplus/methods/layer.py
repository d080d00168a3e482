"""The edit of one layer: its filter, previous edits' weights and P̃, from keys and residual to an update."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.methods.earlier import EarlierKeys
from aeplus.methods.measured import LayerReport, measure, weight_energy
from aeplus.methods.parts import PRIORS, RELAXATIONS, Earlier, Relaxed, Widening, base_filter
from aeplus.preserved.statistics import LayerStatistics

if TYPE_CHECKING:
    from aeplus.methods.method import Method


def solving_dtype(method: "Method", weight: Tensor) -> torch.dtype:
    """What a layer is solved in, whatever dtype its weights have."""
    return torch.float64 if method.double and weight.device.type != "mps" else torch.float32


def stored(update: fn.LowRankUpdate, weight: Tensor) -> fn.LowRankUpdate:
    """An update as it is applied and kept: in float32, or the weight's dtype if that is wider."""
    return update.to(torch.promote_types(weight.dtype, torch.float32))


class LayerSolver:
    """Solves one layer of one batch. P̃ is searched once, on the first residual (Algorithm 1), or on :meth:`search`'s.

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
        place: The layer's place among the edited ones, from 1.
        energy: ``tr(W C Wᵀ)`` of the weight, if it is known.

    Attributes:
        stored_weight: The weight before the batch, ``[o, d]``, in its own dtype.
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
        place: int = 1,
        energy: float | None = None,
    ) -> None:
        dtype = solving_dtype(method, weight)
        self.layer = layer
        self.method = method
        self.statistics = statistics.to(weight.device, dtype)
        self.stored_weight, self._like = weight, weight.new_empty(0, weight.shape[1], dtype=dtype)
        self.earlier = EarlierKeys.of(prior_keys, weight.device)
        self._energy = None if energy is None else self._like.new_tensor(energy)
        self._many = self.earlier.columns > weight.shape[1]
        none = torch.zeros(self.earlier.columns)
        self._rewritten = (none if rewritten is None else rewritten).to(weight.device, torch.bool)
        self._strength = method.prior_strength * (place if method.prior_by_place else 1)
        self._base = base_filter(method, self.statistics.spectrum)
        self._removed = None if removed is None else removed.to(weight.device).to(dtype)
        self._relaxed: Relaxed | None = None
        self._taken: Tensor | None = None  # B of the hard prior
        self._weights: Tensor | None = None  # Λp of the last solve
        self._moment: tuple[Tensor, Tensor] | None = None  # the last Λp and Kp Λp Kpᵀ
        self._solved: tuple[Tensor, fn.LowRankUpdate] | None = None  # the last keys, and what was solved for them
        self._outside: tuple[Tensor, Tensor] | None = None  # keys, and their coordinates where the filter is 0

    @property
    def weight(self) -> Tensor:
        """The weight before the batch ``[o, d]``, in what is solved in; made anew each time, as it is large."""
        return self.stored_weight.to(self._like)

    @cached_property
    def energy(self) -> Tensor:
        """``tr(W C Wᵀ)`` of that weight."""
        known = self._energy
        return weight_energy(self.statistics, self.stored_weight).to(self._like) if known is None else known

    @property
    def prior_keys(self) -> Tensor:
        """Keys of previous edits ``[d, m]``, in what is solved in; made anew each time, as they are many."""
        return self.earlier.joined(self._like)

    def search(self, residual: Tensor, keys: Tensor) -> None:
        """Fixes P̃ by a residual ``[o, n]`` and keys ``[d, n]``; afterwards it does nothing."""
        if self._relaxed is None:
            self._search(self._fed_back(residual, keys), keys, self._priors(keys))

    def _search(self, residual: Tensor, keys: Tensor, priors: dict[str, Any]) -> Relaxed:
        spectrum, widen = self.statistics.spectrum, RELAXATIONS[self.method.relax].run
        wide = residual.to(self._like), keys.to(self._like)
        weight, energy, outside = lambda: self.weight, lambda: self.energy, lambda: self._coordinates(keys, wide[1])
        found = Widening(*wide, spectrum, self._base, weight, energy, priors, outside)
        self._relaxed = Relaxed(self._base) if widen is None else widen(self.method, found)
        return self._relaxed

    def _coordinates(self, keys: Tensor, wide: Tensor) -> Tensor:
        coordinates = fn.outside_coordinates(wide, self.statistics.spectrum, self._base)
        self._outside = keys, coordinates
        return coordinates

    def solve(self, residual: Tensor, keys: Tensor) -> fn.LowRankUpdate:
        """The update for a residual ``[o, n]`` and keys ``[d, n]``.

        For the same keys, the very tensor, as the last time it is linear in the residual: nothing is solved anew.

        Raises:
            InputError: If the residual or the keys are not finite.
        """
        residual = self._fed_back(residual, keys).to(self._like)
        if self._solved is not None and self._solved[0] is keys:
            solved = self._solved[1].of(residual)
        else:
            priors = self._priors(keys)
            relaxed = self._relaxed or self._search(residual, keys, priors)
            solved = fn.solve_update(
                residual,
                keys.to(self._like),
                self.statistics.spectrum,
                relaxed.filter,
                self.method.solver_ridge,
                **priors,
                relaxation=relaxed.directions,
                forbidden=self._forbidden(relaxed),
                outside=self._outside[1] if self._outside is not None and self._outside[0] is keys else None,
                prior_gram=self._gram(relaxed, priors, keys.shape[1]),
            )
            self._solved = keys, solved
        return solved if self._removed is None else fn.without(solved, self._removed)

    def _fed_back(self, residual: Tensor, keys: Tensor) -> Tensor:
        """The residual of a weight from which what a treatment has added, ``D``, is taken back: ``R + D K1``.

        With ``M`` the system of the last batch and ``M + K1 K1ᵀ`` that of this one, the update that then follows less
        ``D`` is ``(R K1ᵀ − D M)(M + K1 K1ᵀ)⁻¹``: error feedback (OTE-SE).
        """
        if self._removed is None:
            return residual
        wide = keys.to(self._like)
        return residual.to(self._like) + self._removed.left @ (self._removed.right @ wide)

    def report(self, update: fn.LowRankUpdate, residual: Tensor, keys: Tensor) -> LayerReport:
        """What there is to say of the update that was solved last, for a residual and keys."""
        relaxed = self._relaxed
        added = None
        if relaxed is not None and relaxed.directions is None:
            added = relaxed.filter != self._base
        aligned = None if relaxed is None else relaxed.directions
        prior = self._conflict(keys)[0]
        parts = (self.layer, self.statistics, self.energy, prior, update, residual, keys)
        return measure(*parts, added, self._weights, aligned)

    def _forbidden(self, relaxed: Relaxed) -> Tensor | None:
        """The directions that previous edits forbid, found once: neither they nor P̃ change within a batch."""
        if not PRIORS[self.method.prior].run.forbids or not self.earlier.columns:
            return None
        if self._taken is None:
            keys = self.earlier.factor(self._like.dtype) if self._many else self.prior_keys
            spectrum = self.statistics.spectrum
            computed = next(self.earlier.blocks()).dtype
            self._taken = fn.forbidden_directions(keys, spectrum, relaxed.filter, relaxed.directions, computed)
        return self._taken

    def _priors(self, keys: Tensor) -> dict[str, Any]:
        self._weights, weigh = None, PRIORS[self.method.prior].run.weigh
        if weigh is None or not self.earlier.columns:
            return {}
        self._weights = weights = weigh(Earlier(lambda: self._conflict(keys)[1], self._rewritten)).to(self._like.dtype)
        if self._many:
            earlier: dict[str, Any] = {"prior_moment": self._weighted(weights)}
        else:
            earlier = {"prior_keys": self.earlier.joined(next(self.earlier.blocks())), "prior_weights": weights}
        return earlier | {"prior_strength": self._strength}

    def _conflict(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """s(k, Kp) of each key ``[d, n]`` of this batch, ``[n]``, and s(kp, K1) of each previous edit, ``[m]``."""
        return self.earlier.nearest(keys, None if self._many else self._like.dtype)

    def _gram(self, relaxed: Relaxed, priors: dict[str, Any], edits: int) -> Tensor | None:
        """``Kpᵀ F Kp`` without P̃, where a system with all keys is smaller than one without and needs it."""
        directions = 0 if relaxed.directions is None else relaxed.directions.shape[1]
        most = self._support + directions - edits
        if "prior_keys" not in priors or relaxed.filter is not self._base or self.earlier.columns > most:
            return None
        return self.earlier.gram(self.statistics.spectrum, self._base)

    @cached_property
    def _support(self) -> int:
        """How many eigenvectors an edit may use, without P̃; a system without keys is as large."""
        spectrum = self.statistics.spectrum
        return spectrum.dimension if spectrum.missing else int((self._base != 0).sum())

    def _weighted(self, weights: Tensor) -> Tensor:
        """``Kp Λp Kpᵀ``, ``[d, d]``; at the first layer all candidates of a batch have the same."""
        if self._moment is None or not torch.equal(self._moment[0], weights):
            whole = self.earlier.moment(self._like.dtype)
            self._moment = weights, fn.weighted_moment(self.earlier.blocks(), weights, whole)
        return self._moment[1]

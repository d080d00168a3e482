"""What is measured when a layer is edited: conflict, the rank of P̃, leakage."""

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.preserved.statistics import LayerStatistics


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
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)`` of the update, as RECT, SPHERE or REVIVE leave it; what PRUNE restrains
            is in the leakage of all updates together only.
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


def weight_energy(statistics: LayerStatistics, weight: Tensor) -> Tensor:
    """``tr(W C Wᵀ)`` of a weight ``[o, d]``, a scalar."""
    # Its product has o·d·d terms. The eigenvectors' dtype is faster than float64, and casts none of them.
    spectrum = statistics.spectrum
    return fn.preserved_energy(weight.to(spectrum.vectors), spectrum)


def measure(
    layer: int,
    statistics: LayerStatistics,
    energy: Tensor,
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
        energy: ``tr(W C Wᵀ)`` of the weight before the batch, a scalar.
        prior: s(k, Kp) of each edit, ``[n]``.
        update: The update.
        residual: What it was made for, ``[o, n]``.
        keys: The batch's keys, ``[d, n]``.
        added: Which eigenvectors are in P̃, ``[d]``.
        prior_weights: ``Λp``, ``[m]``.
        aligned: The directions of P̃ that are no eigenvectors, ``[d, r]``.
    """
    # No eigenvector is cast: the products with all d of them are made in theirs.
    vectors = statistics.spectrum.vectors
    keys, residual, update = keys.to(energy), residual.to(energy), update.to(vectors)
    preserved = fn.conflict(keys.to(statistics.keys), statistics.keys).to(energy)
    prior = prior.to(energy)
    none = energy.new_zeros(())
    rank = none if added is None else added.sum().to(none)
    sigma = none if added is None else (added * statistics.spectrum.values).max()
    if aligned is not None and aligned.shape[1]:
        rank = rank + aligned.shape[1]
        sigma = torch.maximum(sigma, fn.preserved_moment(aligned.T.to(vectors), statistics.spectrum).diagonal().max())
    numbers = torch.stack(
        [
            preserved.mean(),
            preserved.max(),
            prior.mean(),
            prior.max(),
            residual.norm(dim=0).mean(),
            rank,
            sigma,
            fn.update_energy(update, statistics.spectrum).to(energy) / energy,
            none if prior_weights is None else prior_weights.norm(),
        ]
    ).tolist()  # one copy to the host
    numbers[5] = int(numbers[5])
    return LayerReport(layer, *numbers, preserved=preserved, prior=prior, added=added)

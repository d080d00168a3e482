"""The edit of one layer: from keys and residual to an update, with what was measured on the way."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.knowledge.statistics import LayerStatistics
from aeplus.methods.method import Method


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
        leakage: ``tr(Δ C Δᵀ) / tr(W C Wᵀ)``.
        prior_weight_norm: ``‖Λp‖_F``.
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

    def as_dict(self) -> dict[str, float]:
        """Names and values."""
        return asdict(self)


def base_filter(method: Method, spectrum: fn.Spectrum) -> Tensor:
    """The filter ``[d]`` before any relaxation.

    Raises:
        InputError: If the threshold leaves no null space or no constraint.
    """
    if method.filter == "covariance":
        return fn.ridge_filter(spectrum, method.alpha)
    return fn.null_space_filter(spectrum, method.threshold, kind=method.threshold_kind)


class LayerSolver:
    """Solves one layer of one batch. The filter is searched once, on the first residual (Algorithm 1).

    Args:
        layer: Index of the layer.
        method: The composition.
        statistics: The layer's preserved knowledge, on the layer's device.
        weight: The layer's weight before the batch, ``[o, d]``.
        prior_keys: Keys of earlier edits ``[d, m]``, as they were when those edits were made.
    """

    def __init__(
        self, layer: int, method: Method, statistics: LayerStatistics, weight: Tensor, prior_keys: Tensor
    ) -> None:
        dtype = torch.float64 if method.double and weight.device.type != "mps" else torch.float32
        self.layer = layer
        self.method = method
        self.statistics = statistics.to(weight.device, dtype)
        self.weight = weight.to(dtype)
        self.prior_keys = prior_keys.to(weight.device, dtype)
        self._filter: Tensor | None = None
        self._base = base_filter(method, self.statistics.spectrum)
        self._ridge = 1.0 if method.filter == "covariance" else method.ridge

    def solve(self, residual: Tensor, keys: Tensor) -> tuple[fn.LowRankUpdate, LayerReport]:
        """The update for a residual ``[o, n]`` and keys ``[d, n]``, and what was measured.

        Raises:
            InputError: If the residual or the keys are not finite.
        """
        method, spectrum = self.method, self.statistics.spectrum
        residual, keys = residual.to(self.weight), keys.to(self.weight)
        priors = self._priors(keys)
        if self._filter is None:
            self._filter = self._base
            if method.relax:
                self._filter, _ = fn.relax_filter(
                    residual,
                    keys,
                    spectrum,
                    self._base,
                    self._ridge,
                    method.epsilon,
                    **priors,  # type: ignore[arg-type]
                    relative=method.relative,
                    max_rank=method.max_rank,
                    max_leakage=method.max_leakage,
                    weight=None if method.max_leakage is None else self.weight,
                )
        update = fn.solve_update(residual, keys, spectrum, self._filter, self._ridge, **priors)  # type: ignore[arg-type]
        return update, self._report(update, residual, keys, priors.get("prior_weights"))

    def _priors(self, keys: Tensor) -> dict[str, Tensor | float]:
        if self.method.prior == "none" or not self.prior_keys.shape[1]:
            return {}
        weights = (
            fn.prior_weights(self.prior_keys, keys)
            if self.method.prior == "conflict"
            else self.prior_keys.new_ones(self.prior_keys.shape[1])
        )
        return {
            "prior_keys": self.prior_keys,
            "prior_weights": weights,
            "prior_strength": self.method.prior_strength,
        }

    def _report(
        self, update: fn.LowRankUpdate, residual: Tensor, keys: Tensor, weights: Tensor | float | None
    ) -> LayerReport:
        assert self._filter is not None
        preserved = fn.conflict(keys, self.statistics.keys)
        prior = fn.conflict(keys, self.prior_keys)
        added = (self._filter != self._base) * self.statistics.spectrum.values
        numbers = torch.stack(
            [
                preserved.mean(),
                preserved.max(),
                prior.mean(),
                prior.max(),
                residual.norm(dim=0).mean(),
                (self._filter != self._base).sum().to(added),
                added.max(),
                fn.leakage(update, self.statistics.spectrum, self.weight),
                weights.norm() if isinstance(weights, Tensor) else added.new_zeros(()),
            ]
        ).tolist()  # one copy to the host
        numbers[5] = int(numbers[5])
        return LayerReport(self.layer, *numbers)

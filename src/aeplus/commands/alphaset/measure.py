"""How similar the keys of edits are: s(k, K0), s(k, Kp), and to each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.commands.stream_keys import Keys
from aeplus.preserved.facts import with_statements
from aeplus.preserved.statistics import LayerStatistics, PreservedOptions


@dataclass(frozen=True)
class Space:
    """Preserved knowledge with its second moment C, and so with a null space.

    Attributes:
        statistics: Of each layer, on the CPU.
        weight: How much a fact counts in C, as ``model.preserved.facts_weight``.
        threshold: τ of the null space.
    """

    statistics: list[LayerStatistics]
    weight: float = PreservedOptions.facts_weight
    threshold: float = 0.02

    @property
    def keys(self) -> Keys:
        """The sampled keys, those of facts last."""
        return [statistics.keys for statistics in self.statistics]

    def with_facts(self, keys: Keys) -> "Space":
        """The same with facts in C and among the keys, as ``model.preserved.facts`` puts them there."""
        return replace(self, statistics=with_statements(self.statistics, keys, self.weight))

    def free(self, keys: Keys) -> list[float]:
        """‖P k‖ / ‖k‖ of each edit, mean over the layers."""
        shares = []
        for statistics, own in zip(self.statistics, keys, strict=True):
            spectrum = statistics.to(own.device, own.dtype).spectrum
            shares.append(fn.null_share(own, spectrum, fn.null_space_filter(spectrum, self.threshold)))
        return _means(shares)


def preserved_conflict(keys: Keys, preserved: Keys) -> list[float]:
    """s(k, K0) of each edit (Eq. 3), mean over the layers."""
    layers = [fn.conflict(k, p.to(k)) for k, p in zip(keys, preserved, strict=True)]
    return _means(layers)


def prior_conflict(keys: Keys) -> list[float]:
    """s(k, Kp) of each edit with all before it, mean over the layers; 0 for the first."""
    return _means([_cosines(k).tril(-1).amax(1) for k in keys])


def conflict_among(keys: Keys) -> list[float]:
    """The largest |cos| of each key with any other of them, mean over the layers."""
    return _means([fn.nearest(k, k, own=True)[0] for k in keys])


def pair_conflict(keys: Keys, others: Keys) -> list[float]:
    """|cos| of each key with the one at the same index of ``others``, mean over the layers."""
    layers = [torch.cosine_similarity(k, o, dim=0).abs() for k, o in zip(keys, others, strict=True)]
    return _means(layers)


def chosen_keys(keys: Keys, indices: Sequence[int]) -> Keys:
    """The keys of some of the edits."""
    return [k[:, list(indices)] for k in keys]


def _cosines(keys: Tensor) -> Tensor:
    """|cos| of all pairs of keys ``[d, n]``, ``[n, n]``; each is normalized once, not once per edit as in Eq. 3."""
    unit = torch.nn.functional.normalize(keys, dim=0)
    return (unit.T @ unit).abs().clamp(max=1)


def _means(layers: list[Tensor]) -> list[float]:
    values: list[float] = torch.stack(layers).mean(0).tolist()
    return values

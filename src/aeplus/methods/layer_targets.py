"""What each layer of a batch is edited toward: the rules by which targets are learned, and their smoothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.errors import InputError
from aeplus.methods.registry import Part
from aeplus.models.sites import EditSite
from aeplus.targets.keys import KeyReader
from aeplus.targets.optimizer import Targets

if TYPE_CHECKING:
    from aeplus.methods.method import Method

Find = Callable[[int], Targets]
"""Learns targets at the output of a layer, with the model's present weights."""


def residual_threshold(norms: Tensor, method: "Method") -> Tensor:
    """``τ_r`` for a batch's ``‖r‖ [n]``: edits above it are smoothed, if the method smooths at all."""
    if method.smoothing_threshold is None:
        return fn.smoothing_threshold(norms, method.smoothing_share)
    return torch.tensor(method.smoothing_threshold, device=norms.device)


class LayerTarget:
    """What a layer is edited toward.

    Args:
        targets: The batch's targets.
        at: At which site's output they are.
        parts: Into how many parts what is lacking is divided: the layers left.
        method: The composition.
        every: Whether the targets are means over all contexts, to be compared with values behind all of them.
    """

    def __init__(self, targets: Targets, at: EditSite, parts: int, method: "Method", every: bool = False) -> None:
        self.every = every
        self.targets, self.at, self.parts, self._last = targets, at, parts, method.smoothing_steps
        self.norms = (targets.values - targets.initial).norm(dim=0)  # ‖r‖ [n]
        self._method, self._threshold = method, residual_threshold(self.norms, method)
        self.smooths = bool(method.smooth and (self.norms > self._threshold).any())

    def starting(self, values: Tensor, wanted: Tensor) -> "LayerTarget":
        """The same as seen from where the layers below have got to: that is its v0, and the rest its ``‖r‖``.

        Args:
            values: Present values where the target is, ``[o, n]``.
            wanted: The targets, but those of edits that are not made: these are where they are, ``[o, n]``.
        """
        targets = replace(self.targets, values=wanted, initial=values)
        return LayerTarget(targets, self.at, self.parts, self._method, self.every)

    def values_at(self, iteration: int) -> Tensor:
        """``v^t = v + β(t) (v0 − v)``, ``[o, n]``."""
        targets = self.targets
        if not self.smooths:
            return targets.values
        beta = fn.smoothing_coefficients(self.norms, iteration, self._last, self._threshold)
        return targets.values + beta * (targets.initial - targets.values)


Write = Callable[[int, LayerTarget], None]
"""Writes the unsmoothed edit of a site, given its index, so that targets above are learned on top of it."""


@dataclass(frozen=True)
class Learning:
    """What targets are learned with.

    Attributes:
        find: Learns targets at the output of a layer, with the model's present weights.
        write: Writes the unsmoothed edit of a site.
        reader: Runs the batch's rows through the sites.
    """

    find: Find
    write: Write
    reader: KeyReader


def shared_target(method: "Method", sites: Sequence[EditSite], learn: Learning) -> list[LayerTarget]:
    """One target, at the last site, to which every layer contributes (MEMIT)."""
    targets, count = learn.find(sites[-1].layer), len(sites)
    return [LayerTarget(targets, sites[-1], count - i, method) for i in range(count)]


def own_targets(method: "Method", sites: Sequence[EditSite], learn: Learning) -> list[LayerTarget]:
    """A target for each layer, learned when the layers below are written, that takes all of its residual (BLUE)."""
    layer_targets: list[LayerTarget] = []
    for index, site in enumerate(sites):
        layer_targets.append(LayerTarget(learn.find(site.layer), site, 1, method))
        if index < len(sites) - 1:
            learn.write(index, layer_targets[-1])
    return layer_targets


def forward_targets(method: "Method", sites: Sequence[EditSite], learn: Learning) -> list[LayerTarget]:
    """One optimization, at the first site; what its δ leads to at the others is their target (FE).

    The moved hidden state is followed through the layers behind every context, and each layer takes all of its
    residual.
    """
    if learn.reader.curved(sites):
        msg = (
            "expected layers whose MLP output is added to the stream for method.targets forward, got layers that "
            "normalize it; choose targets last or own."
        )
        raise InputError(msg)
    found = learn.find(sites[0].layer)
    delta = found.values - found.initial
    reached, initial = learn.reader.follow(delta), learn.reader.follow(torch.zeros_like(delta))
    return [
        LayerTarget(replace(found, values=values, initial=before), site, 1, method, every=True)
        for site, values, before in zip(sites, reached, initial, strict=True)
    ]


TARGETS: dict[str, Part[Callable[["Method", Sequence[EditSite], Learning], list[LayerTarget]]]] = {
    "last": Part(shared_target),
    "own": Part(own_targets, ("own_ridge",)),
    "forward": Part(forward_targets, ("own_ridge",)),
}
"""``method.targets``: the target of each site; a rule may write the sites below meanwhile."""

"""What is done to updates afterwards: batch by batch (RECT, SPHERE, REVIVE), or to all together (PRUNE)."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.functional import LowRankUpdate
from aeplus.methods.layer import solving_dtype, stored
from aeplus.methods.measured import LayerEdit
from aeplus.methods.registry import Part
from aeplus.models.sites import EditSite

if TYPE_CHECKING:
    from aeplus.methods.method import Method


@dataclass(frozen=True)
class Treatment:
    """A treatment of updates; what is ``None`` leaves them as they are.

    Attributes:
        prepare: What is found out, once, from the unedited weight ``[o, d]`` of a layer.
        each: From an update of a layer in one batch, the weight ``[o, d]`` before it and what was prepared to what
            stays of the update.
        total: From all updates of a layer, in factors or summed already ``[o, d]``, and the largest singular value of
            its unedited weight to a correction, which is added after the last batch (and after every
            ``restrain_every`` batches).
    """

    each: Callable[["Method", LowRankUpdate, Tensor, Any], LowRankUpdate] | None = None
    prepare: Callable[["Method", Tensor], Any] | None = None
    total: Callable[["Method", Sequence[LowRankUpdate | Tensor], float], LowRankUpdate] | None = None


def _sphere(method: "Method", update: LowRankUpdate, weight: Tensor, _: Any) -> LowRankUpdate:
    """Away from the main directions of the present weight's rows."""
    wide = weight.to(solving_dtype(method, weight))
    return fn.deflect(update, fn.unit_row_directions(wide, method.main_energy), method.main_strength)


def prepared(method: "Method", sites: Sequence[EditSite]) -> list[Any]:
    """What the method's treatment finds out from the unedited weights, for each site."""
    prepare = TREATMENTS[method.treatment].run.prepare
    return [None if prepare is None else prepare(method, site.weight) for site in sites]


TREATMENTS: dict[str, Part[Treatment]] = {
    "none": Part(Treatment()),
    "sparsify": Part(
        Treatment(each=lambda method, update, weight, _: fn.sparsify(update, weight, method.keep_share)),
        ("keep_share", "feedback"),
    ),
    "sphere": Part(Treatment(each=_sphere), ("main_energy", "main_strength")),
    "revive": Part(
        Treatment(
            each=lambda method, update, weight, main: fn.revive(update, *main),
            prepare=lambda method, weight: fn.leading_directions(weight, method.main_energy),
        ),
        ("main_energy",),
    ),
    "restrain": Part(
        Treatment(total=lambda method, updates, bound: fn.restrain(updates, bound, method.restrain_base)),
        ("restrain_base", "restrain_every", "feedback"),
    ),
}
"""``method.treatment``."""


def added_last(
    method: "Method", updates: Sequence[LowRankUpdate], ranks: Sequence[int], keys: Sequence[Tensor]
) -> LowRankUpdate | None:
    """What the treatment has added to the last update of a layer, ``T(Δ) − Δ``; ``None`` if nothing.

    Args:
        method: The composition; its treatment is one whose errors can be fed back.
        updates: The layer's committed updates; only the last one is looked at.
        ranks: The rank of each.
        keys: The keys of each of them, ``[d, n]``.
    """
    if not updates:
        return None
    if TREATMENTS[method.treatment].run.each is not None:
        return fn.masked_out(updates[-1])
    # An update's columns: one for each edit, what was taken back of the correction before, and its own correction.
    # Where the first two together are more than there are outputs, they are stored dense (:func:`without`).
    count, outputs = 0, len(updates[-1].left)
    for rank, own in zip(ranks, keys, strict=True):
        solved = own.shape[1] + count
        count = rank - (outputs if count and solved > outputs else solved)
    if not count:
        return None
    last = updates[-1]
    return LowRankUpdate(last.left[:, -count:], last.right[-count:])


class Restraint:
    """Corrects ``W_T − W_0``; the correction becomes part of the last batch's own update.

    Args:
        method: The composition.
        sites: The edited layers, unedited still: their largest singular values are the bounds.
        once: Where these are kept for other runs of the model: given a name and what finds them, it returns them.
    """

    def __init__(
        self,
        method: "Method",
        sites: Sequence[EditSite],
        once: Callable[[tuple[Hashable, ...], Callable[[], float]], float] = lambda _, find: find(),
    ) -> None:
        self._method, self._sites = method, {site.layer: site for site in sites}
        self._correct = TREATMENTS[method.treatment].run.total
        self._bounds: dict[int, float] = {}
        self._sums: dict[int, list[LowRankUpdate | Tensor]] = {site.layer: [] for site in sites}
        self._summed = 0  # how many batches are in them
        for site in sites if self._correct is not None else ():
            self._bounds[site.layer] = once(
                ("largest singular value", site.name), partial(fn.largest_singular_value, site.weight)
            )

    def due(self, batches: int, last: bool) -> bool:
        """Whether to correct when this many batches have been committed."""
        every = self._method.restrain_every
        return self._correct is not None and (last or bool(every and batches % every == 0))

    def restrain(self, updates: Mapping[int, Sequence[LowRankUpdate]], edits: Sequence[LayerEdit]) -> list[LayerEdit]:
        """Edits with the correction of everything committed so far and of themselves.

        Args:
            updates: By layer, the committed updates; only those that have come since the last time are looked at.
            edits: The edits of the batch under way.
        """
        batches = len(updates[edits[0].report.layer])
        for index in range(self._summed, batches):  # layers in the inner loop: a journal reads whole batches
            for layer, parts in self._sums.items():
                weight = self._sites[layer].weight
                _add(parts, updates[layer][index].to(weight.device).to(solving_dtype(self._method, weight)))
        self._summed = batches
        return [self._corrected(edit) for edit in edits]

    def _corrected(self, edit: LayerEdit) -> LayerEdit:
        assert self._correct is not None
        layer = edit.report.layer
        weight = self._sites[layer].weight
        dtype = solving_dtype(self._method, weight)
        upcast = [*self._sums[layer], edit.update.to(weight.device).to(dtype)]
        correction = stored(self._correct(self._method, upcast, self._bounds[layer]), weight)
        joined = LowRankUpdate(
            torch.cat([edit.update.left, correction.left], 1), torch.cat([edit.update.right, correction.right])
        )
        return replace(edit, update=joined)


def _add(parts: list[LowRankUpdate | Tensor], update: LowRankUpdate) -> None:
    """Adds an update to a sum in parts: as factors, or all together as one matrix once that is smaller."""
    o, d = update.left.shape[0], update.right.shape[1]
    ranks = [part.rank for part in parts if isinstance(part, LowRankUpdate)]
    if len(ranks) == len(parts) and sum(ranks) + update.rank < min(o, d):
        parts.append(update)
        return
    total = update.dense()
    for part in parts:
        total += part.dense() if isinstance(part, LowRankUpdate) else part
    parts[:] = [total]

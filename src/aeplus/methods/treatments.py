"""What is done to updates afterwards: sparsified batch by batch (RECT), or restrained all together (PRUNE)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aeplus import functional as fn
from aeplus.functional import LowRankUpdate
from aeplus.methods.layer import LayerEdit, solving_dtype, stored
from aeplus.methods.registry import Part
from aeplus.models.decoder import EditSite

if TYPE_CHECKING:
    from aeplus.methods.method import Method


@dataclass(frozen=True)
class Treatment:
    """A treatment of updates; what is ``None`` leaves them as they are.

    Attributes:
        each: From an update of a layer in one batch and the weight ``[o, d]`` before it to what stays of the update.
        total: From all updates of a layer and the largest singular value of its unedited weight to a correction, which
            is added after the last batch (and after every ``restrain_every`` batches).
    """

    each: Callable[["Method", LowRankUpdate, Tensor], LowRankUpdate] | None = None
    total: Callable[["Method", Sequence[LowRankUpdate], float], LowRankUpdate] | None = None


TREATMENTS: dict[str, Part[Treatment]] = {
    "none": Part(Treatment()),
    "sparsify": Part(
        Treatment(each=lambda method, update, weight: fn.sparsify(update, weight, method.keep_share)), ("keep_share",)
    ),
    "restrain": Part(
        Treatment(total=lambda method, updates, bound: fn.restrain(updates, bound, method.restrain_base)),
        ("restrain_base", "restrain_every"),
    ),
}
"""``method.treatment``."""


class Restraint:
    """Corrects ``W_T − W_0``; the correction becomes part of the last batch's own update.

    Args:
        method: The composition.
        sites: The edited layers, unedited still: their largest singular values are the bounds.
    """

    def __init__(self, method: "Method", sites: Sequence[EditSite]) -> None:
        self._method, self._sites = method, {site.layer: site for site in sites}
        self._correct = TREATMENTS[method.treatment].run.total
        self._bounds = {}
        for site in sites if self._correct is not None else ():
            weight = site.weight.to(torch.promote_types(site.weight.dtype, torch.float32))
            self._bounds[site.layer] = float(torch.linalg.matrix_norm(weight, 2))

    def due(self, batches: int, last: bool) -> bool:
        """Whether to correct when this many batches have been committed."""
        every = self._method.restrain_every
        return self._correct is not None and (last or bool(every and batches % every == 0))

    def restrain(self, updates: Mapping[int, Sequence[LowRankUpdate]], edits: Sequence[LayerEdit]) -> list[LayerEdit]:
        """Edits with the correction of everything committed so far and of themselves.

        Args:
            updates: By layer, the committed updates.
            edits: The edits of the batch under way.
        """
        return [self._corrected(updates[edit.report.layer], edit) for edit in edits]

    def _corrected(self, updates: Sequence[LowRankUpdate], edit: LayerEdit) -> LayerEdit:
        assert self._correct is not None
        layer = edit.report.layer
        weight = self._sites[layer].weight
        dtype = solving_dtype(self._method, weight)
        upcast = [update.to(weight.device).to(dtype) for update in (*updates, edit.update)]
        correction = stored(self._correct(self._method, upcast, self._bounds[layer]), weight)
        joined = LowRankUpdate(
            torch.cat([edit.update.left, correction.left], 1), torch.cat([edit.update.right, correction.right])
        )
        return replace(edit, update=joined)

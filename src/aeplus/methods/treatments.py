"""PRUNE's restraint: the singular values of all edits together are brought down."""

from dataclasses import replace

import torch

from aeplus import functional as fn
from aeplus.methods.batch import Candidate
from aeplus.methods.layer import LayerEdit, stored, working_dtype
from aeplus.methods.method import Method
from aeplus.models.decoder import EditSite
from aeplus.run.journal import Journal


class Restraint:
    """Restrains ``W_T − W_0``, by a correction that becomes part of the batch's own update.

    Args:
        method: The composition.
        sites: The edited layers, unedited still: their largest singular values are the bounds.
    """

    def __init__(self, method: Method, sites: list[EditSite]) -> None:
        self._method = method
        self._sites = {site.layer: site for site in sites}
        self._bounds = {}
        if method.treatment == "restrain":
            for site in sites:
                weight = site.weight.to(torch.promote_types(site.weight.dtype, torch.float32))
                self._bounds[site.layer] = float(torch.linalg.matrix_norm(weight, 2))

    def due(self, batches: int, last: bool) -> bool:
        """Whether to restrain when so many batches have been committed."""
        every = self._method.restrain_every
        return bool(self._bounds) and (last or bool(every and batches % every == 0))

    def restrain(self, journal: Journal, candidate: Candidate) -> Candidate:
        """The candidate with the correction of everything committed so far and itself."""
        return replace(candidate, layers=[self._restrained(journal, edit) for edit in candidate.layers])

    def _restrained(self, journal: Journal, edit: LayerEdit) -> LayerEdit:
        layer = edit.report.layer
        weight = self._sites[layer].weight
        dtype = working_dtype(self._method, weight)
        updates = [*(entry.updates[layer] for entry in journal.entries), edit.update]
        wide = [update.to(weight.device).to(dtype) for update in updates]
        correction = stored(fn.restrain(wide, self._bounds[layer], self._method.restrain_base), weight)
        joined = fn.LowRankUpdate(
            torch.cat([edit.update.left, correction.left], 1), torch.cat([edit.update.right, correction.right])
        )
        return replace(edit, update=joined)

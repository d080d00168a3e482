"""The journal of edits: what was committed, batch after batch, as factors and keys rather than as a model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate
from aeplus.models.decoder import EditSite
from aeplus.preserved.statistics import LayerStatistics, energy_of


@dataclass
class Entry:
    """One committed batch.

    Attributes:
        edits: The requests, as plain values.
        updates: The update of each edited layer, by layer.
        keys: The keys of each edited layer, ``[d, n]``, as they were when the edit was made. (The layers are
            edited upwards, so reading them again after the batch gives the same keys, unless RECT or PRUNE has
            changed the layers below since.)
        report: What was measured.
    """

    edits: list[dict[str, Any]]
    updates: dict[int, LowRankUpdate]
    keys: dict[int, Tensor]
    report: dict[str, Any]


@dataclass
class Journal:
    """All committed batches of a run, in order."""

    entries: list[Entry] = field(default_factory=list)

    def keys(self, site: EditSite) -> list[Tensor]:
        """The keys of each batch at a site, ``[d, n]`` each."""
        return [entry.keys[site.layer] for entry in self.entries]

    def updates(self, site: EditSite) -> list[LowRankUpdate]:
        """The update of each batch at a site."""
        return [entry.updates[site.layer] for entry in self.entries]

    def total(self, site: EditSite) -> Tensor | None:
        """The sum of all updates of a site, ``[o, d]``; ``None`` if nothing was edited."""
        device = site.weight.device
        total: Tensor | None = None
        for entry in self.entries:
            update = entry.updates[site.layer].to(device).dense()
            total = update if total is None else total.add_(update)
        return total

    @torch.no_grad()
    def apply(self, sites: list[EditSite]) -> None:
        """Adds every committed update, in the order of the run, so that rounding is the same too."""
        for entry in self.entries:
            for site in sites:
                site.add(entry.updates[site.layer])

    def tensors(self) -> dict[str, Tensor]:
        """Everything large, under flat names, for a checkpoint; masks have a bit per entry."""
        tensors: dict[str, Tensor] = {}
        for b, entry in enumerate(self.entries):
            for layer, update in entry.updates.items():
                parts = {"left": update.left, "right": update.right, "keys": entry.keys[layer]}
                if update.mask is not None:
                    parts["mask"] = torch.from_numpy(numpy.packbits(update.mask.cpu().numpy()))
                tensors |= {f"batch_{b}.layer_{layer}.{name}": tensor.cpu() for name, tensor in parts.items()}
        return tensors

    def notes(self) -> list[dict[str, Any]]:
        """Everything small, as plain values, for a checkpoint."""
        return [{"edits": e.edits, "report": e.report, "layers": list(e.updates)} for e in self.entries]

    @classmethod
    def restore(cls, notes: list[dict[str, Any]], tensors: dict[str, Tensor]) -> "Journal":
        """The journal that :meth:`notes` and :meth:`tensors` came from.

        Raises:
            InputError: If a tensor is missing.
        """
        entries = []
        for b, note in enumerate(notes):
            try:
                updates = {layer: _update(tensors, f"batch_{b}.layer_{layer}") for layer in note["layers"]}
                keys = {layer: tensors[f"batch_{b}.layer_{layer}.keys"] for layer in note["layers"]}
            except KeyError as error:
                msg = (
                    f"expected a whole checkpoint, got one without {error.args[0]!r}; start again or take an older one."
                )
                raise InputError(msg) from error
            entries.append(Entry(note["edits"], updates, keys, note["report"]))
        return cls(entries)


def _update(tensors: dict[str, Tensor], name: str) -> LowRankUpdate:
    left, right, packed = tensors[f"{name}.left"], tensors[f"{name}.right"], tensors.get(f"{name}.mask")
    if packed is None:
        return LowRankUpdate(left, right)
    shape = (left.shape[0], right.shape[1])
    bits = numpy.unpackbits(packed.numpy(), count=shape[0] * shape[1]).reshape(shape)
    return LowRankUpdate(left, right, torch.from_numpy(bits.astype(bool)))


def plain_edit(request: EditRequest) -> dict[str, Any]:
    """A request as plain values (``asdict`` keeps tuples, which a checkpoint need not know)."""
    values = asdict(request)
    values["rephrase"] = list(values["rephrase"])
    values["neighborhood"] = [dict(probe) for probe in values["neighborhood"]]
    return values


class LeakageMeter:
    """Measures ``tr(Δ C Δᵀ) / tr(W C Wᵀ)``, ``Δ`` the sum of all updates of a layer, ``W`` its unedited weight.

    Args:
        sites: The edited layers, unedited still.
        statistics: Preserved knowledge of each.
    """

    def __init__(self, sites: Sequence[EditSite], statistics: Sequence[LayerStatistics]) -> None:
        self._layers = [(s, stats, energy_of(stats, s.weight)) for s, stats in zip(sites, statistics, strict=True)]

    def measure(self, journal: Journal) -> float | None:
        """The mean over the layers; ``None`` if nothing was edited."""
        shares = []
        for site, statistics, energy in self._layers:
            if (total := journal.total(site)) is not None:
                shares.append(energy_of(statistics, total) / energy)
        return sum(shares) / len(shares) if shares else None

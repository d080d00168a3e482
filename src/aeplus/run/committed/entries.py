"""Committed batches, as factors and keys rather than as a model: in memory, and as tensors for a file.

What a journal holds is not held in memory too: :class:`Recorded` updates are read back when something needs them. Those
of a run without a journal stay, in the CPU's memory, their masks in bits.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, overload

import numpy
import torch
from torch import Tensor

from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate
from aeplus.methods.earlier import EarlierKeys
from aeplus.methods.measured import LayerEdit
from aeplus.models.sites import EditSite


class Recorded(Mapping[int, LowRankUpdate]):
    """The updates of a batch that is kept elsewhere, by layer; each use reads them.

    Args:
        ranks: The rank of each layer's update.
        read: Reads the batch.
    """

    def __init__(self, ranks: Mapping[int, int], read: Callable[[], "Entry"]) -> None:
        self.ranks, self._read = dict(ranks), read

    def __getitem__(self, layer: int) -> LowRankUpdate:
        return self._read().updates[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.ranks)

    def __len__(self) -> int:
        return len(self.ranks)


class Packed(Mapping[int, LowRankUpdate]):
    """The updates of a batch in the CPU's memory, by layer, with a bit for each entry of a mask rather than a byte.

    Args:
        updates: The updates.
    """

    def __init__(self, updates: Mapping[int, LowRankUpdate]) -> None:
        self._plain = {layer: LowRankUpdate(u.left.cpu(), u.right.cpu()) for layer, u in updates.items()}
        self._bits = {layer: _packed(update.mask) for layer, update in updates.items() if update.mask is not None}

    def __getitem__(self, layer: int) -> LowRankUpdate:
        update = self._plain[layer]
        mask = _unpacked(self._bits.get(layer), update.left.shape[0], update.right.shape[1])
        return update if mask is None else replace(update, mask=mask)

    def __iter__(self) -> Iterator[int]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)


@dataclass(frozen=True)
class Entry:
    """One committed batch.

    Attributes:
        edits: The requests, as plain values (:func:`plain_edit`).
        updates: The update of each edited layer, by layer.
        keys: The keys of each edited layer, ``[d, n]``, as they were when the edit was made. (The layers are
            edited upwards, so reading them again after the batch gives the same keys, unless RECT or PRUNE has
            changed the layers below since.)
        report: What was measured.
    """

    edits: list[dict[str, Any]]
    updates: Mapping[int, LowRankUpdate]
    keys: dict[int, Tensor]
    report: dict[str, Any]

    @classmethod
    def of(cls, requests: Sequence[EditRequest], layers: Sequence[LayerEdit], report: dict[str, Any]) -> "Entry":
        """The entry of a batch, from its edits and the edit of each layer."""
        updates, keys = ({edit.report.layer: getattr(edit, what) for edit in layers} for what in ("update", "keys"))
        return cls([plain_edit(request) for request in requests], updates, keys, report)

    @property
    def ranks(self) -> dict[int, int]:
        """The rank of each layer's update; nothing is read for it."""
        if isinstance(self.updates, Recorded):
            return self.updates.ranks
        return {layer: update.rank for layer, update in self.updates.items()}

    def recorded(self, read: Callable[[], "Entry"]) -> "Entry":
        """The same without its updates in memory.

        Args:
            read: Reads it from where it is kept.
        """
        return replace(self, updates=Recorded(self.ranks, read))

    def packed(self) -> "Entry":
        """The same in the CPU's memory, with masks in bits."""
        return self if isinstance(self.updates, Recorded | Packed) else replace(self, updates=Packed(self.updates))

    @property
    def separable(self) -> bool:
        """Whether one edit can be taken out: every edit has a column of its own in each update, which has no other.

        PRUNE's correction of the sum has further ones, which depend on all edits.
        """
        count = len(self.edits)
        by_edit = all(rank == count for rank in self.ranks.values())
        return by_edit and all(keys.shape[1] == count for keys in self.keys.values())

    def without(self, dropped: Collection[int]) -> "Entry":
        """The batch without some of its edits.

        Args:
            dropped: Their indices in the batch.
        """
        edits = [index for index in range(len(self.edits)) if index not in dropped]
        return replace(
            self,
            edits=[self.edits[index] for index in edits],
            updates={layer: _columns(update, dropped) for layer, update in self.updates.items()},
            keys={layer: keys[:, edits] for layer, keys in self.keys.items()},
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything large, where it lies, under flat names such as ``layer_4.left``; masks have a bit per entry."""
        tensors: dict[str, Tensor] = {}
        for layer, update in self.updates.items():
            parts = {"left": update.left, "right": update.right, "keys": self.keys[layer]}
            if update.mask is not None:
                parts["mask"] = _packed(update.mask)
            tensors |= {f"layer_{layer}.{name}": tensor.detach() for name, tensor in parts.items()}
        return tensors

    @classmethod
    def restore(
        cls, edits: list[dict[str, Any]], layers: Sequence[int], report: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> "Entry":
        """The entry that :meth:`tensors` came from.

        Raises:
            InputError: If a tensor is missing, or has another shape than the others.
        """
        updates, keys = {}, {}
        for layer in layers:
            name = f"layer_{layer}"
            try:
                left, right, keys[layer] = (tensors[f"{name}.{part}"] for part in ("left", "right", "keys"))
            except KeyError as error:
                msg = f"expected a whole entry of a journal, got one without {error.args[0]!r}; restore a copy of it."
                raise InputError(msg) from error
            packed = tensors.get(f"{name}.mask")
            mask_fits = packed is None or packed.numel() == -(-left.shape[0] * right.shape[-1] // 8)
            if left.shape[-1] != right.shape[0] or keys[layer].shape[0] != right.shape[-1] or not mask_fits:
                msg = f"expected factors that fit each other in a journal, got others at layer {layer}; restore a copy."
                raise InputError(msg)
            updates[layer] = LowRankUpdate(left, right, _unpacked(packed, left.shape[0], right.shape[1]))
        return cls(edits, updates, keys, report)


class Entries(list[Entry]):
    """The committed batches of a run, in order. Batches are added at the end only."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        super().__init__(entries)
        self._keys: dict[int, EarlierKeys] = {}

    def keys(self, site: EditSite) -> EarlierKeys:
        """The keys of each batch at a site, ``[d, n]`` each, where its weight is; they are then kept there only."""
        layer, device = site.layer, site.weight.device
        if layer not in self._keys or self._keys[layer].device != device:
            self._keys[layer] = EarlierKeys(device=device)
        earlier = self._keys[layer]
        for index in range(len(earlier), len(self)):
            earlier.append(self[index].keys[layer])
            self[index] = replace(self[index], keys={**self[index].keys, layer: earlier[index]})
        return earlier

    def release(self) -> None:
        """Lets go of what editing needed beside the keys."""
        for earlier in self._keys.values():
            earlier.forget()

    def updates(self, site: EditSite) -> "Updates":
        """The update of each batch at a site, read one at a time where they are not in memory."""
        return Updates(self, site.layer)

    def totals(self, sites: Sequence[EditSite]) -> list[Tensor]:
        """The sum of all updates of each site, ``[o, d]``; none if nothing was edited. Each batch is read once."""
        totals: list[Tensor] = []
        for entry in self:
            updates = [entry.updates[site.layer].to(site.weight.device).dense() for site in sites]
            totals = [total.add_(update) for total, update in zip(totals, updates, strict=True)] if totals else updates
        return totals

    @torch.no_grad()
    def apply(self, sites: Sequence[EditSite]) -> None:
        """Adds every committed update, in the order of the run, so that rounding is the same too."""
        for entry in self:
            for site in sites:
                site.add(entry.updates[site.layer])


class Updates(Sequence[LowRankUpdate]):
    """The updates of one layer.

    Args:
        entries: The batches.
        layer: Its index.
    """

    def __init__(self, entries: Sequence[Entry], layer: int) -> None:
        self._entries, self._layer = entries, layer

    @overload
    def __getitem__(self, index: int) -> LowRankUpdate: ...

    @overload
    def __getitem__(self, index: slice) -> "Updates": ...

    def __getitem__(self, index: int | slice) -> "LowRankUpdate | Updates":
        if isinstance(index, slice):
            return Updates(self._entries[index], self._layer)
        return self._entries[index].updates[self._layer]

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ranks(self) -> list[int]:
        """The rank of each; nothing is read for it."""
        return [entry.ranks[self._layer] for entry in self._entries]


def plain_edit(request: EditRequest) -> dict[str, Any]:
    """A request as plain values, such as JSON can hold: lists, no tuples."""
    return {name: _plain(value) for name, value in asdict(request).items()}


def request_from(edit: Mapping[str, Any]) -> EditRequest:
    """The request that :func:`plain_edit` was made from."""
    values = dict(edit)
    for name in ("neighborhood", "axes"):
        values[name] = [Probe(**_tupled(probe)) for probe in values.get(name, ())]
    values["turns"] = [tuple(turn) for turn in values.get("turns", ())]
    return EditRequest(**_tupled(values))


def _tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _as_tuple(value) for name, value in values.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _columns(update: LowRankUpdate, dropped: Collection[int]) -> LowRankUpdate:
    kept = [column for column in range(update.rank) if column not in dropped]
    return LowRankUpdate(update.left[:, kept], update.right[kept], update.mask)


def _packed(mask: Tensor) -> Tensor:
    return torch.from_numpy(numpy.packbits(mask.cpu().numpy()))


def _unpacked(packed: Tensor | None, rows: int, columns: int) -> Tensor | None:
    if packed is None:
        return None
    bits = numpy.unpackbits(packed.numpy(), count=rows * columns).reshape(rows, columns)
    return torch.from_numpy(bits.astype(bool))

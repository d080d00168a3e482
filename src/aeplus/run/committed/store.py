"""What a run writes its committed batches to, and which of a journal's batches make the edited model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from aeplus.errors import InputError
from aeplus.models.loading import LOADING
from aeplus.models.sites import EditSite
from aeplus.run.committed.chain import HEADER, Chain, Record
from aeplus.run.committed.entries import Entries, Entry
from aeplus.utils.fingerprint import tensors_digest
from aeplus.utils.paths import expanded
from aeplus.utils.yaml_files import read_yaml


def weights_digests(sites: Sequence[EditSite]) -> dict[str, str]:
    """The digest of each edited weight, by its name."""
    return {site.name: tensors_digest({site.name: site.weight}) for site in sites}


def header_of(sites: Sequence[EditSite], fingerprint: str, settings: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The header of a new journal.

    Args:
        sites: The edited layers, unedited still.
        fingerprint: That of the unedited model.
        settings: The settings of :class:`~aeplus.module.EditModule`: how it is loaded, ``edited_dtype`` and ``site``.
        dtype: The dtype that the model was edited in, as ``model.dtype`` says it.
    """
    return {
        "model": {name: settings.get(name) for name in LOADING} | {"dtype": dtype},
        "edited_dtype": settings["edited_dtype"],
        "site": settings.get("site"),
        "layers": [site.layer for site in sites],
        "fingerprint": fingerprint,
        "weights": weights_digests(sites),
        "shapes": {site.name: list(site.weight.shape) for site in sites},
    }


class ReadOnlyStore:
    """What a journal holds; :class:`~aeplus.journal.Journal` adds what one does with it.

    Args:
        chain: Its records on disk.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    @classmethod
    def open(cls, path: str | Path) -> "Self":
        """The journal of a folder, or of a run's folder.

        Raises:
            InputError: If there is none, or one of its records is damaged; the message names the first.
        """
        folder = expanded(path)
        inner = folder / "journal"
        place = inner if not (folder / HEADER).exists() and inner.is_dir() else folder
        if not (place / HEADER).is_file() and (elsewhere := _journal_of_run(folder)) is not None:
            msg = f"expected a journal in {folder}, got the folder of a run whose journal is {elsewhere}; give that."
            raise InputError(msg)
        return cls(Chain.open(place))

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.chain.folder

    # ---- what is in it

    @property
    def active(self) -> list[tuple[Record, frozenset[int]]]:
        """The batches that make the edited model, in order, each with the indices of its edits that were taken out."""
        active: dict[int, frozenset[int]] = {}
        for record in self.chain.records:
            if record.kind == "batch":
                active[record.number] = frozenset()
            elif record.kind == "undo":
                for name, edits in record.content["takes"].items():
                    active[int(name)] |= set(edits)
                    if len(active[int(name)]) == len(self.chain.records[int(name) - 1].content["edits"]):
                        del active[int(name)]
                active |= {number: frozenset() for number in record.content["by"]}
        return [(self.chain.records[number - 1], dropped) for number, dropped in active.items()]

    def entries(self) -> Entries:
        """The active batches, read and checked; their updates are not kept, but read again when they are needed.

        Raises:
            InputError: If one is damaged.
        """
        return Entries(self._entry(record, dropped) for record, dropped in self.active)

    def _entry(self, record: Record, dropped: frozenset[int]) -> Entry:
        def read() -> Entry:
            entry = self.chain.entry(record)
            return entry.without(dropped) if dropped else entry

        return read().recorded(read)

    def record(self, number: int) -> Record:
        """A record by its number, from 1.

        Raises:
            InputError: If there is no such record.
        """
        count = len(self.chain.records)
        if not 1 <= number <= count:
            msg = f"expected an entry from 1 to {count} of the journal, got {number}; aeplus log lists them."
            raise InputError(msg)
        return self.chain.records[number - 1]

    @property
    def weights(self) -> dict[str, str]:
        """The digests of the edited weights, by their names, as they were after the last record."""
        last = next((record for record in reversed(self.chain.records) if record.kind != "replayed"), None)
        return dict(last.content["weights"]["after"] if last is not None else self.chain.header["weights"])


class Store(ReadOnlyStore):
    """The journal that a run writes: whoever has its lock, and the model that it is of."""

    @classmethod
    def create(cls, folder: Path, header: dict[str, Any]) -> "Self":
        """An empty journal in a new folder; see :func:`header_of`.

        Raises:
            InputError: If a journal is there already, or the folder cannot be written.
        """
        return cls(Chain.create(folder, header))

    def kept(self, record: Record, entry: Entry) -> Entry:
        """A batch that has been written, without its updates in memory."""
        return entry.recorded(lambda: self.chain.entry(record))

    def append(
        self, entry: Entry, settings: Mapping[str, Any], after: Mapping[str, str], run: str | None = None
    ) -> Record:
        """Writes a committed batch.

        Args:
            entry: The batch.
            settings: The hyperparameters that it was made with.
            after: The digests of the edited weights, which contain it.
            run: What the run is called that made it.

        Raises:
            InputError: If it cannot be written; the journal is then as before.
        """
        weights = {"before": self.weights, "after": dict(after)}
        return self.chain.append("batch", {"settings": dict(settings), "weights": weights, "run": run}, entry)

    def leave_out(self, numbers: Sequence[int]) -> None:
        """Takes out some batches, the last that count; those that do not count any more are left.

        Args:
            numbers: Their records.

        Raises:
            InputError: If later ones count, or those before have changed since, or it cannot be written.
        """
        counted = [record.number for record, _ in self.active]
        own = [number for number in counted if number in numbers]
        if not own:
            return
        later = [number for number in counted[counted.index(own[0]) :] if number not in numbers]
        undone = [record for record in self.chain.records[own[0] :] if record.kind == "undo"]
        later += [record.number for record in undone if min(map(int, record.content["takes"])) < own[0]]
        if later:
            msg = (
                f"expected the last entries of the journal {self.folder} to be undone, got entry {later[0]} after "
                "them; use aeplus undo, which can take out any."
            )
            raise InputError(msg)
        self.leave_out_last(len(own))

    def leave_out_last(self, batches: int) -> None:
        """Takes out the last batches, whose edits are not in the model any more.

        Args:
            batches: How many.

        Raises:
            InputError: If it cannot be written.
        """
        later = [record for record, _ in self.active][len(self.active) - batches :]
        if later:
            takes = {str(record.number): list(range(len(record.content["edits"]))) for record in later}
            weights = {"before": self.weights, "after": later[0].content["weights"]["before"]}
            content = {"mode": "subtract", "takes": takes, "by": [], "weights": weights}
            self.chain.append("undo", content | {"count": sum(map(len, takes.values()))})


def _journal_of_run(folder: Path) -> str | None:
    """The journal that a run's config names, if there is such a config."""
    try:
        named = read_yaml(folder / "config.yaml", "a run's config")["model"]["journal"]
    except (InputError, KeyError, TypeError):
        return None
    return named if isinstance(named, str) else None

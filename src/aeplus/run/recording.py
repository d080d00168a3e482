"""A run's journal as it is written: every batch that is committed, before anything else hears of it."""

import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast, get_args

from aeplus.errors import InputError
from aeplus.models.loading import DType
from aeplus.models.sites import EditSite
from aeplus.run.committed.chain import HEADER, Chain, Record
from aeplus.run.committed.entries import Entry
from aeplus.run.committed.store import Store, header_of, weights_digests
from aeplus.run.resume import Resume
from aeplus.run.unedited import UneditedModel
from aeplus.utils.paths import locked
from aeplus.utils.ranks import Ranks


class Recording:
    """Writes a run's batches to a journal, while :meth:`keep` lasts.

    Of several processes that make the run together one writes; the others read from the same file system.

    Args:
        unedited: The model as it was.
        sites: The edited layers.
        ranks: The processes; by default there is no other.

    Attributes:
        journal: Where batches are written; ``None`` where they are not.
        numbers: The numbers that this run's batches have in it.
        folder: Where the journal is, also when it is not written any more; ``None`` where none was kept.
        run: What this run's batches are called by in it; a run that goes on from a checkpoint has the name of the one
            that wrote it.
    """

    def __init__(self, unedited: UneditedModel, sites: Sequence[EditSite], ranks: Ranks | None = None) -> None:
        self._unedited, self._sites, self._ranks = unedited, sites, ranks or Ranks()
        self.journal: Store | None = None
        self.numbers: list[int] = []
        self._settings: dict[str, Any] = {}
        self.folder: Path | None = None
        self.run = uuid.uuid4().hex

    @contextmanager
    def keep(self, folder: Path, settings: dict[str, Any], resume: Resume | None = None) -> Iterator[None]:
        """Writes what is committed in the block.

        Args:
            folder: The journal's folder: a new one, or the one whose edits were resumed.
            settings: The settings of the module (``model``) and of the data (``data``).
            resume: Where the edits committed already come from.

        Raises:
            InputError: If the folder has a journal of other edits, is in use, or cannot be written.
        """
        if resume is not None and resume.run is not None:
            self.run = resume.run
        with locked(folder, "the journal") if self._ranks.leads else nullcontext():
            chain = self._opened(folder, settings, resume).chain if self._ranks.leads else Chain(folder, {})
            header, records = self._ranks.first((chain.header, chain.records))
            self.journal = Store(chain if self._ranks.leads else Chain(folder, header, records))
            if resume is not None and resume.journal.folder.resolve() != folder.resolve():
                resume.move(folder)
            self._settings = settings
            self.folder = folder
            try:
                yield
            finally:
                self.journal = None

    def _opened(self, folder: Path, settings: dict[str, Any], resume: Resume | None) -> Store:
        """The journal that the run's batches come into."""
        if resume is None:
            model = settings["model"]
            header = header_of(self._sites, self._unedited.fingerprint, model, self._dtype(model))
            return Store.create(folder, header)
        source = resume.journal
        if source.folder.resolve() == folder.resolve():
            if Chain.open(folder).head != source.chain.head:  # before it was locked
                msg = f"expected the journal {folder} as it was read, got entries of another run in it; start again."
                raise InputError(msg)
            source.leave_out_last(len(resume.left_behind(folder)))
            return source
        return Store(source.chain.copy(folder, resume.records))

    def append(self, entry: Entry) -> Entry:
        """Writes a batch that the model holds already, if a journal is kept.

        Returns:
            The batch to keep in memory: without what the journal holds.
        """
        if self.journal is None:
            return entry
        leads = self._ranks.leads
        after = weights_digests(self._sites) if leads else {}
        written = self.journal.append(entry, self._settings, after, self.run) if leads else None
        record = cast("Record", self._ranks.first(written))
        if not leads:
            self.journal.chain.records.append(record)
        self.numbers.append(record.number)
        return self.journal.kept(record, entry)

    def forget(self) -> None:
        """Takes what this run has written out of the journal, as one more entry of it.

        If that cannot be written, a warning says what is left.
        """
        if self.folder is None:
            return
        folder, self.folder = self.folder, None
        try:
            with locked(folder, "the journal"):
                store = Store.open(folder)
                store.leave_out(self.numbers)  # and nothing that another run has added since
                if not store.chain.records:  # it has nothing, and would ask for the same layers
                    (folder / HEADER).unlink()
        except InputError as error:
            message = (
                f"the journal {folder} still counts entries {', '.join(map(str, self.numbers))}, which the model does "
                f"not have any more ({error}); take them out by aeplus undo"
            )
            warnings.warn(message, stacklevel=2)

    def _dtype(self, settings: dict[str, Any]) -> str:
        """How to load the model again as it is: the checkpoint's dtype need not be that of a loaded model."""
        present = self._unedited.dtype
        return present if present in get_args(DType) else str(settings["dtype"])

"""What an edit from Python did, and the way back."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

from aeplus.api.arguments import alone
from aeplus.errors import InputError
from aeplus.functional import LowRankUpdate
from aeplus.metrics.success import SCORES
from aeplus.models.sites import Snapshot
from aeplus.run.committed.chain import HEADER
from aeplus.run.committed.store import Store
from aeplus.utils.paths import locked
from aeplus.utils.signals import uninterrupted
from aeplus.utils.tables import counted, shown


@dataclass(repr=False)
class EditResult:
    """What an edit did. Edits of one model are undone last to first.

    Attributes:
        metrics: The contents of ``metrics.json``: before, after, and every batch.
        updates: For each batch of the call, the update of each edited layer as factors.
    """

    metrics: dict[str, Any]
    updates: list[Mapping[int, LowRankUpdate]]
    _snapshot: Snapshot
    _standing: list[object] = field(default_factory=list)  # the model's edits that are not undone, in order
    _mark: object = field(default_factory=object)
    _model: "ref[Any] | None" = None
    _journal: tuple[Path, list[int]] | None = None  # and what the call has written to it

    def __repr__(self) -> str:
        """Its edits, the method and the scores; all else is a page."""
        report = self.metrics
        scores = ", ".join(
            f"{name} {shown(report['before'][name])} → {shown(report['after'][name])} %" for name in SCORES
        )
        return f"EditResult({counted(report['edits_done'], 'edit')} by {report['method']}: {scores})"

    def undo(self) -> None:
        """Gives the edited layers the weights they had before the call, bit for bit; a second time, does nothing.

        The batches of the call are taken out of its journal, if it had one.

        Raises:
            InputError: If later edits of the model are not undone yet: they would be lost with these. If it is being
                edited. Or if the journal cannot be written.
        """
        model = self._model() if self._model is not None else None
        with alone(model) if model is not None else nullcontext():
            self._undo()

    def _undo(self) -> None:
        if self._mark not in self._standing:
            return
        if later := len(self._standing) - 1 - self._standing.index(self._mark):
            msg = (
                f"expected the last edits of the model to be undone first, got those before {later} later calls of "
                "aeplus.edit; call undo() of the later results first, last to first."
            )
            raise InputError(msg)
        self._snapshot.check()
        if self._journal is not None:
            folder, numbers = self._journal
            if not (folder / HEADER).is_file():
                msg = f"expected the call's journal in {folder}, got none; put it back, or load the model anew."
                raise InputError(msg)
            with locked(folder, "the journal"):
                Store.open(folder).leave_out(numbers)
        with uninterrupted():
            self._snapshot.restore()
            self._standing.remove(self._mark)


STANDING: "WeakKeyDictionary[Any, list[object]]" = WeakKeyDictionary()
"""Of each model the edits that are not undone, in order."""

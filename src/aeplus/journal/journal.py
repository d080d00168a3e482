"""The journal of a model's edits, for those who keep one: what was edited, is it whole, apply it, take edits out.

journal = aeplus.Journal.open("lightning_logs/edits/version_0")
for line in journal.log():
    print(line.number, line.time, line.edits, line.score)
journal.apply(model)                 # a fresh copy of the base model becomes the edited one
journal.undo(3, model=base, tokenizer=tokenizer)
"""

from dataclasses import dataclass
from typing import Any

from aeplus.journal.base import BaseModel
from aeplus.journal.undo import Mode, Undone, undo
from aeplus.run.committed.chain import Chain
from aeplus.run.committed.store import ReadOnlyStore, weights_digests
from aeplus.utils.paths import locked


@dataclass(frozen=True)
class LogLine:
    """A record of a journal as :meth:`Journal.log` shows it.

    Attributes:
        number: Its number, from 1.
        time: When it was written (UTC, ISO 8601).
        kind: ``batch``, ``undo`` or ``replayed`` (a batch solved again by an undo).
        method: Name of the method; empty for an undo.
        edits: The edits it made, or took out.
        active: How many of them are in the model now; of an undo, 0.
        score: Score on the validation set, in percent, when it was made; ``None`` where there was no validation.
        bytes: What it takes on the disk.
    """

    number: int
    time: str
    kind: str
    method: str
    edits: int
    active: int
    score: float | None
    bytes: int


class Journal(ReadOnlyStore):
    """All edits of a model, in the order they were made. ``base model + journal = edited model``.

    What is asked of it is what the folder holds then: a call that has written to it meanwhile counts.

    Args:
        chain: Its records on disk.
    """

    def log(self) -> list[LogLine]:
        """A line for every record, in order."""
        self._read_again()
        active = {record.number: len(record.content["edits"]) - len(dropped) for record, dropped in self.active}
        lines = []
        for record in self.chain.records:
            content = record.content
            made = len(content.get("edits", ()))
            lines.append(
                LogLine(
                    record.number,
                    content["time"],
                    record.kind,
                    content["settings"]["model"]["method"]["name"] if made else "",
                    made if record.kind != "undo" else content["count"],
                    active.get(record.number, 0),
                    content.get("report", {}).get("validation_score"),
                    self.chain.bytes(record),
                )
            )
        return lines

    def show(self, number: int) -> dict[str, Any]:
        """Everything small that a record says: its edits, settings, measurements and digests, as plain values.

        Raises:
            InputError: If there is no such record.
        """
        self._read_again()
        return dict(self.record(number).content)

    # ---- whole, and of this model

    def verify(self, model: Any = None) -> None:
        """Reads everything and checks it; with the base model, that too.

        Raises:
            InputError: If a record is damaged (the message names the first), or the model is another.
        """
        self._read_again()
        for record in self.chain.records:
            if record.kind != "undo":
                self.chain.entry(record)
        if model is not None:
            with BaseModel(self.chain, model):
                pass

    def apply(self, model: Any) -> bool:
        """Makes a fresh copy of the base model the edited one, in place. Nothing is computed anew.

        Args:
            model: The base model, unedited.

        Returns:
            Whether the edited weights are those recorded, bit for bit. Another device, or another library of matrix
            products, may round the last bit otherwise.

        Raises:
            InputError: If the model is another, or the journal is damaged; the model is then as before.
        """
        self._read_again()
        entries = self.entries()
        with BaseModel(self.chain, model) as base:
            entries.apply(base.sites)
            base.keep()
        return weights_digests(base.sites) == self.weights

    def undo(
        self,
        first: int,
        last: int | None = None,
        *,
        edit: int | None = None,
        mode: Mode = "subtract",
        model: Any,
        tokenizer: Any,
    ) -> Undone:
        """Takes a batch, a range of batches or one edit out of the journal, and measures what that did to the others.

        Args:
            first: The batch, as :meth:`log` numbers it.
            last: The last one of a range.
            edit: One edit of the batch, from 1, rather than all of it.
            mode: ``subtract`` takes exactly its update out, and leaves all others as they are. ``replay`` solves the
                later batches again, as if it had never been made.
            model: The base model, unedited; afterwards it is the edited one without what was taken out.
            tokenizer: Its tokenizer.

        Raises:
            InputError: If there is no such edit in the model, it cannot be taken out alone, the model is another, or
                the journal is damaged or in use; the journal and the model are then as before.
        """
        with locked(self.folder, "the journal"):
            self._read_again()
            return undo(self, range(first, (first if last is None else last) + 1), edit, mode, model, tokenizer)

    def _read_again(self) -> None:
        self.chain = Chain.open(self.folder)

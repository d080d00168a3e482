"""Going on with a run: the edits of a checkpoint or a journal wait until the unedited model has been measured."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aeplus.edits import EditRequest
from aeplus.errors import InputError
from aeplus.run.committed.chain import HEADER, Record
from aeplus.run.committed.entries import Entries, request_from
from aeplus.run.committed.store import Store
from aeplus.utils.fingerprint import tensors_digest
from aeplus.utils.tables import counted

NOTES = "aeplus"
"""Where a checkpoint holds what identifies its run."""

_SEALED = (NOTES, "state_dict", "loops", "global_step", "epoch", "optimizer_states", "lr_schedulers")


def read_checkpoint(path: Path) -> Any:
    """The content of a checkpoint of Lightning; no pickle in it is executed.

    Raises:
        InputError: If there is no such file, or it cannot be read.
    """
    if not path.is_file():
        msg = f"expected a checkpoint at {path}, got no such file; give one from lightning_logs/…/checkpoints."
        raise InputError(msg)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        msg = f"expected an aeplus checkpoint at {path}, got a file that cannot be read; take another."
        raise InputError(msg) from error


class Resume:
    """The edits that a run goes on from.

    Args:
        journal: Where they are.
        records: How many of its records count; by default all.
        run: What the run is called that goes on; by default it is another one than those that made them.

    Attributes:
        entries: The batches, in order.
        journal: The same journal.
        records: The same number.
        run: The same name.

    Raises:
        InputError: If the journal is damaged.
    """

    def __init__(self, journal: Store, records: int | None = None, run: str | None = None) -> None:
        chain = journal.chain
        self.run = run
        self.journal, self.records = journal, len(chain.records) if records is None else records
        self._store = Store(chain.first(self.records))
        self.entries: Entries = self._store.entries()
        self._fingerprint = chain.header["fingerprint"]
        self._layers = chain.header["layers"]
        self._names = list(chain.header["weights"])

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any], path: Path, settings: Mapping[str, Any]) -> "Resume":
        """What a checkpoint points at. Settings that differ from the present ones are reported as warnings.

        Args:
            checkpoint: Its content.
            path: Its file.
            settings: The present settings.

        Raises:
            InputError: If it is not an aeplus checkpoint, it or its journal is damaged or missing, or edits have been
                taken out of the journal since.
        """
        notes = checkpoint.get(NOTES) if isinstance(checkpoint, Mapping) else None
        if not isinstance(notes, dict) or not {"journal", "records", "edits", "head", "seal"} <= notes.keys():
            msg = "expected an aeplus checkpoint, got one without edits; give one from lightning_logs/…/checkpoints."
            raise InputError(msg)
        if notes["seal"] != seal(checkpoint):
            msg = f"expected {path} as it was written, got a damaged checkpoint; take another, or restore a copy."
            raise InputError(msg)
        for line in differences(notes["settings"], dict(settings)):
            warnings.warn(f"the checkpoint was made with {line}; the present value is used", stacklevel=2)
        folders = [path.absolute().parent.parent / "journal", Path(notes["journal"])]
        journal = next((found for folder in folders if (found := _journal_of(folder, notes)) is not None), None)
        if journal is None:
            msg = (
                f"expected the journal of {path} in {folders[0]}, which holds the edits, got none, or another; keep "
                "the run's folder together."
            )
            raise InputError(msg)
        count = notes["records"]
        if any(_takes_from(record, count) for record in journal.chain.records[count:]):
            msg = (
                f"expected a journal as {path} left it, got one that edits were taken out of since; go on from the "
                "journal instead: --model.journal."
            )
            raise InputError(msg)
        return cls(journal, count, notes.get("run"))

    def left_behind(self, folder: Path) -> list[Record]:
        """The batches that a journal has beyond those that count, which a run that goes on in it takes out of it first.

        Args:
            folder: Where the run writes its journal. In another one than that of its edits there are none.

        Raises:
            InputError: If another run made one of them.
        """
        if self.journal.folder.resolve() != folder.resolve():
            return []
        later = [record for record, _ in self.journal.active if record.number > self.records]
        foreign = [record for record in later if record.content.get("run") != self.run]
        if foreign:
            msg = (
                f"expected no edits of another run behind those of the checkpoint in the journal {folder}, got entry "
                f"{foreign[0].number}; leave the checkpoint out to go on after them, or give --model.journal a new "
                "folder to go on without them."
            )
            raise InputError(msg)
        return later

    def move(self, folder: Path) -> None:
        """Reads updates from a copy of the journal from now on, so that the run needs no other folder than its own.

        Args:
            folder: The copy's.
        """
        self._store.chain.folder = folder

    @property
    def requests(self) -> list[EditRequest]:
        """The edits, in order."""
        return [request_from(edit) for entry in self.entries for edit in entry.edits]

    @property
    def undone(self) -> list[tuple[int, EditRequest]]:
        """The edits that were taken out, each with the entry of the journal that took it out."""
        records = self._store.chain.records
        return [
            (record.number, request_from(records[int(name) - 1].content["edits"][index]))
            for record in records
            if record.kind == "undo"
            for name, edits in record.content["takes"].items()
            for index in edits
        ]

    def check_cursor(self, cursor: int) -> None:
        """The stream goes on after the last of these edits.

        Args:
            cursor: How many edits of the stream are committed.

        Raises:
            InputError: If it does not.
        """
        edits = sum(len(entry.edits) for entry in self.entries)
        if cursor != edits:
            msg = (
                f"expected to go on after the {counted(edits, 'edit')} of the journal, got a checkpoint that goes on "
                f"after {cursor}; take another, or restore a copy."
            )
            raise InputError(msg)

    def check(
        self,
        model: str,
        fingerprint: str,
        layers: list[int],
        requests: Sequence[EditRequest],
        names: Sequence[str] | None = None,
        edited_dtype: str | None = None,
    ) -> None:
        """The edits belong to this model and these layers, and are the first ones of the stream.

        Args:
            model: Name of the model.
            fingerprint: That of its unedited weights.
            layers: The layers that are edited.
            requests: The stream.
            names: Names of the edited weights.
            edited_dtype: As the model is edited; weights in half precision are others in float32.

        Raises:
            InputError: If they are not.
        """
        before = self.journal.chain.header.get("edited_dtype")
        if fingerprint != self._fingerprint and edited_dtype not in (None, before):
            msg = f"expected model.edited_dtype {before}, as for the edits before, got {edited_dtype}; set it as then."
            raise InputError(msg)
        if fingerprint != self._fingerprint:
            msg = (
                f"expected edits of the weights of {model}, got edits of other weights; resume with the "
                "model that the run began with."
            )
            raise InputError(msg)
        if self._layers != layers:
            msg = f"expected model.layers {self._layers}, which were edited before, got {layers}; resume with those."
            raise InputError(msg)
        if names is not None and self._names and self._names != list(names):
            msg = f"expected edits of {', '.join(names)}, got some of {', '.join(self._names)}; set model.site as then."
            raise InputError(msg)
        edits = [edit for entry in self.entries for edit in entry.edits]
        # Chat templates may write the date: what counts is the prompt as it was read.
        done = [(e.get("asked") or e["prompt"], e["subject"], e["target_new"]) for e in edits]
        if done != [(r.asked or r.prompt, r.subject, r.target_new) for r in requests[: len(done)]]:
            msg = (
                f"expected the {counted(len(done), 'edit')} made before as the first ones of the data, got others; "
                "resume with the data the run began with (further edits may follow at the end)."
            )
            raise InputError(msg)


def notes_of(journal: Store | None, run: str, edits: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its run, but for the seal.

    Args:
        journal: The run's journal.
        run: What the run is called in it.
        edits: How many edits are committed.
        settings: The present settings.

    Raises:
        InputError: If the run keeps no journal.
    """
    if journal is None:
        msg = "expected a run with a journal, which checkpoints point at, got none; save within trainer.fit."
        raise InputError(msg)
    chain = journal.chain
    return {
        "journal": str(journal.folder.absolute()),
        "records": len(chain.records),
        "head": chain.head,
        "run": run,
        "edits": edits,
        "settings": dict(settings),
    }


def seal(checkpoint: Mapping[str, Any]) -> str:
    """A digest of all of a checkpoint that a run is resumed from."""
    state = hashlib.blake2b(digest_size=16)
    for name in _SEALED:
        content = checkpoint.get(name)
        if name == NOTES and isinstance(content, dict):
            content = {key: value for key, value in content.items() if key != "seal"}
        _add(state, content)
    return state.hexdigest()


def _add(state: Any, value: Any) -> None:
    """Adds nested plain values and tensors, each with its type."""
    state.update(type(value).__name__.encode() + b"\x1f")
    if isinstance(value, Mapping):
        for key in value:
            _add(state, key)
            _add(state, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _add(state, item)
    elif isinstance(value, Tensor):
        state.update(tensors_digest({"": value}).encode())
    else:
        state.update(repr(value).encode())
    state.update(b"\x1e")


def _takes_from(record: Record, count: int) -> bool:
    """Whether a record takes edits out of the first ones."""
    return record.kind == "undo" and any(int(number) <= count for number in record.content["takes"])


def _journal_of(folder: Path, notes: Mapping[str, Any]) -> Store | None:
    """The journal of a checkpoint, if a folder holds it."""
    if not (folder / HEADER).is_file():
        return None
    store, count = Store.open(folder), notes["records"]
    return store if count <= len(store.chain.records) and store.chain.first(count).head == notes["head"] else None


def differences(saved: dict[str, Any], present: dict[str, Any], prefix: str = "") -> list[str]:
    """Where present settings differ from saved ones, a line each."""
    lines = []
    for name, value in present.items():
        before = saved.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            lines += differences(before, value, f"{prefix}{name}.")
        elif before != value:
            lines.append(f"{prefix}{name} = {before} and now it is {value}")
    return lines

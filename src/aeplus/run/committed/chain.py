"""A journal on disk: a header and numbered records, each bound to the one before by its digest.

``journal.json`` says which model the edits belong to. Record N is ``00000N.json``, with ``00000N.safetensors`` where it
is a batch. The JSON file, which is written last, holds the digest of the tensors and that of the record before, so a
record is there as a whole or not at all, and none can be altered, exchanged, or dropped before others unnoticed. What
has lost its last records is a whole, shorter journal: a checkpoint or the count of edits shows it. Nothing is ever
changed in place: taking edits out is a record too. Only JSON and safetensors are read; nothing is executed.

Kinds of records: ``batch``; ``undo``, which takes edits out (``takes``) and may put records in their place (``by``);
``replayed``, a batch that counts only once an ``undo`` names it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.run.committed.entries import Entry
from aeplus.utils.cache import DIGEST, digest, load_tensors, save_tensors
from aeplus.utils.jsonl import json_text, read_json, read_utf8, write_json
from aeplus.utils.paths import LOCK, check_output

HEADER = "journal.json"
_FORMAT = "aeplus journal 1"
_KINDS = ("batch", "undo", "replayed")


@dataclass(frozen=True)
class Record:
    """A record of a chain.

    Attributes:
        number: Its number, from 1.
        kind: ``batch``, ``undo`` or ``replayed``.
        content: What it says, as plain values.
        digest: The digest of all of it.
    """

    number: int
    kind: str
    content: dict[str, Any]
    digest: str


class Chain:
    """The records of a folder.

    Args:
        folder: The folder.
        header: Its header.
        records: Its records.
    """

    def __init__(self, folder: Path, header: dict[str, Any], records: Sequence[Record] = ()) -> None:
        self.folder, self.header, self.records = folder, header, list(records)
        self._read: tuple[int, Entry] | None = None  # the batch read last: its layers are asked for one by one

    @classmethod
    def create(cls, folder: Path, header: dict[str, Any]) -> "Chain":
        """A chain without records in a new folder.

        Raises:
            InputError: If a journal is there already, or the folder cannot be written.
        """
        cls.check_new(folder)
        content = _as_read({"format": _FORMAT, "aeplus": version("aeplus"), "created": _now(), **header})
        write_json(folder / HEADER, content | {"digest": digest(content)}, mark=False)
        return cls(folder, content)

    @staticmethod
    def check_new(folder: Path) -> None:
        """A new journal may be made there; to be asked before the work.

        Raises:
            InputError: If a journal is there already, or something that aeplus did not write, or the place cannot be
                written.
        """
        if (folder / HEADER).exists():
            msg = f"expected a folder without a journal, got {folder}, which has one; choose another."
            raise InputError(msg)
        if not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir()):
            check_output(folder, "the journal", folder=True)
        elif not os.access(folder, os.W_OK | os.X_OK):
            msg = f"expected a place that can be written for the journal, got {folder}; check its permissions."
            raise InputError(msg)

    @classmethod
    def open(cls, folder: Path) -> "Chain":
        """The chain of a folder, with every digest checked but those of the tensors.

        Raises:
            InputError: If there is no journal, or a record is damaged or missing; the message names the first.
        """
        if not (folder / HEADER).is_file():
            msg = f"expected a journal in {folder}, got no {HEADER}; give a run's folder, or its folder journal."
            raise InputError(msg)
        header = _checked(folder / HEADER, "the header")
        if header.get("format") != _FORMAT:
            msg = (
                f"expected {_FORMAT!r} in {folder / HEADER}, got {header.get('format')!r}; use the aeplus that made it."
            )
            raise InputError(msg)
        chain = cls(folder, header)
        numbers = sorted(int(path.stem) for path in folder.glob("[0-9]*.json") if path.stem.isdigit())
        for expected, number in enumerate(numbers, start=1):
            if number != expected:
                msg = f"expected record {expected} in {folder}, got none before record {number}; restore a copy of it."
                raise InputError(msg)
            content = _checked(chain.path(number), f"record {number}")
            known = content.get("kind") in _KINDS and content.get("number") == number
            if not known or content.get("previous") != chain.head:
                raise _damaged(chain.path(number), f"record {number}", "it does not continue the one before")
            chain.records.append(Record(number, content["kind"], content, content["digest"]))
        return chain

    def first(self, records: int) -> "Chain":
        """The chain as it was after some records."""
        return Chain(self.folder, self.header, self.records[:records])

    @property
    def head(self) -> str:
        """The digest of the last record, or of the header where there is none."""
        if self.records:
            return self.records[-1].digest
        return digest({name: value for name, value in self.header.items() if name != "digest"})

    def path(self, number: int, suffix: str = ".json") -> Path:
        """A file of a record."""
        return self.folder / f"{number:06}{suffix}"

    def append(self, kind: str, content: dict[str, Any], entry: Entry | None = None) -> Record:
        """Writes one more record: the tensors first, then what makes them count.

        Args:
            kind: Its kind.
            content: What it says.
            entry: The batch, for a ``batch`` or ``replayed``.

        Raises:
            InputError: If it cannot be written; the chain is then as before.
        """
        number = len(self.records) + 1
        if self.path(number).exists():
            msg = f"expected to write {self.path(number)}, got a file of another run there; give each its own journal."
            raise InputError(msg)
        full: dict[str, Any] = {
            "number": number,
            "kind": kind,
            "previous": self.head,
            "time": _now(),
            "aeplus": version("aeplus"),
        }
        full |= content
        if entry is not None:
            tensors = entry.tensors()
            found = save_tensors(self.path(number, ".safetensors"), tensors, {"record": str(number)})
            full |= {
                "edits": entry.edits,
                "layers": list(entry.updates),
                "report": entry.report,
                "tensors": found,
                "names": sorted(tensors),
            }
        full = _as_read(full)
        seal = digest(full)
        try:
            write_json(self.path(number), full | {"digest": seal}, mark=False)
        except BaseException:  # what nothing will count takes the space that an undo needs
            self.path(number, ".safetensors").unlink(missing_ok=True)
            raise
        record = Record(number, kind, full | {"digest": seal}, seal)
        self.records.append(record)
        return record

    def entry(self, record: Record) -> Entry:
        """The batch of a record.

        Raises:
            InputError: If its tensors are missing or damaged.
        """
        if self._read is None or self._read[0] != record.number:
            self._read = record.number, self._entry(record)
        return self._read[1]

    def _entry(self, record: Record) -> Entry:
        path, content = self.path(record.number, ".safetensors"), record.content
        if not path.is_file():
            raise _damaged(path, f"record {record.number}", "there is no such file")
        try:
            tensors, found = load_tensors(path, content["names"], {}, f"record {record.number}")
        except InputError as error:
            raise _damaged(path, f"record {record.number}", "its tensors cannot be read or have changed") from error
        if found[DIGEST] != content["tensors"]:
            raise _damaged(path, f"record {record.number}", "its tensors are those of another")
        return Entry.restore(content["edits"], content["layers"], content["report"], tensors)

    def bytes(self, record: Record) -> int:
        """What a record takes on the disk."""
        files = (self.path(record.number), self.path(record.number, ".safetensors"))
        return sum(path.stat().st_size for path in files if path.exists())

    def copy(self, folder: Path, records: int) -> "Chain":
        """The same chain up to a record in a new folder; files are linked where the file system can.

        Raises:
            InputError: If a journal is there already, or the folder cannot be written.
        """
        self.check_new(folder)
        names = [f"{number:06}{suffix}" for number in range(1, records + 1) for suffix in (".safetensors", ".json")]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (*names, HEADER):
                if (self.folder / name).exists():
                    _link(self.folder / name, folder / name)
        except OSError as error:
            msg = f"expected to write {folder}, got an error ({error.strerror}); free space there or choose another."
            raise InputError(msg) from error
        return Chain(folder, self.header, self.records[:records])


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        target.write_bytes(source.read_bytes())


def _checked(path: Path, name: str) -> dict[str, Any]:
    try:
        content = read_json(path, name)
    except InputError as error:
        raise _damaged(path, name, "it is not JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, name, "it is no object")
    plain = {key: value for key, value in content.items() if key != "digest"}
    # 1e-5 and 1E-5 are one value, but a changed file.
    if content.get("digest") not in (digest(plain), digest(_by_number(plain))) or read_utf8(path, name) != json_text(
        content
    ):
        raise _damaged(path, name, "its digest differs")
    return content


def _as_read(content: dict[str, Any]) -> dict[str, Any]:
    """What will be read again: keys that are numbers are texts then, and in another order."""
    read: dict[str, Any] = json.loads(json_text(content))
    return read


def _by_number(content: Any) -> Any:
    """The same with keys that are numbers as numbers, by which records were digested until aeplus 0.1."""
    if isinstance(content, list):
        return [_by_number(item) for item in content]
    if not isinstance(content, dict):
        return content
    numbers = bool(content) and all(key.isdecimal() for key in content)
    return {int(key) if numbers else key: _by_number(value) for key, value in content.items()}


def _damaged(path: Path, name: str, why: str) -> InputError:
    return InputError(
        f"expected {name} of the journal as it was written, got a damaged {path} ({why}); restore a copy of it."
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

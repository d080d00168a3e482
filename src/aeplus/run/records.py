"""``edits.jsonl``: what a run keeps of every edit."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from aeplus.errors import InputError
from aeplus.evaluation.questions import Success
from aeplus.utils.paths import whole_file

FILE = "edits.jsonl"


@dataclass
class EditRecord:
    """One edit of a run.

    Attributes:
        edit: Its place in the stream, from 1.
        id: What the source calls it.
        batch: Its batch, from 1.
        prompt: The prompt with the subject in its place.
        subject: The subject.
        target: The target.
        s_K0: s(k, K0) when it was made, mean over the edited layers.
        s_Kp: s(k, Kp), likewise; 0 in the first batch.
        residual: ‖r‖ at the last edited layer; ``None`` for a method without targets.
        smoothed: Whether it was among those of its batch whose targets are smoothed.
        superseded: Whether a later batch edits its fact again; it is then no longer expected to hold.
        before: Its success on the unedited model.
        after: Its success at the end of the run; ``None`` while the run goes on.
    """

    edit: int
    id: str
    batch: int
    prompt: str
    subject: str
    target: str
    s_K0: float
    s_Kp: float
    residual: float | None
    smoothed: bool
    superseded: bool = False
    before: Success | None = None
    after: Success | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)

    def score(self, name: str = "score") -> float | None:
        """The success at the end that counts: none of an edit that is not expected to hold."""
        return None if self.superseded or self.after is None else self.after.get(name)


def write_records(records: Sequence[EditRecord], folder: Path) -> None:
    """Writes :data:`FILE` into a run's folder: all of it, or nothing.

    Raises:
        InputError: If it cannot be written.
    """
    with whole_file(folder / FILE) as scratch:
        lines = (json.dumps(record.as_dict(), ensure_ascii=False) + "\n" for record in records)
        scratch.write_text("".join(lines), encoding="utf-8")


def read_records(folder: Path) -> list[EditRecord]:
    """What :func:`write_records` wrote into a run's folder; nothing if there is no such file.

    Raises:
        InputError: If a line is none of ours.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    names = {field.name for field in fields(EditRecord)}
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
            records.append(EditRecord(**{name: values[name] for name in names}))
        except (ValueError, KeyError, TypeError) as error:
            msg = f"expected a record of FigureWriter in {path}, line {number}, but it is damaged; make the run again."
            raise InputError(msg) from error
    return records

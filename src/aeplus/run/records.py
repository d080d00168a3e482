"""The records of ``edits.jsonl``: what a run keeps of every edit; and which are the most conflicting."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from aeplus.errors import InputError
from aeplus.evaluation.questions import Success
from aeplus.utils.jsonl import read_jsonl, write_jsonl

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
        superseded: Whether a later edit gives its fact another answer; it is then no longer expected to hold.
        before: Its success on the unedited model.
        after: Its success at the end of the run; ``None`` before.
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
    write_jsonl(folder / FILE, (record.as_dict() for record in records))


def read_records(folder: Path) -> list[EditRecord]:
    """What :func:`write_records` wrote into a run's folder; nothing if there is no such file.

    Raises:
        InputError: If a line is not a record of aeplus.
    """
    path = folder / FILE
    if not path.exists():
        return []
    names = {field.name for field in fields(EditRecord)}
    records = []
    for number, values in read_jsonl(path, "records of FigureWriter"):
        try:
            records.append(EditRecord(**{name: values[name] for name in names}))
        except (KeyError, TypeError) as error:
            msg = f"expected a record of FigureWriter in {path}, line {number}, got a damaged one; make the run again."
            raise InputError(msg) from error
    return records


def conflict_order(*columns: Sequence[float | None]) -> list[int]:
    """The indices of edits, the most conflicting first: by the mean of their ranks in every column.

    Ranks make quantities of different scales comparable. ``None`` has no rank; equal values share one.
    """
    count = len(columns[0])
    total, known = np.zeros(count), np.zeros(count)
    for column in columns:
        values = np.array([np.nan if value is None else value for value in column], dtype=float)
        finite = np.isfinite(values)
        ordered = np.sort(values[finite])
        ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
        total[finite] += ranks[finite] / max(len(ordered), 1)
        known[finite] += 1
    mean = total / np.maximum(known, 1)
    return sorted(range(count), key=lambda i: (-mean[i], i))

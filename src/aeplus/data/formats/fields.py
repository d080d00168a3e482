"""Fields of records, as every format reads them; one that cannot be used is refused by its name.

Prompts and answers are kept as they are written, whitespace included; other strings lose the whitespace at their ends.
A number may stand for an answer. ``None``, NaN, an empty string and an empty list count as missing: a column of a table
cannot be left out.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aeplus.edits import SLOT
from aeplus.errors import InputError
from aeplus.texts import find_word

Target = Literal["answers", "alt", "text"]
"""Which field of a record has the new answer; see :func:`aeplus.data.readers.read_requests`."""

Record = Mapping[str, Any]
"""An object as JSON gives it."""


# ---- what is not read


@dataclass
class Notes:
    """What reading leaves out.

    Attributes:
        lenient: Whether a test prompt that cannot be used is left out, rather than refused.
        dropped: Why each test prompt was left out.
        unread: Fields with content that no format reads, in their order.
    """

    lenient: bool = False
    dropped: list[str] = field(default_factory=list)
    unread: dict[str, None] = field(default_factory=dict)


class ReadRecord(Mapping[str, Any]):
    """A record that knows which of its fields were read.

    Args:
        record: The record.
        notes: Where left-out test prompts are noted.
        known: Collects the fields with content.
        read: Collects the fields that were read.
        path: Where the record stands in the whole one.
    """

    def __init__(self, record: Record, notes: Notes, known: dict[str, None], read: set[str], path: str = "") -> None:
        self._record, self.notes, self._known, self._read, self._path = record, notes, known, read, path
        known.update({f"{path}{name}": None for name, value in record.items() if not missing(value)})

    def __getitem__(self, name: str) -> Any:
        """The field's value; objects in it know likewise."""
        value = self._record[name]
        self._read.add(f"{self._path}{name}")
        return self._wrapped(value, f"{self._path}{name}.")

    def _wrapped(self, value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return ReadRecord(value, self.notes, self._known, self._read, path)
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            return [self._wrapped(item, path) for item in value]
        return value

    def __contains__(self, name: object) -> bool:
        """Whether there is such a field; it is not read by that."""
        return name in self._record

    def __iter__(self) -> Iterator[str]:
        """The names of the fields."""
        return iter(self._record)

    def __len__(self) -> int:
        """The number of fields."""
        return len(self._record)

    def __repr__(self) -> str:
        """As the record itself."""
        return repr(self._record)


@contextmanager
def tested(record: Record) -> Iterator[None]:
    """Within the block a test prompt is read: one that cannot be used loses itself where the reader is lenient.

    Raises:
        InputError: Where the reader is not.
    """
    try:
        yield
    except InputError as error:
        notes = getattr(record, "notes", None)
        if notes is None or not notes.lenient:
            raise
        notes.dropped.append(str(error))


# ---- values

_PANDAS = ("NAType", "NaTType")  # how pandas, which need not be there, calls what is missing


def plain_value(value: Any) -> Any:
    """A value as JSON would give it: of numpy's arrays and numbers the lists and numbers they hold.

    Raises:
        InputError: If it is nested too deeply.
    """
    try:
        return _plain(value)
    except RecursionError as error:
        msg = "expected fields nested a few levels deep, got one of hundreds of levels; correct it."
        raise InputError(msg) from error


def _plain(value: Any) -> Any:
    if not isinstance(value, str | Mapping) and callable(listed := getattr(value, "tolist", None)):
        value = listed()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def missing(value: Any) -> bool:
    """Whether a value says that there is none."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, str):
        return not value.strip()
    if value is None or type(value).__name__ in _PANDAS:
        return True
    return isinstance(value, list | tuple | Mapping) and not value


def number_text(value: Any) -> Any:
    """A number as text, whole ones without a point (tables make 1969 to 1969.0); a text that is one as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool) and not missing(value):
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    return value


def text(record: Record, field: str, name: str | None = None) -> str:
    """A field that must be a non-empty string, without whitespace at its ends.

    Args:
        record: The record.
        field: The field.
        name: What messages call it; by default its own name.

    Raises:
        InputError: If it is missing, empty or something else.
    """
    return written(record, field, name).strip()


def written(record: Record, field: str, name: str | None = None) -> str:
    """The same with its whitespace, for prompts.

    Raises:
        InputError: If it is missing, empty or something else.
    """
    return _string(record.get(field), name or repr(field))


def answer(record: Record, field: str, name: str | None = None) -> str:
    """A field that must hold an answer, a string or a number; its whitespace is kept.

    Raises:
        InputError: If it is missing, empty or something else.
    """
    return _string(number_text(record.get(field)), name or repr(field))


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        msg = f"expected {name} to be a non-empty string, got {value!r:.80}; fill it in."
        raise InputError(msg)
    return value


def texts(record: Record, field: str) -> tuple[str, ...]:
    """A field of prompts that may be missing, one string or a list of strings; empty ones are left out.

    Raises:
        InputError: If it is something else.
    """
    value = record.get(field)
    if missing(value):
        return ()
    found: list[str] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        with tested(record):
            if not missing(item):
                if not isinstance(item, str):
                    msg = f"expected {field!r} to be a string or a list of strings, got {value!r:.80}; correct it."
                    raise InputError(msg)
                found.append(item)
    return tuple(found)


def optional(record: Record, field: str) -> str | None:
    """The first string, or number, of a field that may be missing, without whitespace at its ends.

    Raises:
        InputError: If it is neither a string nor a list of strings.
    """
    value = record.get(field)
    if isinstance(value, list | tuple):
        value = next((item for item in value if not missing(item)), None)
    value = number_text(value)
    if missing(value):
        return None
    if not isinstance(value, str):
        msg = f"expected {field!r} to be a string or a list of strings, got {value!r:.80}; correct it."
        raise InputError(msg)
    return value.strip()


def objects(record: Record, field: str) -> list[Record]:
    """A field that may be missing, one object or a list of objects.

    Raises:
        InputError: If it is something else.
    """
    value = record.get(field)
    items = [value] if isinstance(value, Mapping) else [] if missing(value) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
        with tested(record):
            msg = f"expected {field!r} to be a list of objects, got {value!r:.80}; correct it."
            raise InputError(msg)
        items = [item for item in items if isinstance(item, Mapping)] if isinstance(items, list | tuple) else []
    return list(items)


def answers(record: Record, field: str) -> tuple[str, ...]:
    """A field with correct answers: a string, a number, a list of them or of lists of aliases; without duplicates.

    Raises:
        InputError: If it is something else.
    """
    strings: dict[str, None] = {}

    def collect(value: Any) -> None:
        value = number_text(value)
        if missing(value):
            return
        if isinstance(value, str):
            strings[value.strip()] = None
        elif isinstance(value, list | tuple):
            for item in value:
                collect(item)
        else:
            msg = f"expected {field!r} to contain strings or lists of strings, got {value!r:.80}; correct it."
            raise InputError(msg)

    collect(record.get(field))
    return tuple(strings)


# ---- where the subject stands


def placed(prompt: str, subject: str, field: str, slots: bool = True) -> tuple[str, str]:
    """A prompt with ``{}`` in place of the subject, and the subject as the prompt writes it.

    A prompt that has ``{}`` already is left as it is. In a complete one the subject is looked for as a word, whatever
    Unicode form either has. If it occurs several times, the last occurrence is replaced: there the decoder has read the
    most context, and an edit at an earlier one would change keys that the end of the prompt hardly attends to.

    Args:
        prompt: The prompt.
        subject: The subject.
        field: What messages call the prompt.
        slots: Whether a prompt may have ``{}``; some data sets have complete ones only.

    Raises:
        InputError: If the subject is not in a complete prompt or only inside another word, or ``{}`` stands beside it.
    """
    if slots and SLOT in prompt and not (SLOT in subject and find_word(prompt, subject) is not None):
        return prompt, subject
    found = find_word(prompt, subject)
    if found is None and subject in prompt:
        msg = (
            f"expected {field!r} to contain the subject {subject!r} as a word, got {prompt!r}, where it is a part of "
            f"another; correct either, or write {SLOT} in its place."
        )
        raise InputError(msg)
    if found is None:
        msg = f"expected {field!r} to contain the subject {subject!r}, got {prompt!r}; correct either."
        raise InputError(msg)
    before, name, after = prompt[: found[0]], prompt[slice(*found)], prompt[found[1] :]
    if SLOT in before or SLOT in after:
        msg = f"expected {field!r} without {SLOT}, which marks the subject's position, got {prompt!r}; reword it."
        raise InputError(msg)
    return before + SLOT + after, name

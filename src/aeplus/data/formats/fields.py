"""Fields of records, as every format reads them; one that cannot be used is refused by its name.

Strings lose the whitespace at their ends: a prompt that ends in a space is split into other tokens than the model was
trained on. A field that is ``None`` counts as missing: a column of a table cannot be left out.
"""

from collections.abc import Mapping
from typing import Any, Literal

from aeplus.edits import SLOT
from aeplus.errors import InputError

Target = Literal["answers", "alt"]
"""Which field of a ZsRE record has the new answer; see :func:`aeplus.data.readers.read_requests`."""

Record = Mapping[str, Any]
"""An object as JSON gives it."""


def text(record: Record, field: str, name: str | None = None) -> str:
    """A field that must be a non-empty string, without whitespace at its ends.

    Args:
        record: The record.
        field: The field.
        name: What messages call it; by default its own name.

    Raises:
        InputError: If it is missing, empty or something else.
    """
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        msg = f"expected {name or repr(field)} to be a non-empty string, got {value!r:.80}; fill it in."
        raise InputError(msg)
    return value.strip()


def texts(record: Record, field: str) -> tuple[str, ...]:
    """A field that may be missing, one string or a list of strings; empty ones are left out.

    Raises:
        InputError: If it is something else.
    """
    value = record.get(field)
    items = [value] if isinstance(value, str) else value or []
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        msg = f"expected {field!r} to be a string or a list of strings, got {value!r:.80}; correct it."
        raise InputError(msg)
    return tuple(item.strip() for item in items if item.strip())


def optional(record: Record, field: str) -> str | None:
    """The first string of a field that may be missing.

    Raises:
        InputError: If it is neither a string nor a list of strings.
    """
    return next(iter(texts(record, field)), None)


def objects(record: Record, field: str) -> list[Record]:
    """A field that may be missing, one object or a list of objects.

    Raises:
        InputError: If it is something else.
    """
    value = record.get(field)
    items = [value] if isinstance(value, Mapping) else value or []
    if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
        msg = f"expected {field!r} to be a list of objects, got {value!r:.80}; correct it."
        raise InputError(msg)
    return list(items)


def answers(record: Record, field: str) -> tuple[str, ...]:
    """A field with correct answers: a string, a list of strings or of lists of aliases; in order, without duplicates.

    Raises:
        InputError: If it is something else.
    """
    strings: dict[str, None] = {}

    def collect(value: Any) -> None:
        if isinstance(value, str):
            strings.update({value.strip(): None} if value.strip() else {})
        elif isinstance(value, list | tuple):
            for item in value:
                collect(item)
        elif value is not None:
            msg = f"expected {field!r} to contain strings or lists of strings, got {value!r:.80}; correct it."
            raise InputError(msg)

    collect(record.get(field))
    return tuple(strings)


def slotted(prompt: str, subject: str, field: str) -> str:
    """Replaces the subject of a complete prompt with ``{}``.

    If it occurs several times, the last occurrence is replaced: there the decoder has read the most context, and an
    edit at an earlier one would change keys that the end of the prompt hardly attends to.

    Raises:
        InputError: If the subject is not in it, or it contains ``{}`` elsewhere.
    """
    if subject not in prompt:
        msg = f"expected {field!r} to contain the subject {subject!r}, got {prompt!r}; correct either."
        raise InputError(msg)
    start = prompt.rindex(subject)
    before, after = prompt[:start], prompt[start + len(subject) :]
    if SLOT in before or SLOT in after:
        msg = f"expected {field!r} without {SLOT}, which marks the subject's position, got {prompt!r}; reword it."
        raise InputError(msg)
    return before + SLOT + after


def with_slot(prompt: str, subject: str, field: str) -> str:
    """A prompt with ``{}`` in place of the subject: as it is if it has one already, else :func:`slotted`.

    Raises:
        InputError: See :func:`slotted`.
    """
    complete = SLOT not in prompt or (SLOT in subject and subject in prompt)
    return slotted(prompt, subject, field) if complete else prompt

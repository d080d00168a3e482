"""What the formats have in common: fields of records, each refused by its name where it cannot be used.

Texts lose the blanks at their ends: a prompt that ends in one is split into other tokens than the model was trained
on. A field that is ``None`` counts as missing, as columns of a table have to.
"""

from collections.abc import Mapping
from typing import Any, Literal

from aeplus.edits import SLOT
from aeplus.errors import InputError

Target = Literal["answers", "alt"]
"""Where ZsRE's records have the new answer; see :func:`aeplus.data.readers.read_requests`."""

Record = Mapping[str, Any]
"""An object as JSON gives it."""


def text(record: Record, field: str, name: str | None = None) -> str:
    """A field that must hold a text, without blanks at its ends.

    Args:
        record: The record.
        field: The field.
        name: What messages call it, if not by its name.

    Raises:
        InputError: If it is missing, empty or something else.
    """
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        msg = f"{name or repr(field)} must be a text that is not empty, but is {value!r:.80}; fill it in."
        raise InputError(msg)
    return value.strip()


def texts(record: Record, field: str) -> tuple[str, ...]:
    """A field that may be missing, one text or a list of texts; empty texts are left out.

    Raises:
        InputError: If it is something else.
    """
    value = record.get(field)
    items = [value] if isinstance(value, str) else value or []
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        msg = f"{field!r} must be a text or a list of texts, but is {value!r:.80}; correct it."
        raise InputError(msg)
    return tuple(item.strip() for item in items if item.strip())


def optional(record: Record, field: str) -> str | None:
    """The first text of a field that may be missing.

    Raises:
        InputError: If it is neither a text nor a list of texts.
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
        msg = f"{field!r} must be a list of objects, but is {value!r:.80}; correct it."
        raise InputError(msg)
    return list(items)


def answers(record: Record, field: str) -> tuple[str, ...]:
    """A field with right answers: a text, a list of texts or lists of them with aliases. Each comes once, in order.

    Raises:
        InputError: If it is something else.
    """
    found: dict[str, None] = {}

    def collect(value: Any) -> None:
        if isinstance(value, str):
            found.update({value.strip(): None} if value.strip() else {})
        elif isinstance(value, list | tuple):
            for item in value:
                collect(item)
        elif value is not None:
            msg = f"{field!r} must hold texts or lists of texts, but holds {value!r:.80}; correct it."
            raise InputError(msg)

    collect(record.get(field))
    return tuple(found)


def slotted(prompt: str, subject: str, field: str) -> str:
    """Put ``{}`` where the subject stands in a complete prompt.

    Of several occurrences the last: a decoder has read the whole subject there, and what else the text says
    before it; an edit at an earlier one would change keys that the text's end hardly looks at.

    Raises:
        InputError: If the subject is not in it, or it holds ``{}`` elsewhere.
    """
    if subject not in prompt:
        msg = f"{field!r} must hold the subject {subject!r}, but is {prompt!r}; correct either."
        raise InputError(msg)
    start = prompt.rindex(subject)
    before, after = prompt[:start], prompt[start + len(subject) :]
    if SLOT in before or SLOT in after:
        msg = f"{field!r} may not hold {SLOT}, which marks the subject's place, but is {prompt!r}; reword it."
        raise InputError(msg)
    return before + SLOT + after


def with_slot(prompt: str, subject: str, field: str) -> str:
    """A prompt that has its ``{}`` already as it is, a complete one with ``{}`` where the subject stands.

    Raises:
        InputError: See :func:`slotted`.
    """
    complete = SLOT not in prompt or (SLOT in subject and subject in prompt)
    return slotted(prompt, subject, field) if complete else prompt

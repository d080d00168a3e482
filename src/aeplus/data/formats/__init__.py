"""The formats of edits, a module each: ``NAME``, ``recognizes(record)`` and ``parse(record, target)``.

A record may make several edits. Fields that a format does not define are ignored.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from aeplus.data.formats import counterfact, knowedit, mquake, plain, ripple, zsre
from aeplus.data.formats.fields import Target
from aeplus.edits import EditRequest
from aeplus.errors import InputError

# The first that fits decides: KnowEdit has all fields of the plain format, and more.
FORMATS: tuple[ModuleType, ...] = (counterfact, mquake, ripple, zsre, knowedit, plain)


def parse_record(record: Any, target: Target = "answers") -> list[EditRequest]:
    """The edits of a record, whose format is detected by its fields.

    Args:
        record: The record as JSON gives it.
        target: See :func:`aeplus.data.readers.read_requests`.

    Raises:
        InputError: If it has no known format, or a field cannot be used.
    """
    names = f"{', '.join(form.NAME for form in FORMATS[:-1])} or {FORMATS[-1].NAME}"
    if not isinstance(record, Mapping):
        msg = f"expected an object with the fields of a format, {names}, got {record!r:.80}; correct it."
        raise InputError(msg)
    for form in FORMATS:
        if form.recognizes(record):
            edits: list[EditRequest] = form.parse(record, target)
            return edits
    fields = ", ".join(map(str, record)) or "no fields"
    msg = f"expected the fields of a format, {names}, got {fields}; rename its fields."
    raise InputError(msg)

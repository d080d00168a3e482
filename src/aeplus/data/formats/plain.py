"""The plain format, for your own edits: the fields of an edit under their names."""

from collections.abc import Mapping
from typing import Any

from aeplus.data.formats.fields import Record, Target, optional, text, texts, with_slot
from aeplus.edits import EditRequest, Probe
from aeplus.errors import InputError

NAME = "plain (prompt, subject, target_new)"


def recognizes(record: Record) -> bool:
    """Whether a record has the plain format. A missing subject is reported when it is parsed."""
    return {"prompt", "target_new"} <= record.keys()


def parse(record: Record, target: Target) -> list[EditRequest]:
    """The edit of a plain record. A prompt without ``{}`` is complete and must contain the subject.

    Args:
        record: ``prompt``, ``subject``, ``target_new``, and optionally every other field of
            :class:`~aeplus.edits.EditRequest`.
        target: Not used.

    Raises:
        InputError: If a field cannot be used.
    """
    prompt, subject = text(record, "prompt"), text(record, "subject")
    return [
        EditRequest(
            prompt=with_slot(prompt, subject, "prompt"),
            subject=subject,
            target_new=text(record, "target_new"),
            rephrase=texts(record, "rephrase"),
            neighborhood=_probes(record, "neighborhood"),
            axes=_probes(record, "axes"),
            generation=texts(record, "generation"),
            aliases=texts(record, "aliases"),
            target_true=optional(record, "target_true"),
            fact=optional(record, "fact") or "",
            case=optional(record, "case") or "",
        )
    ]


def _probes(record: Record, field: str) -> tuple[Probe, ...]:
    value = record.get(field)
    items = [value] if isinstance(value, str) else value or []
    if not isinstance(items, list | tuple):
        items = [items]
    return tuple(_probe(item, field) for item in items)


def _probe(item: Any, field: str) -> Probe:
    if isinstance(item, str) and item.strip():
        return Probe(item.strip())
    if isinstance(item, Mapping):
        prompt = text(item, "prompt", f"prompt of {field!r}")
        return Probe(prompt, optional(item, "answer"), texts(item, "aliases"), optional(item, "axis") or "")
    msg = f"expected {field!r} to list strings or objects with prompt and answer, got {item!r:.80}; correct it."
    raise InputError(msg)

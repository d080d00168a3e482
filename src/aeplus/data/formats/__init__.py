"""The formats of edits, a module each: ``NAME``, ``recognizes(record)`` and ``parse(record, target)``.

A record may make several edits. ``IGNORED`` names fields of a format that describe the record and nothing else; any
other field that is not read is noted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from aeplus.data.formats import (
    counterfact,
    halluedit,
    knowedit,
    mquake,
    plain,
    qaedit,
    ripple,
    unke,
    wikibigedit,
    zsre,
)
from aeplus.data.formats.fields import Notes, ReadRecord, Target, optional, plain_value
from aeplus.edits import SLOT, EditRequest, Probe
from aeplus.errors import InputError
from aeplus.texts import tidied

# The first that fits decides: KnowEdit has all fields of the plain format, and more. A record that names prompt and
# target_new is of one of these two, whatever further columns its table has.
FORMATS: tuple[ModuleType, ...] = (
    counterfact, mquake, ripple, zsre, wikibigedit, halluedit, unke, knowedit, qaedit, plain,
)  # fmt: skip
_NAMES = frozenset(("id", "case_id", "join"))


def parse_record(
    record: Any, target: Target = "answers", join: str = "auto", notes: Notes | None = None
) -> list[EditRequest]:
    """The edits of a record, whose format is detected by its fields.

    Args:
        record: The record as JSON gives it.
        target: See :func:`aeplus.data.readers.read_requests`.
        join: How prompt and answer are joined where the record's field ``join`` does not say; see
            :func:`aeplus.texts.separator`.
        notes: Where to note what is not read.

    Raises:
        InputError: If it has no known format, or a field cannot be used.
    """
    names = f"{', '.join(form.NAME for form in FORMATS[:-1])} or {FORMATS[-1].NAME}"
    if not isinstance(record, Mapping):
        msg = f"expected an object with the fields of a format, {names}, got {record!r:.80}; correct it."
        raise InputError(msg)
    record = plain_value(record)
    notes = notes or Notes()
    known: dict[str, None] = {}
    read: set[str] = set()
    fields = ReadRecord(record, notes, known, read)
    for form in (knowedit, plain) if plain.recognizes(record) else FORMATS:
        if form.recognizes(record):
            rule = optional(record, "join") or join
            edits: list[EditRequest] = [_tidied(replace(edit, join=rule)) for edit in form.parse(fields, target)]
            unread = [name for name in known if name not in read and not _ignored(form, name)]
            notes.unread.update(dict.fromkeys(unread))
            return edits
    columns = ", ".join(map(str, record)) or "no fields"
    msg = f"expected the fields of a format, {names}, got {columns}; rename its fields."
    raise InputError(msg)


def _ignored(form: ModuleType, name: str) -> bool:
    """Whether a field describes its record and nothing else."""
    name = name.rpartition(".")[2]
    return name in _NAMES or name in form.IGNORED


def _tidied(edit: EditRequest) -> EditRequest:
    """The edit without spaces that joining puts back anyway; see :func:`aeplus.texts.tidied`."""
    question, target = tidied(edit.question, edit.target_new, edit.join)
    removed = len(edit.question) - len(question)
    prompt = edit.prompt[: len(edit.prompt) - removed] if removed else edit.prompt

    def probe(item: Probe) -> Probe:
        if item.answer is None:
            return replace(item, prompt=tidied(item.prompt, edit.target_new, edit.join)[0])
        text, answer = tidied(item.prompt, item.answer, edit.join)
        return replace(item, prompt=text, answer=answer)

    def prompts(found: Sequence[str]) -> tuple[str, ...]:
        return tuple(tidied(text, edit.target_new, edit.join)[0] for text in found)

    if SLOT not in prompt:  # spaces at its end that belong to the subject
        prompt = edit.prompt
    return replace(
        edit,
        prompt=prompt,
        target_new=target,
        rephrase=prompts(edit.rephrase),
        openings=prompts(edit.openings),
        statements=prompts(edit.statements),
        generation=prompts(edit.generation),
        neighborhood=tuple(map(probe, edit.neighborhood)),
        axes=tuple(map(probe, edit.axes)),
    )
